"""Token ids of several texts as the two rectangles that a graph takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import IntArray


_TILE, _TILE_FEW, _SHORT, _FEW = 8, 4, 64, 512
"""Token counts are rounded up to a multiple of 8, in batches of few tokens to one of 4. Each new shape costs some 8 ms
for the compilation of kernels, and kernels work on tiles: fewer and rounder shapes measured 2 to 6 % faster on mixed
texts in spite of the padding (2 cores, AVX-512). Large batches of short texts are left as they are: of 13 tokens, three
more are a quarter. In small ones 8 ms are as much as all the computing: 700 of 2 to 12 texts took 3 to 8 % less."""


def pad(payloads: Sequence[Any], pad_id: int, max_tokens: int) -> tuple[IntArray, IntArray]:
    """Ids padded on the right with `pad_id`, and the mask (1: token, 0: padding); both `(n, tokens)` int32.

    Never padded beyond `max_tokens`, the longest payload there is: the model may have no positions there.
    """
    lengths = np.fromiter(map(len, payloads), dtype=np.int64, count=len(payloads))
    longest = max(int(lengths.max()), 1)
    tile = _tile(len(payloads), longest)
    tokens = max(longest, min(-(-longest // tile) * tile, max_tokens))
    real = np.arange(tokens) < lengths[:, np.newaxis]
    ids = np.full(real.shape, pad_id, dtype=np.int32)
    ids[real] = np.concatenate(payloads)
    return ids, real.astype(np.int32)


def _tile(items: int, longest: int) -> int:
    if items == 1:
        return _TILE_FEW
    if longest > _SHORT:
        return _TILE
    return _TILE_FEW if items * longest <= _FEW else 1
