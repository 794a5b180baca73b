"""A model folder in the layout of sentence-transformers, small enough to be sent around by the thousand.

Its weights are real safetensors, so that whatever reads headers has something to read; no engine could run it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from pathlib import Path

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
CONFIG = {"model_type": "bert", "hidden_size": 4, "max_position_embeddings": 16}


def write_tiny_model(folder: Path, *, seed: int = 0, weight_bytes: int = 4096) -> Path:
    """Write one; another seed gives other weights of the same size."""
    _write(folder / "config.json", CONFIG)
    _write(folder / "modules.json", MODULES)
    _write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    _write(folder / "tokenizer.json", {"version": "1.0"})
    numbers = np.random.default_rng(seed).standard_normal(weight_bytes // 4, dtype=np.float32)
    save_file({"w": numbers}, str(folder / "model.safetensors"))
    return folder


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
