"""Token ids of several texts as rectangles."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embatch.backends.openvino.batches import pad

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=9)


@given(lengths=LENGTHS, max_tokens=st.integers(40, 60))
def test_rows_are_the_payloads_and_nothing_else(lengths: list[int], max_tokens: int) -> None:
    """Each row is its payload, then the padding id; the mask says which is which; the width is within the limit."""
    payloads = [np.arange(1, length + 1, dtype=np.int32) for length in lengths]
    ids, mask = pad(payloads, 99, max_tokens)
    assert ids.shape == mask.shape
    assert ids.dtype == mask.dtype == np.int32
    assert max(1, *lengths) <= ids.shape[1] <= min(max(lengths) + 8, max_tokens)
    for row, payload in enumerate(payloads):
        np.testing.assert_array_equal(ids[row, mask[row] == 1], payload)
        assert (ids[row, len(payload) :] == 99).all()
        assert mask[row].tolist() == [1] * len(payload) + [0] * (ids.shape[1] - len(payload))


def test_few_shapes() -> None:
    """Near lengths share a shape: whole tiles of 8 tokens, of 4 in batches of few tokens."""
    two = {pad([np.ones(length, np.int32)] * 2, 0, 512)[0].shape[1] for length in range(65, 97)}
    one = {pad([np.ones(length, np.int32)], 0, 512)[0].shape[1] for length in range(1, 17)}
    few = {pad([np.ones(length, np.int32)] * 5, 0, 512)[0].shape[1] for length in range(1, 17)}
    assert two == {72, 80, 88, 96}
    assert one == few == {4, 8, 12, 16}


def test_large_batches_of_short_texts_are_not_padded() -> None:
    """Beyond 512 tokens of up to 64 each, the longest text alone says how wide a batch is."""
    for length, items in ((13, 40), (64, 9)):
        assert pad([np.ones(length, np.int32)] * items, 0, 512)[0].shape == (items, length)
