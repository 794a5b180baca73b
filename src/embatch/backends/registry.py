"""From a model's name to an open backend: which engine runs it, and why another does not.

The one place that knows all engines. Each is imported when it is chosen, so that choosing costs nothing; fetching files
is `resolve`'s matter.
"""

from __future__ import annotations

import logging
import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embatch.errors import MissingExtraError, UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.backends.resolve import ModelFiles
    from embatch.types import Backend, Precision

BackendName = Literal["auto", "openvino", "torch", "hashing"]

_HASHING = re.compile(r"hashing(?:-(\d{1,9}))?", re.IGNORECASE)
GPU_FILES: tuple[str, ...] = ("/dev/nvidia0", "/dev/nvidiactl")
"""Where a driver shows that there is an NVIDIA device."""
_TORCH_EXTRA = 'pip install "embatch[torch]"'
_log = logging.getLogger("embatch")


def open_backend(  # noqa: PLR0913  # one argument for each choice that a user has
    model: str = "minilm",
    *,
    backend: BackendName = "auto",
    precision: Precision = "auto",
    device: str | None = None,
    streams: int | None = None,
    threads: int | None = None,
    calibration: Sequence[str] | None = None,
    offline: bool = False,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Backend:
    """Open a model with the engine that runs it best here. Whoever opens it closes it.

    Args:
        model: an alias, a folder, owner/name, `hashing`, or `hashing-N` for N dimensions.
        backend: the engine; `auto` takes torch for a GPU, else openvino, else torch.
        precision: what to compute in.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None chooses.
        streams: batches side by side; None chooses.
        threads: threads of all streams together (openvino); None is one for each core.
        calibration: texts like those to embed, to calibrate int8 on (openvino); None takes a shipped sample.
        offline: never ask the network for files.
        on_progress: called with (file name, bytes done, bytes in all) while files are fetched.

    Raises:
        UsageError: choices that do not go together.
        ModelError: the model cannot be had, or no engine here can run it.
    """
    hashing = _HASHING.fullmatch(model)
    if backend not in {"auto", "openvino", "torch", "hashing"}:
        raise UsageError(f"backend must be auto, openvino, torch or hashing, not {backend!r}")
    if hashing or backend == "hashing":
        if streams is not None or threads is not None:
            raise UsageError("hashing takes no streams and no threads: one call keeps one core busy")
        return _open_hashing(model, hashing, backend, precision, device)
    from embatch.backends.resolve import resolve

    engine = _engine(backend, precision, device, threads)
    files = resolve(model, offline=offline, on_progress=on_progress)
    if engine == "torch":
        return _open_torch(files, precision, device, streams)
    from embatch.backends.openvino import OpenVINOBackend

    try:
        return OpenVINOBackend(
            files, precision=precision, streams=streams, threads=threads, calibration=calibration
        )
    except UnsupportedModelError as error:
        # Threads and int8 are asked of openvino alone: torch could not do as it was told.
        if backend == "openvino" or threads is not None or precision == "int8" or not _torch_installed():
            raise
        _log.info("%s; torch runs it instead", error)
    return _open_torch(files, precision, device, streams)


def _engine(
    backend: BackendName, precision: Precision, device: str | None, threads: int | None
) -> Literal["openvino", "torch"]:
    on_gpu = device is not None and device != "cpu"
    if backend == "openvino" and on_gpu:
        raise UsageError(
            f"the openvino backend runs on the cpu, not on {device!r}",
            hint="Leave out the device, or use the torch backend.",
        )
    if backend == "torch" and threads is not None:
        raise UsageError(
            "threads can be set for the openvino backend only",
            hint="Set OMP_NUM_THREADS in the environment for torch.",
        )
    if backend == "torch" or on_gpu:
        return "torch"
    openvino_only = threads is not None or precision == "int8"
    if backend == "auto" and device is None and not openvino_only and _torch_installed() and _gpu_visible():
        return "torch"
    return "openvino"


def _open_torch(files: ModelFiles, precision: Precision, device: str | None, streams: int | None) -> Backend:
    if not _torch_installed():
        raise MissingExtraError(
            "the torch backend needs PyTorch and sentence-transformers, which are not installed",
            hint=f"Install them: {_TORCH_EXTRA}",
        )
    from embatch.backends.torch import TorchBackend

    return TorchBackend(files, precision=precision, device=device, streams=streams)


def _open_hashing(
    model: str,
    name: re.Match[str] | None,
    backend: BackendName,
    precision: Precision,
    device: str | None,
) -> Backend:
    if name is None:
        raise UsageError(
            f"the hashing backend runs no model {model!r}", hint="Name the model `hashing` or `hashing-512`."
        )
    if backend not in {"auto", "hashing"}:
        raise UsageError(
            f"the {backend} backend cannot run {model!r}",
            hint="Leave out the backend, or name another model.",
        )
    if precision not in {"auto", "fp32"} or device not in {None, "cpu"}:
        raise UsageError("hashing computes in fp32 on the cpu, and in nothing else")
    from embatch.backends.hashing import HashingBackend

    return HashingBackend(int(name[1])) if name[1] else HashingBackend()


def _torch_installed() -> bool:
    """Whether the torch extra is there, without the seconds that importing it costs."""
    return find_spec("torch") is not None and find_spec("sentence_transformers") is not None


def _gpu_visible() -> bool:
    """Whether PyTorch would find an NVIDIA device, without the seconds that asking it costs."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    return any(Path(name).exists() for name in GPU_FILES) and not _built_for_cpu()


def _built_for_cpu() -> bool:
    """Whether the installed PyTorch names itself a build without GPU support, such as `2.13.0+cpu`."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
