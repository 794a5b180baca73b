"""What OpenVINO says of the processor: what its arithmetic is fastest in; and what OpenVINO is told.

The backend asks here once, when it starts. Nothing is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.errors import UsageError

if TYPE_CHECKING:
    from embatch.types import Precision

_TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # OpenVINO's name of a type -> ours
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # our name of a precision -> what OpenVINO is told

_KERNELS = "128"
"""Kernels kept for shapes seen before. OpenVINO keeps 5,000: with the many shapes of a server's batches, or of an
index's windows, memory grew by 400 MB over 3,600 batches and had not ended. With these few it grows least. 2,000 mixed,
6,000 short and 600 long texts were no slower; batches of 4 to 11 texts whose shapes all come again were by 5 to 8 %. In
a server, with ever new shapes, no difference stood out from the noise."""


def native_precision(core: Any) -> Precision:
    """What the processor computes in by preference: bf16 or fp16 where it does so natively, else fp32.

    OpenVINO's own default says so; its list of capabilities also holds types that are only emulated.
    """
    name = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return "bf16" if name == "bf16" else "fp16" if name == "f16" else "fp32"


def check_precision(core: Any, precision: Precision) -> None:
    """Refuse a precision that this processor would only emulate.

    Raises:
        UsageError: names the precision and what the processor has.
    """
    native = native_precision(core)
    if precision in ("bf16", "fp16") and precision != native:
        raise UsageError(
            f"precision={precision!r}: this processor computes natively in "
            + ("fp32 only" if native == "fp32" else f"fp32 and {native}"),
            hint="Use precision='auto', which takes the fastest that is exact enough, or 'fp32'.",
        )


def compile_options(precision: Precision, *, streams: int, threads: int) -> dict[str, Any]:
    """What OpenVINO is told: `streams` requests side by side over `threads` threads in all."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
        # OpenVINO ties its threads to cores, those of each model to the same ones: two models, or two processes, then
        # share one core while another is idle: one sixth of two cores was, with a variant beside the general model.
        "ENABLE_CPU_PINNING": False,
    }


def processor_name(core: Any) -> str:
    """What the processor calls itself."""
    return str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()


def describe(core: Any, *, streams: int, threads: int) -> str:
    """The device in words: `cpu AMD EPYC 9B45, 2 streams x 1 thread`."""
    each = max(1, threads // streams)
    plural = ("" if streams == 1 else "s", "" if each == 1 else "s")
    return f"cpu {processor_name(core)}, {streams} stream{plural[0]} x {each} thread{plural[1]}"
