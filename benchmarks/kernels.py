"""The matrix-product ceiling of this machine, and how many operations a text costs: what a share of it means.

The ceiling is the rate of the model's own matrix products with nothing in between: per layer four of hidden ×
hidden and the pair hidden × inner, through OpenVINO, one stream per core, at the best of a few heights. A text of
`L` tokens costs, per layer, 2·L·(4·H² + 2·H·I) operations in those products and 4·L²·H in the two products of
attention. Only the text's own tokens count: padding is waste, not work.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
HEIGHTS = (512, 1024, 2048)
_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an encoder that its cost follows from."""

    layers: int
    hidden: int
    inner: int

    def operations(self, lengths: Iterable[int]) -> int:
        """Floating-point operations of texts of these lengths in tokens; a multiply and an add are two.

        >>> Shape(layers=6, hidden=384, inner=1536).operations([1])
        21242880
        """
        products = 2 * (4 * self.hidden**2 + 2 * self.hidden * self.inner)
        return self.layers * sum(length * products + 4 * length**2 * self.hidden for length in lengths)


MINILM = Shape(layers=6, hidden=384, inner=1536)


class HasRate(Protocol):
    """Something whose matrix-product rate can be measured again and again."""

    def measure(self) -> dict[str, float]:
        """GFLOP/s by height, and the `best` of them."""
        ...


class Ceiling:
    """Matrix products of a shape, compiled once, measured as often as asked."""

    def __init__(self, precision: str, shape: Shape = MINILM, heights: Iterable[int] = HEIGHTS) -> None:
        import openvino

        self._streams = len(os.sched_getaffinity(0))
        self._shape = shape
        model = _products(shape)
        compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
                "NUM_STREAMS": self._streams,
                "INFERENCE_NUM_THREADS": self._streams,
            },
        )
        rng = np.random.default_rng(0)
        self._inputs = {h: rng.standard_normal((h, shape.hidden), dtype=np.float32) for h in heights}
        self._requests = [compiled.create_infer_request() for _ in range(self._streams)]

    def measure(self) -> dict[str, float]:
        """GFLOP/s at each height, and the `best` of them."""
        rates = {str(height): self._rate(height) for height in self._inputs}
        return {**rates, "best": max(rates.values())}

    def _rate(self, height: int) -> float:
        rows = self._inputs[height]
        for request in self._requests:
            request.infer({0: rows}, share_inputs=True)
        done = [0] * self._streams
        end = time.perf_counter() + _SECONDS

        def work(stream: int) -> None:
            while time.perf_counter() < end:
                self._requests[stream].infer({0: rows}, share_inputs=True)
                done[stream] += 1

        threads = [threading.Thread(target=work, args=(stream,)) for stream in range(self._streams)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        shape = self._shape
        once = 2 * height * shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.inner)
        return round(once * sum(done) / seconds / 1e9, 1)


def can_compute(precision: str) -> bool:
    """Whether the processor computes in this precision, rather than pretending to."""
    import openvino

    names = {"fp32": "FP32", "bf16": "BF16"}
    return names[precision] in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _products(shape: Shape) -> Any:
    import openvino
    from openvino import opset15 as op

    rng = np.random.default_rng(0)
    rows = op.parameter([-1, shape.hidden], np.float32)
    sizes = [(shape.hidden, shape.hidden)] * 4 + [(shape.hidden, shape.inner), (shape.inner, shape.hidden)]
    out = rows
    for wide, high in sizes * shape.layers:
        # Scaled so that the values neither vanish nor overflow on their way through.
        weights = rng.standard_normal((wide, high), dtype=np.float32) / np.float32(np.sqrt(wide))
        out = op.matmul(out, op.constant(weights), transpose_a=False, transpose_b=False)
    return openvino.Model([op.result(out)], [rows], "products")
