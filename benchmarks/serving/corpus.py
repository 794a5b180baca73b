"""The texts that clients ask for, with the vectors that every answer is compared with, as files."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import texts
from benchmarks.harness import Stage
from benchmarks.systems import embatch
from benchmarks.worker import WorkerError
from benchmarks.workers.protocol import read_vectors

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings

LEAST_COSINE = 0.998
"""bf16 keeps 0.9999 to fp32; another text's vector must not pass."""
_MOST_ALIKE = 0.99
MIX = 5
"""Of an interactive mix every fifth text is an abstract or a piece of code; the others are task lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Texts that can be told apart by their vectors."""

    rows: list[str]
    path: str
    """JSON file of the texts."""
    reference: str
    """`.npy` file of their vectors: embatch in fp32, in process, each of length 1."""
    facts: dict[str, Any]


def make(settings: Settings, name: str, rows: list[str]) -> Corpus:
    """Embed the texts in fp32 and leave out those that another one's vector could be taken for.

    Raises:
        WorkerError: the reference could not be computed.
    """
    system = embatch("fp32", model=str(settings.model))
    with Stage([system], settings.work) as stage:
        if system.name not in stage.names:
            raise WorkerError(stage.problems[system.name])
        stage.give(name, rows)
        stage.embed(system.name, name)
        vectors = read_vectors(stage.out(system.name, name)).copy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = [row for row in range(len(rows)) if _is_alone(vectors, row)]
    path, reference = settings.work / f"{name}.texts.json", settings.work / f"{name}.npy"
    chosen = [rows[row] for row in kept]
    path.write_text(json.dumps(chosen), "utf-8")
    np.save(reference, vectors[kept])
    facts = {
        "texts": len(chosen),
        "left_out_as_too_alike": len(rows) - len(chosen),
        "least_cosine": LEAST_COSINE,
        "digest": texts.digest(chosen),
    }
    return Corpus(rows=chosen, path=str(path), reference=str(reference), facts=facts)


def interactive(count: int) -> list[str]:
    """What people and programs ask one at a time: four task lines to one longer text, shuffled."""
    longer = texts.mixed(count // MIX)
    rows = texts.short(count - len(longer)) + longer
    random.Random(texts.SEED).shuffle(rows)
    return rows


def write_job(path: Path, rows: list[str], count: int, model: str) -> None:
    """A file of `count` requests in the batch format: one text each, over and over with a number before it."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            again, row = divmod(number, len(rows))
            text = f"{again}. {rows[row]}" if again else rows[row]
            line = {
                "custom_id": f"job-{number}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": model, "input": text, "encoding_format": "base64"},
            }
            file.write(json.dumps(line) + "\n")


def _is_alone(vectors: np.ndarray[Any, np.dtype[np.float32]], row: int) -> bool:
    """Whether no earlier text's vector is nearly this one's."""
    return row == 0 or float((vectors[:row] @ vectors[row]).max()) < _MOST_ALIKE
