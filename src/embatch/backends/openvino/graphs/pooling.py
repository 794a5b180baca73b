"""From token vectors to one vector a text, inside the graph: pooling, Dense and Normalize.

Doing this in the graph costs nothing measurable and spares copying `(batch, tokens, width)` out of the device for
every batch. The mask keeps padding out of every mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset15 as ops

from embatch.backends.layout import Dense
from embatch.backends.openvino.graphs import blocks
from embatch.backends.openvino.graphs.blocks import ACTIVATIONS, Linear, Node, integers, scalar
from embatch.backends.openvino.graphs.weights import Weights
from embatch.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.backends.layout import Layout, Normalize, Pooling

# A text without a single token has the zero vector, not NaN.
_NO_TOKENS = 1e-9


def pool(tokens: Node, mask: Node, layout: Layout) -> Node:
    """`(batch, tokens, width)` and the mask `(batch, tokens)` → `(batch, dim)` as the layout's modules say."""
    pooled = [_POOLINGS[mode](tokens, mask) for mode in layout.pooling]
    x = pooled[0] if len(pooled) == 1 else ops.concat(pooled, 1)
    return apply_head(x, layout)


def apply_head(x: Node, layout: Layout) -> Node:
    """Dense and Normalize, in the layout's order, on `(batch, width)`."""
    for step in layout.head:
        x = _apply(x, step)
    return x


def _apply(x: Node, step: Dense | Normalize) -> Node:
    if not isinstance(step, Dense):
        return ops.normalize_l2(x, integers([1]), 1e-12, "max")
    if step.activation not in ACTIVATIONS:
        raise UnsupportedModelError(f"{step.weights.parent}: activation {step.activation!r} is not supported")
    with Weights([step.weights], anchor="linear.weight") as weights:
        weight = weights.get("linear.weight", step.out_features, step.in_features)
        bias = weights.get("linear.bias", step.out_features) if step.bias else None
    return ACTIVATIONS[step.activation](blocks.linear(x, Linear(weight, bias)))


def _weighted_sum(tokens: Node, weights: Node) -> Node:
    return ops.reduce_sum(ops.multiply(tokens, ops.unsqueeze(weights, integers(-1))), integers([1]), False)


def _count(weights: Node) -> Node:
    """`(batch, 1)`: the sum of the weights, never zero."""
    return ops.maximum(ops.reduce_sum(weights, integers([1]), True), scalar(_NO_TOKENS))


def _mean(tokens: Node, mask: Node) -> Node:
    return ops.divide(_weighted_sum(tokens, mask), _count(mask))


def _mean_sqrt_len(tokens: Node, mask: Node) -> Node:
    return ops.divide(_weighted_sum(tokens, mask), ops.sqrt(_count(mask)))


def _weighted_mean(tokens: Node, mask: Node) -> Node:
    places = ops.add(ops.convert(blocks.token_range(mask), "f32"), scalar(1.0))
    weights = ops.multiply(mask, places)
    return ops.divide(_weighted_sum(tokens, weights), _count(weights))


def _max(tokens: Node, mask: Node) -> Node:
    real = ops.unsqueeze(ops.greater(mask, scalar(0.5)), integers(-1))
    lowest = ops.constant(np.float32(-1e30))
    return ops.reduce_max(ops.select(real, tokens, lowest), integers([1]), False)


def _cls(tokens: Node, mask: Node) -> Node:  # noqa: ARG001  # one signature for all modes; padding is on the right
    return ops.gather(tokens, integers(0), integers(1))


def _last(tokens: Node, mask: Node) -> Node:
    count = ops.convert(ops.reduce_sum(mask, integers([1]), False), "i64")
    index = ops.maximum(ops.subtract(count, integers(1)), integers(0))
    return ops.squeeze(ops.gather(tokens, ops.unsqueeze(index, integers(1)), integers(1), 1), integers([1]))


_POOLINGS: dict[Pooling, Callable[[Node, Node], Node]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
    "last": _last,
}
