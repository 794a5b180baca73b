"""Which engine a model is opened with, and which choices are refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from embatch.backends import registry
from embatch.backends.registry import open_backend
from embatch.errors import MissingExtraError, UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`machine(gpu=True, torch="2.13.0+cu130")` is what the registry sees; importing torch fails on all of them."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*, gpu: bool, torch: str | None) -> None:
        (tmp_path / "nvidia0").touch()
        shown = tmp_path / ("nvidia0" if gpu else "nothing")
        monkeypatch.setattr(registry, "GPU_FILES", (str(shown),))
        monkeypatch.setattr(registry, "find_spec", lambda _name: torch)
        monkeypatch.setattr(registry, "version", lambda _name: torch)

    return make


@pytest.mark.parametrize(
    ("model", "dimensions"), [("hashing", 384), ("hashing-1024", 1024), ("Hashing-64", 64)]
)
def test_hashing_by_name(model: str, dimensions: int) -> None:
    """The name of the model says the dimensions, and needs no file."""
    assert open_backend(model).spec.dimensions == dimensions
    assert (
        open_backend(model, backend="hashing", precision="fp32", device="cpu").spec.dimensions == dimensions
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "auto, openvino, torch or hashing, not 'tensorflow'"),
        ({"model": "hashing", "backend": "openvino"}, "openvino backend cannot run 'hashing'"),
        ({"model": "minilm", "backend": "hashing"}, "runs no model 'minilm'"),
        ({"model": "hashing", "precision": "int8"}, "fp32 on the cpu"),
        ({"model": "hashing", "device": "cuda"}, "fp32 on the cpu"),
        ({"model": "hashing", "streams": 2}, "no streams"),
        ({"model": "hashing", "threads": 2}, "no threads"),
        ({"model": "hashing-1"}, "16 to 65536"),
        ({"backend": "openvino", "device": "cuda"}, "not on 'cuda'"),
        ({"backend": "torch", "threads": 2}, "openvino backend only"),
    ],
)
def test_choices_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    """What cannot be done is refused before any file is looked for, and the message says what is allowed."""
    with pytest.raises(UsageError, match=message):
        open_backend(**options)


def test_openvino_without_a_gpu(tiny_bert: Path, machine: Callable[..., None]) -> None:
    """Without a GPU the processor's own engine runs the model, whether torch is installed or not."""
    for torch in (None, "2.13.0"):
        machine(gpu=False, torch=torch)
        backend = open_backend(str(tiny_bert), streams=1)
        assert type(backend).__name__ == "OpenVINOBackend"
        backend.close()


def test_torch_with_a_gpu(tiny_bert: Path, machine: Callable[..., None]) -> None:
    """A GPU that an installed torch can use is taken."""
    machine(gpu=True, torch="2.13.0+cu130")
    with pytest.raises(MissingExtraError, match="torch"):  # it was chosen: importing it fails on this machine
        open_backend(str(tiny_bert))


@pytest.mark.parametrize(
    ("torch", "hidden", "options"),
    [
        (None, None, {}),
        ("2.13.0+cpu", None, {}),
        ("2.13.0", "", {}),
        ("2.13.0", "-1", {}),
        ("2.13.0", None, {"device": "cpu"}),
        ("2.13.0", None, {"threads": 1}),
    ],
)
def test_openvino_though_there_is_a_gpu(
    tiny_bert: Path,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    torch: str | None,
    hidden: str | None,
    options: dict[str, Any],
) -> None:
    """A GPU that torch cannot use, or that the user does not want, is left alone."""
    machine(gpu=True, torch=torch)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    backend = open_backend(str(tiny_bert), streams=1, **options)
    assert type(backend).__name__ == "OpenVINOBackend"
    backend.close()


def test_int8_stays_on_the_processor(tiny_bert: Path, machine: Callable[..., None], tmp_path: Path) -> None:
    """Only openvino computes in int8: a visible GPU does not turn the request into an error of torch's."""
    machine(gpu=True, torch="2.13.0+cu130")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
        patch.setitem(sys.modules, "nncf", None)
        with pytest.raises(MissingExtraError, match="NNCF"):
            open_backend(str(tiny_bert), precision="int8", streams=1)


def test_device_without_the_extra(tiny_bert: Path, machine: Callable[..., None]) -> None:
    """Asking for a GPU without torch names the extra to install."""
    machine(gpu=True, torch=None)
    for options in ({"device": "cuda"}, {"backend": "torch"}):
        with pytest.raises(MissingExtraError) as caught:
            open_backend(str(tiny_bert), **options)  # type: ignore[arg-type]  # one option of each kind
        assert "embatch[torch]" in caught.value.hint


def test_unsupported_without_the_extra(tmp_path: Path, machine: Callable[..., None]) -> None:
    """A model that only torch could run is refused with the extra that would run it."""
    from tests.tiny_bert import write_tiny_bert

    folder = write_tiny_bert(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "deberta-v2"'))
    machine(gpu=False, torch=None)
    with pytest.raises(UnsupportedModelError) as caught:
        open_backend(str(folder))
    assert "embatch[torch]" in caught.value.hint
