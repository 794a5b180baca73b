"""The blocks that encoders are made of, as OpenVINO operations on `(batch, tokens, width)` nodes.

Builders of architectures combine these; how a block is expressed decides which fused kernel the CPU plugin picks,
so a faster form is a change in this file alone. Nothing here knows of files or configurations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino
from openvino import opset15 as ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from embatch.types import FloatArray

Node = Any
"""An OpenVINO node; the library ships no types."""

# Below every score that a finite model produces, and still finite in bfloat16.
_MASKED = np.float32(-1e30)

_BLANK_KEYS = "blank_keys"
_LANES = 16
"""Keys are made a multiple of these, by blank ones that nobody sees. The plugin's softmax takes what is left over of
its vectors score by score: attention over 14 keys took two and a half times as long as over 16 (AVX-512, bfloat16)."""


class Inputs(NamedTuple):
    """What every graph starts from."""

    ids: Node
    """`(batch, tokens)` int32, padded on the right with the model's padding id."""
    mask: Node
    """`(batch, tokens)` float32: 1 for a token, 0 for padding."""
    blank_keys: Node
    """How many keys follow those of the tokens, int64 `(1,)`."""


class Linear(NamedTuple):
    """Weights of `x · weightᵀ + bias`."""

    weight: FloatArray
    """`(out, in)`"""
    bias: FloatArray | None = None


class Norm(NamedTuple):
    """Weights of a layer norm over the last axis."""

    weight: FloatArray
    bias: FloatArray | None
    epsilon: float


class Sight(NamedTuple):
    """What tokens see of their text, made once for all layers: see `sight`."""

    bias: Node
    """`(batch or 1, heads or 1, tokens or 1, keys)`: added to the scores, it hides what must not be seen."""
    blank: Node
    """`(batch, keys - tokens, width)`: zeros that follow the keys and the values of the tokens."""


def constant(array: npt.NDArray[Any]) -> Node:
    """A constant of float32 or of an integer type.

    Copied (0.03 s for 90 MB), not shared: a shared array is freed by whichever thread of OpenVINO's drops the last
    reference, and such a thread need not hold Python's lock.
    """
    return ops.constant(array)


def named(node: Node, name: str) -> Node:
    """The node, with its first output called `name` for everyone who asks the model for it."""
    node.set_friendly_name(name)
    node.output(0).set_names({name})
    return node


def new_inputs() -> tuple[Node, Node]:
    """The parameters of every model of ours: `input_ids` and `attention_mask`, `(batch, tokens)` int32."""
    ids, mask = (ops.parameter([-1, -1], np.int32) for _ in range(2))
    return named(ids, "input_ids"), named(mask, "attention_mask")


def new_blank_keys(ids: Node) -> Node:
    """How many keys are missing to a multiple of `_LANES`, int64 `(1,)`."""
    tokens = ops.gather(ops.shape_of(ids, "i64"), integers([1]), integers(0))
    return named(ops.floor_mod(ops.subtract(integers([0]), tokens), integers(_LANES)), _BLANK_KEYS)


def without_blank_keys(model: openvino.Model) -> openvino.Model:
    """A copy of a model of ours that has as many keys as tokens: faster for single texts."""
    copy = model.clone()
    for op in copy.get_ops():
        if op.get_friendly_name() == _BLANK_KEYS:
            op.output(0).replace(integers([0]).output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def integers(values: int | Sequence[int]) -> Node:
    """A constant of int64: axes, shapes, indices."""
    return ops.constant(np.array(values, dtype=np.int64))


def scalar(value: float) -> Node:
    """A float32 constant without axes."""
    return ops.constant(np.float32(value))


def token_count(ids: Node) -> Node:
    """The length of the token axis, an int64 without axes."""
    return ops.gather(ops.shape_of(ids, "i64"), integers(1), integers(0))


def token_range(ids: Node) -> Node:
    """`0, 1, … tokens - 1`, int64."""
    return ops.range(integers(0), token_count(ids), integers(1), "i64")


def rows(table: FloatArray, indices: Node) -> Node:
    """The rows of `table` at `indices`: an embedding look-up."""
    return ops.gather(constant(table), indices, integers(0))


def linear(x: Node, layer: Linear) -> Node:
    """`x · weightᵀ + bias`."""
    product = ops.matmul(x, constant(layer.weight), transpose_a=False, transpose_b=True)
    return product if layer.bias is None else ops.add(product, constant(layer.bias))


def layer_norm(x: Node, norm: Norm) -> Node:
    """Zero mean and unit variance along the last axis, then scale and shift."""
    y = ops.mvn(x, integers([-1]), True, norm.epsilon, "INSIDE_SQRT")
    y = ops.multiply(y, constant(norm.weight))
    return y if norm.bias is None else ops.add(y, constant(norm.bias))


def padding_bias(mask: Node) -> Node:
    """`(batch, 1, 1, tokens)`: what added to attention scores keeps padding out."""
    bias = ops.multiply(ops.subtract(scalar(1.0), mask), ops.constant(_MASKED))
    return ops.unsqueeze(bias, integers([1, 2]))


def window_bias(ids: Node, reach: int) -> Node:
    """`(1, 1, tokens, tokens)`: what added to attention scores hides tokens more than `reach` away."""
    positions = token_range(ids)
    distance = ops.abs(
        ops.subtract(ops.unsqueeze(positions, integers(0)), ops.unsqueeze(positions, integers(1)))
    )
    near = ops.less_equal(distance, integers(reach))
    bias = ops.select(near, scalar(0.0), ops.constant(_MASKED))
    return ops.unsqueeze(bias, integers([0, 1]))


def sight(bias: Node, inputs: Inputs, width: int) -> Sight:
    """What tokens see by a bias `(…, tokens)`, over as many keys as fill whole vectors.

    Blank keys are joined on: with padding operations instead, single texts took a third longer.
    """
    batch = ops.gather(ops.shape_of(inputs.ids, "i64"), integers([0]), integers(0))
    shape = ops.concat([batch, inputs.blank_keys, integers([width])], 0)
    hidden = with_blank_keys(bias, inputs, axis=3, fill=_MASKED)
    return Sight(hidden, ops.broadcast(scalar(0.0), shape))


def with_blank_keys(x: Node, inputs: Inputs, *, axis: int, fill: float | np.float32 = 0.0) -> Node:
    """`x`, whose `axis` counts tokens, with `fill` for each blank key."""
    shape = ops.scatter_update(ops.shape_of(x, "i64"), integers([axis]), inputs.blank_keys, integers(0))
    return ops.concat([x, ops.broadcast(ops.constant(np.float32(fill)), shape)], axis)


def split_heads(x: Node, heads: int, head_size: int) -> Node:
    """`(batch, tokens, heads · size)` → `(batch, heads, tokens, size)`."""
    x = ops.reshape(x, integers([0, 0, heads, head_size]), special_zero=True)
    return ops.transpose(x, integers([0, 2, 1, 3]))


def merge_heads(x: Node, width: int) -> Node:
    """`(batch, heads, tokens, size)` → `(batch, tokens, width)`."""
    return ops.reshape(ops.transpose(x, integers([0, 2, 1, 3])), integers([0, 0, width]), special_zero=True)


def attention(query: Node, key: Node, value: Node, bias: Node) -> Node:
    """Dot-product attention over split heads, with queries already scaled; `bias` is added to the scores.

    Spelled out, the plugin fuses it into a kernel that measured 3 % faster over a whole MiniLM than its own attention
    operation (2 cores, AVX-512, bfloat16).
    """
    scores = ops.add(ops.matmul(query, key, transpose_a=False, transpose_b=True), bias)
    return ops.matmul(ops.softmax(scores, -1), value, transpose_a=False, transpose_b=False)


def scaled(layer: Linear, factor: float) -> Linear:
    """A linear layer whose answer is `factor` times as large."""
    bias = None if layer.bias is None else layer.bias * np.float32(factor)
    return Linear(layer.weight * np.float32(factor), bias)


def self_attention(x: Node, projections: tuple[Linear, Linear, Linear], seen: Sight, *, heads: int) -> Node:
    """Attention of `x` to itself by query, key and value projections, heads merged again.

    The scale by the root of the head size goes into the query's weights, where it costs nothing.
    """
    width = projections[0].weight.shape[0]
    size = width // heads
    query = linear(x, scaled(projections[0], size**-0.5))
    key, value = (ops.concat([linear(x, layer), seen.blank], 1) for layer in projections[1:])
    query, key, value = (split_heads(part, heads, size) for part in (query, key, value))
    return merge_heads(attention(query, key, value, seen.bias), width)


def rotate(x: Node, cosine: Node, sine: Node) -> Node:
    """Rotary positions on split heads: pairs are `size / 2` apart; `cosine`, `sine` are `(tokens, size)`."""
    first, second = ops.split(x, integers(-1), 2).outputs()
    turned = ops.concat([ops.multiply(second, scalar(-1.0)), first], -1)
    return ops.add(ops.multiply(x, cosine), ops.multiply(turned, sine))


ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    "gelu": lambda x: ops.gelu(x, "erf"),
    "gelu_new": lambda x: ops.gelu(x, "tanh"),
    "gelu_fast": lambda x: ops.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: ops.gelu(x, "tanh"),
    "relu": ops.relu,
    "silu": ops.swish,
    "swish": ops.swish,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "identity": lambda x: x,
}
"""By the names that transformers' configurations and PyTorch's classes use."""
