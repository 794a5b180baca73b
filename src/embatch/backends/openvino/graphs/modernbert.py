"""ModernBERT as a graph: pre-norm, rotary positions, gated GELU, and local attention in most layers.

The builder reads `config.json` in its older form (`global_attn_every_n_layers`, `local_rope_theta`) and its newer
(`layer_types`, `rope_parameters`), and returns token vectors `(batch, tokens, width)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
from openvino import opset15 as ops

from embatch.backends.openvino.graphs import blocks
from embatch.backends.openvino.graphs.blocks import ACTIVATIONS, Inputs, Linear, Node, Norm, Sight
from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from embatch.backends.jsonfile import JsonFile
    from embatch.backends.openvino.graphs.weights import Weights

Kind = Literal["full_attention", "sliding_attention"]
_KINDS: tuple[Kind, Kind] = ("full_attention", "sliding_attention")
_OLD_THETA = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
_DEFAULT_THETA = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}


class _Turn(NamedTuple):
    """By how much vectors are rotated for their positions: `(tokens, size)` each."""

    cosine: Node
    sine: Node


class _View(NamedTuple):
    """What one kind of layer sees, and how it knows where."""

    seen: Sight
    turn: _Turn
    """Of each token's query."""
    key_turn: _Turn
    """Of each key, blank ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The sizes and options of one model."""

    width: int
    inner: int
    heads: int
    positions: int
    activation: str
    epsilon: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool


def modernbert(config: JsonFile, weights: Weights, inputs: Inputs) -> Node:
    """ModernBERT; the layers' kinds alternate as the configuration says."""
    shape = _shape(config)
    kinds = _kinds(config)
    views = {kind: _view(config, shape, kind, inputs) for kind in _KINDS if kind in kinds}
    words = weights.get("embeddings.tok_embeddings.weight", config.integer("vocab_size"), shape.width)
    x = blocks.layer_norm(blocks.rows(words, inputs.ids), _norm(weights, "embeddings.norm", shape))
    for number, kind in enumerate(kinds):
        x = _layer(x, shape, weights, views[kind], number=number)
    return blocks.layer_norm(x, _norm(weights, "final_norm", shape))


def _shape(config: JsonFile) -> _Shape:
    shape = _Shape(
        width=config.integer("hidden_size"),
        inner=config.integer("intermediate_size"),
        heads=config.integer("num_attention_heads"),
        positions=config.integer("max_position_embeddings"),
        activation=config.text("hidden_activation", "gelu"),
        epsilon=config.number("norm_eps", 1e-5),
        norm_bias=config.flag("norm_bias", default=False),
        attention_bias=config.flag("attention_bias", default=False),
        mlp_bias=config.flag("mlp_bias", default=False),
    )
    if shape.heads < 1 or shape.width % (2 * shape.heads):
        raise CorruptModelError(f"{config.path}: {shape.width} numbers do not split into {shape.heads} heads")
    if shape.activation not in ACTIVATIONS:
        raise UnsupportedModelError(f"{config.path}: activation {shape.activation!r} is not supported")
    return shape


def _kinds(config: JsonFile) -> list[Kind]:
    """The kind of each layer."""
    count = config.integer("num_hidden_layers")
    named = config.fields.get("layer_types")
    if named is None:
        every = config.integer("global_attn_every_n_layers", 3)
        if every < 1:
            raise CorruptModelError(f"{config.path}: global_attn_every_n_layers is {every}")
        return [_KINDS[1] if number % every else _KINDS[0] for number in range(count)]
    if not isinstance(named, list) or len(named) != count or not set(named) <= set(_KINDS):
        raise UnsupportedModelError(f"{config.path}: layer_types {named!r} is not supported")
    return cast("list[Kind]", named)


def _view(config: JsonFile, shape: _Shape, kind: Kind, inputs: Inputs) -> _View:
    bias = blocks.padding_bias(inputs.mask)
    if kind == "sliding_attention":
        reach = config.integer("local_attention", 128) // 2
        bias = ops.add(blocks.window_bias(inputs.ids, reach), bias)
    size = shape.width // shape.heads
    frequencies = _theta(config, kind) ** -(np.arange(0, size, 2) / size)
    angles = np.outer(np.arange(shape.positions), np.tile(frequencies, 2)).astype(np.float32)
    places = blocks.token_range(inputs.ids)
    turn = _Turn(blocks.rows(np.cos(angles), places), blocks.rows(np.sin(angles), places))
    key_turn = _Turn(*(blocks.with_blank_keys(wave, inputs, axis=0) for wave in turn))
    return _View(blocks.sight(bias, inputs, shape.width), turn, key_turn)


def _theta(config: JsonFile, kind: Kind) -> float:
    """The base of the rotation's wave lengths."""
    options = config.table("rope_parameters").table(kind)
    scaled = config.has("rope_scaling") or options.text("rope_type", "default") != "default"
    if scaled or options.has("partial_rotary_factor"):
        raise UnsupportedModelError(f"{config.path}: scaled or partial rotary positions are not supported")
    return options.number("rope_theta", config.number(_OLD_THETA[kind], _DEFAULT_THETA[kind]))


def _layer(x: Node, shape: _Shape, weights: Weights, view: _View, *, number: int) -> Node:
    prefix = f"layers.{number}."
    # The embeddings are normed already, so the first layer has no norm of its own.
    normed = blocks.layer_norm(x, _norm(weights, f"{prefix}attn_norm", shape)) if number else x
    x = ops.add(x, _attention(normed, shape, weights, view, prefix=f"{prefix}attn."))
    normed = blocks.layer_norm(x, _norm(weights, f"{prefix}mlp_norm", shape))
    expand = _linear(weights, f"{prefix}mlp.Wi", 2 * shape.inner, shape.width, biased=shape.mlp_bias)
    contract = _linear(weights, f"{prefix}mlp.Wo", shape.width, shape.inner, biased=shape.mlp_bias)
    thought, gate = ops.split(blocks.linear(normed, expand), blocks.integers(-1), 2).outputs()
    gated = ops.multiply(ACTIVATIONS[shape.activation](thought), gate)
    return ops.add(x, blocks.linear(gated, contract))


def _attention(x: Node, shape: _Shape, weights: Weights, view: _View, *, prefix: str) -> Node:
    width, size = shape.width, shape.width // shape.heads
    together = _linear(weights, f"{prefix}Wqkv", 3 * width, width, biased=shape.attention_bias)
    # Attention wants scaled queries. Rotating keeps a scale, so it goes into the queries' weights.
    scales = np.repeat(np.array([size**-0.5, 1.0, 1.0], dtype=np.float32), width)
    scaled_bias = None if together.bias is None else together.bias * scales
    together = Linear(together.weight * scales[:, np.newaxis], scaled_bias)
    query, *others = ops.split(blocks.linear(x, together), blocks.integers(-1), 3).outputs()
    parts = (query, *(ops.concat([part, view.seen.blank], 1) for part in others))
    query, key, value = (blocks.split_heads(part, shape.heads, size) for part in parts)
    query, key = blocks.rotate(query, *view.turn), blocks.rotate(key, *view.key_turn)
    mixed = blocks.merge_heads(blocks.attention(query, key, value, view.seen.bias), width)
    return blocks.linear(mixed, _linear(weights, f"{prefix}Wo", width, width, biased=shape.attention_bias))


def _linear(weights: Weights, name: str, outputs: int, inputs: int, *, biased: bool) -> Linear:
    bias = weights.get(f"{name}.bias", outputs) if biased else None
    return Linear(weights.get(f"{name}.weight", outputs, inputs), bias)


def _norm(weights: Weights, name: str, shape: _Shape) -> Norm:
    bias = weights.get(f"{name}.bias", shape.width) if shape.norm_bias else None
    return Norm(weights.get(f"{name}.weight", shape.width), bias, shape.epsilon)
