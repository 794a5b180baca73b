"""Token ids of several texts as the two rectangles that a graph takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import IntArray


def pad(payloads: Sequence[Any], pad_id: int) -> tuple[IntArray, IntArray]:
    """Ids padded on the right with `pad_id`, and the mask (1: token, 0: padding); both `(n, longest)` int32."""
    lengths = np.fromiter(map(len, payloads), dtype=np.int64, count=len(payloads))
    longest = max(int(lengths.max()), 1)
    if len(payloads) == 1 and lengths[0] == longest:
        return payloads[0][np.newaxis], np.ones((1, longest), dtype=np.int32)
    real = np.arange(longest) < lengths[:, np.newaxis]
    ids = np.full(real.shape, pad_id, dtype=np.int32)
    ids[real] = np.concatenate(payloads)
    return ids, real.astype(np.int32)
