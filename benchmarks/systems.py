"""The systems that are measured: embatch in its precisions, and its peers at their defaults and at better settings.

A peer stands here twice where a setting that a user would find makes it clearly faster on this kind of machine. The
same model files, texts, cores and output format serve all of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import ENVIRONMENTS, MODELS

YARDSTICK = "sentence-transformers"
OWN = "embatch"
"""The environment that the harness itself runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to turn texts into vectors."""

    name: str
    """How results and tables call it."""
    environment: str
    worker: str
    """Module below `benchmarks.workers`."""
    options: dict[str, Any] = field(default_factory=dict)
    setting: str
    """What a reader must know to repeat it."""

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        return Path(sys.executable) if self.environment == OWN else ENVIRONMENTS[self.environment].python

    def problem(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.environment == OWN:
            return None
        if (problem := ENVIRONMENTS[self.environment].problem()) is not None:
            return problem
        folder = Path(self.options["model"])
        return None if folder.exists() else f"the model could not be converted for {self.environment}"


def embatch(precision: str, **options: Any) -> System:
    """embatch in one precision."""
    return System(
        name=f"embatch {precision}",
        environment=OWN,
        worker="embatch",
        options={"model": "minilm", "precision": precision, **options},
        setting=f"`Embedder(precision={precision!r})`",
    )


HASHING = System(
    name="embatch hashing",
    environment=OWN,
    worker="embatch",
    options={"model": "hashing", "backend": "hashing"},
    setting="`Embedder(model='hashing')`: no neural model; counts words and character n-grams",
)


def own() -> list[System]:
    """embatch in the precisions of the headline."""
    return [embatch("auto"), embatch("fp32"), embatch("int8")]


def sentence_transformers(model: Path, *, name: str, setting: str, **options: Any) -> System:
    """sentence-transformers on PyTorch."""
    return System(
        name=name,
        environment="st",
        worker="sentence_transformers",
        options={"model": str(model), **options},
        setting=setting,
    )


def yardstick(model: Path) -> System:
    """What everything is compared with."""
    return sentence_transformers(model, name=YARDSTICK, setting="PyTorch, fp32, batch 32: its defaults")


def peers(model: Path) -> list[System]:
    """Every peer, the yardstick first."""
    onnx, int8 = str(MODELS / "onnx"), str(MODELS / "ctranslate2")
    ctranslate2 = {"model": int8, "tokenizer": str(model / "tokenizer.json"), "max_tokens": 256}
    openvino = {"model": str(MODELS / "st-openvino"), "backend": "openvino"}
    return [
        yardstick(model),
        sentence_transformers(
            model,
            name="sentence-transformers bf16",
            setting="PyTorch, bf16, batch 32: the best found by hand",
            dtype="bfloat16",
        ),
        System(
            name="sentence-transformers openvino",
            environment="st-openvino",
            worker="sentence_transformers",
            options=openvino,
            setting="OpenVINO through optimum-intel, batch 32: its defaults (bf16 where the processor has it)",
        ),
        System(
            name="fastembed",
            environment="fastembed",
            worker="fastembed",
            options={"model": onnx},
            setting="ONNX Runtime, fp32, batch 256: its defaults",
        ),
        System(
            name="fastembed tuned",
            environment="fastembed",
            worker="fastembed",
            options={"model": onnx, "batch_size": 8, "sort": True},
            setting="the same, texts sorted by length by the caller, batch 8: the best found by hand",
        ),
        System(
            name="infinity",
            environment="infinity",
            worker="infinity",
            options={"model": str(model)},
            setting="in process, PyTorch, fp32, batch 32: its defaults",
        ),
        System(
            name="ctranslate2 int8",
            environment="ctranslate2",
            worker="ctranslate2",
            options={**ctranslate2, "batch_tokens": 1024, "streams": 2, "threads": 1},
            setting="int8, sorted, 1,024 padded tokens a batch, two batches side by side: the best found by hand",
        ),
    ]
