"""What PyTorch finds on this machine: the device to compute on, its precisions, its memory.

The torch backend asks here; every question takes the imported `torch` module, so that nothing here loads it.
"""

from __future__ import annotations

import gc
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embatch.errors import UsageError

if TYPE_CHECKING:
    from embatch.types import Precision

_DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def choose(torch: Any, device: str | None) -> Any:
    """The `torch.device` asked for, or the first of CUDA, MPS and the processor that is there.

    Raises:
        UsageError: there is no such device; names those that there are.
    """
    there = available(torch)
    if device is None or device == "auto":
        return torch.device(there[0])
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device={device!r} is no device; there are: {', '.join(there)}") from error
    number = chosen.index or 0
    if chosen.type not in there or (chosen.type == "cuda" and number >= torch.cuda.device_count()):
        raise UsageError(
            f"device={device!r} is not there; there are: {', '.join(there)}",
            hint="Leave the device out to take the fastest that is there.",
        )
    return chosen


def available(torch: Any) -> list[str]:
    """Kinds of device that are usable, the fastest first; the processor always is."""
    there = []
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    return [*there, "cpu"]


def fast_precisions(torch: Any, device: Any) -> tuple[Precision, ...]:
    """What `auto` may compute in besides fp32, the preferred first.

    On the processor nothing: bf16 under PyTorch was measured at a least cosine of 0.996 to fp32.
    """
    if device.type == "cuda":
        return ("bf16", "fp16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16",)
    return ("fp16",) if device.type == "mps" else ()


def check_precision(torch: Any, device: Any, precision: Precision) -> None:
    """Refuse a precision that the device has not.

    Raises:
        UsageError: names the precision and what there is.
    """
    if precision == "int8":
        raise UsageError(
            "precision='int8': the torch backend does not compute in int8",
            hint="Use the openvino backend, or precision='auto'.",
        )
    has = {"auto", "fp32", *fast_precisions(torch, device)}
    if device.type == "cpu":
        has.add("bf16")
    if precision not in has:
        raise UsageError(
            f"precision={precision!r}: {device} computes in {', '.join(sorted(has - {'auto'}))}",
            hint="Use precision='auto', which takes the fastest that is exact enough.",
        )


def dtype(torch: Any, precision: Precision) -> Any:
    """The `torch.dtype` of a precision."""
    return getattr(torch, _DTYPES[precision])


def precision(dtype_name: object) -> Precision | None:
    """The precision that a configuration's `dtype` names, such as `bfloat16`; None if it says nothing known."""
    names = {name: precision for precision, name in _DTYPES.items()}
    return names.get(str(dtype_name).removeprefix("torch."))


def describe(torch: Any, device: Any) -> str:
    """The device in words: `cuda NVIDIA L4`, `cpu AMD EPYC 9B45, 2 threads`."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return f"mps {platform.machine()}"
    return f"cpu {_processor()}, {torch.get_num_threads()} threads"


def memory_used(torch: Any, device: Any) -> float:
    """Share of the device's memory in use by anyone, 0 to 1; what PyTorch keeps for reuse counts as free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(max(total - free - kept, 0) / total)
    if device.type == "mps":
        return float(torch.mps.current_allocated_memory() / torch.mps.recommended_max_memory())
    return 0.0


def release(torch: Any, device: Any) -> None:
    """Give what PyTorch keeps for reuse back to the device."""
    gc.collect(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
