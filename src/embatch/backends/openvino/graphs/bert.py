"""BERT and its kin as graphs: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet.

All are post-norm encoders with learnt positions and differ in names, in how positions count, and in MPNet's bias by
distance. Each builder reads `config.json` and the tensors, and returns token vectors `(batch, tokens, width)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from openvino import opset15 as ops

from embatch.backends.openvino.graphs import blocks
from embatch.backends.openvino.graphs.blocks import ACTIVATIONS, Inputs, Linear, Node, Norm, Sight
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from embatch.backends.jsonfile import JsonFile
    from embatch.backends.openvino.graphs.weights import Weights
    from embatch.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What one architecture calls the parts of a layer; `{}` is the layer's number."""

    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    expand: str
    contract: str
    output_norm: str


_BERT = _Names(
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    expand="intermediate.dense",
    contract="output.dense",
    output_norm="output.LayerNorm",
)
_MPNET = _Names(
    layer="encoder.layer.{}.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    expand="intermediate.dense",
    contract="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT = _Names(
    layer="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    expand="ffn.lin1",
    contract="ffn.lin2",
    output_norm="output_layer_norm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The sizes of one encoder."""

    width: int
    inner: int
    layers: int
    heads: int
    activation: str
    epsilon: float

    def checked(self, config: JsonFile) -> _Shape:
        """Itself, if the graph can be built so."""
        if self.heads < 1 or self.width % self.heads:
            raise CorruptModelError(
                f"{config.path}: {self.width} numbers do not split into {self.heads} heads"
            )
        if self.activation not in ACTIVATIONS:
            raise UnsupportedModelError(f"{config.path}: activation {self.activation!r} is not supported")
        return self


def bert(config: JsonFile, weights: Weights, inputs: Inputs) -> Node:
    """BERT: positions from 0, all tokens of one type."""
    shape = _bert_shape(config)
    positions = _position_table(config, weights, shape.width) + _token_type(config, weights, shape.width)
    x = ops.add(
        blocks.rows(_word_table(config, weights, shape.width), inputs.ids),
        blocks.rows(positions, blocks.token_range(inputs.ids)),
    )
    return _encoder(x, shape, weights, _BERT, _sight(inputs, shape))


def roberta(config: JsonFile, weights: Weights, inputs: Inputs) -> Node:
    """RoBERTa, XLM-RoBERTa, CamemBERT: positions start after the padding token's id."""
    shape = _bert_shape(config)
    positions = _position_table(config, weights, shape.width) + _token_type(config, weights, shape.width)
    places = _places_after_padding(inputs.ids, config.integer("pad_token_id", 1))
    x = ops.add(
        blocks.rows(_word_table(config, weights, shape.width), inputs.ids), blocks.rows(positions, places)
    )
    return _encoder(x, shape, weights, _BERT, _sight(inputs, shape))


def distilbert(config: JsonFile, weights: Weights, inputs: Inputs) -> Node:
    """DistilBERT: BERT without token types, under other names."""
    shape = _Shape(
        width=config.integer("dim"),
        inner=config.integer("hidden_dim"),
        layers=config.integer("n_layers"),
        heads=config.integer("n_heads"),
        activation=config.text("activation", "gelu"),
        epsilon=1e-12,
    ).checked(config)
    x = ops.add(
        blocks.rows(_word_table(config, weights, shape.width), inputs.ids),
        blocks.rows(_position_table(config, weights, shape.width), blocks.token_range(inputs.ids)),
    )
    return _encoder(x, shape, weights, _DISTILBERT, _sight(inputs, shape))


def mpnet(config: JsonFile, weights: Weights, inputs: Inputs) -> Node:
    """MPNet: positions as in RoBERTa, and a learnt bias by distance, the same in every layer."""
    shape = _bert_shape(config)
    places = _places_after_padding(inputs.ids, 1)
    x = ops.add(
        blocks.rows(_word_table(config, weights, shape.width), inputs.ids),
        blocks.rows(_position_table(config, weights, shape.width), places),
    )
    bias = ops.add(_distance_bias(config, weights, shape.heads, inputs.ids), blocks.padding_bias(inputs.mask))
    return _encoder(x, shape, weights, _MPNET, blocks.sight(bias, inputs, shape.width))


def _bert_shape(config: JsonFile) -> _Shape:
    kind = config.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UnsupportedModelError(f"{config.path}: position_embedding_type {kind!r} is not supported")
    if config.flag("is_decoder", default=False):
        raise UnsupportedModelError(f"{config.path}: a decoder (is_decoder) is not supported")
    return _Shape(
        width=config.integer("hidden_size"),
        inner=config.integer("intermediate_size"),
        layers=config.integer("num_hidden_layers"),
        heads=config.integer("num_attention_heads"),
        activation=config.text("hidden_act", "gelu"),
        epsilon=config.number("layer_norm_eps", 1e-12),
    ).checked(config)


def _sight(inputs: Inputs, shape: _Shape) -> Sight:
    """All tokens are seen, and no padding."""
    return blocks.sight(blocks.padding_bias(inputs.mask), inputs, shape.width)


def _encoder(x: Node, shape: _Shape, weights: Weights, names: _Names, seen: Sight) -> Node:
    """The norm of the embeddings and all layers."""
    x = blocks.layer_norm(x, _norm(weights, "embeddings.LayerNorm", shape))
    for number in range(shape.layers):
        x = _layer(x, shape, weights, names, seen, prefix=names.layer.format(number))
    return x


def _layer(x: Node, shape: _Shape, weights: Weights, names: _Names, seen: Sight, *, prefix: str) -> Node:
    def dense(name: str, outputs: int, inputs: int) -> Linear:
        path = prefix + name
        return Linear(weights.get(f"{path}.weight", outputs, inputs), weights.get(f"{path}.bias", outputs))

    width, inner = shape.width, shape.inner
    projections = (
        dense(names.query, width, width),
        dense(names.key, width, width),
        dense(names.value, width, width),
    )
    mixed = blocks.self_attention(x, projections, seen, heads=shape.heads)
    mixed = blocks.linear(mixed, dense(names.attention_output, width, width))
    x = blocks.layer_norm(ops.add(x, mixed), _norm(weights, prefix + names.attention_norm, shape))
    thought = ACTIVATIONS[shape.activation](blocks.linear(x, dense(names.expand, inner, width)))
    thought = blocks.linear(thought, dense(names.contract, width, inner))
    return blocks.layer_norm(ops.add(x, thought), _norm(weights, prefix + names.output_norm, shape))


def _norm(weights: Weights, name: str, shape: _Shape) -> Norm:
    scale, shift = weights.get(f"{name}.weight", shape.width), weights.get(f"{name}.bias", shape.width)
    return Norm(scale, shift, shape.epsilon)


def _word_table(config: JsonFile, weights: Weights, width: int) -> FloatArray:
    return weights.get("embeddings.word_embeddings.weight", config.integer("vocab_size"), width)


def _position_table(config: JsonFile, weights: Weights, width: int) -> FloatArray:
    positions = config.integer("max_position_embeddings")
    return weights.get("embeddings.position_embeddings.weight", positions, width)


def _token_type(config: JsonFile, weights: Weights, width: int) -> FloatArray:
    """The vector of token type 0, which every token of a single text has."""
    types = config.integer("type_vocab_size", 2)
    first: FloatArray = weights.get("embeddings.token_type_embeddings.weight", types, width)[0]
    return first


def _places_after_padding(ids: Node, padding: int) -> Node:
    """Position of each token as RoBERTa counts: padding stays at its own id, the others go up from there."""
    real = ops.convert(ops.not_equal(ids, ops.constant(np.int32(padding))), "i32")
    counted = ops.multiply(ops.cumsum(real, blocks.integers(1)), real)
    return ops.add(counted, ops.constant(np.int32(padding)))


def _distance_bias(config: JsonFile, weights: Weights, heads: int, ids: Node) -> Node:
    """`(1, heads, tokens, tokens)`: the learnt bias of each pair of tokens by their distance."""
    table = weights.get(
        "encoder.relative_attention_bias.weight", config.integer("relative_attention_num_buckets", 32), heads
    )
    reach = config.integer("max_position_embeddings")
    by_distance = table[_buckets(np.arange(-reach, reach + 1))].T  # (heads, 2 · reach + 1)
    places = blocks.token_range(ids)
    distance = ops.subtract(
        ops.unsqueeze(places, blocks.integers(0)), ops.unsqueeze(places, blocks.integers(1))
    )
    pairs = ops.gather(
        blocks.constant(by_distance), ops.add(distance, blocks.integers(reach)), blocks.integers(1)
    )
    return ops.unsqueeze(pairs, blocks.integers(0))


def _buckets(
    distance: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The bucket of each distance (key minus query): exact when near, logarithmic up to 128, then all in one.

    The number of buckets is 32 whatever the configuration says: so it is in the model that was trained.
    """
    half, exact, furthest = 16, 8, 128
    far = np.abs(distance).astype(np.float32)
    scaled = np.log(np.maximum(far, 1) / np.float32(exact)) / np.float32(math.log(furthest / exact))
    logarithmic = exact + (scaled * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(far < exact, far.astype(np.int64), np.minimum(logarithmic, half - 1))
    return np.asarray(bucket + np.where(distance > 0, half, 0))
