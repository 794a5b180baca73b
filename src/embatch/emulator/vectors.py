"""The vectors that the emulator answers with: derived from model, task, title and text, and from nothing else.

A swapped, lost or doubled row shows, because no two texts share a vector. Vectors are cheap (some microseconds each),
consistent when cut (`vector(…, dims=d)` is the beginning of the full one, up to its length) and exact: coordinates are
whole hundred-millionths, so that decimal and binary forms of an answer read back as the same float32.

Leaves out meaning: similar texts have unrelated vectors.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from embatch.emulator.catalog import EmulatedModel, find_model
from embatch.emulator.tokens import cut, utf8

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_ONE = 100_000_000
_BLOCK = 128
# The squared length of a vector's first d of D dimensions is (d / D) ** 0.76: so cut, a vector of 3072 dimensions has
# length 0.59 at 768, which is what gemini-embedding-001 was measured to give.
_SHARE = 0.76


def vector(
    model: str,
    text: str | Sequence[int],
    task: str | None = None,
    dims: int | None = None,
    *,
    title: str | None = None,
) -> NDArray[np.float32]:
    """What the emulator answers for one text.

    Args:
        model: name of a model that the emulator serves.
        text: a string, or token ids.
        task: the provider's task type; it changes vectors of models that know tasks only.
        dims: how many dimensions; None for all.
        title: of the document, for models that take one.

    Returns:
        (dims,) float32: exactly what a client reads.

    Raises:
        ValueError: no such model, or not one that embeds.
    """
    found = find_model(model)
    if found is None or found.verb != "embed":
        raise ValueError(f"the emulator has no embedding model {model!r}")
    values: NDArray[np.float32] = (hundred_millionths(found, [text], task, dims, title)[0] / _ONE).astype(
        "f4"
    )
    return values


def hundred_millionths(
    model: EmulatedModel,
    texts: Sequence[str | Sequence[int]],
    task: str | None = None,
    dims: int | None = None,
    title: str | None = None,
) -> NDArray[np.int32]:
    """(texts, dims) int32: the vectors of several texts, in units of 1e-8."""
    dims = model.dimensions if dims is None else dims
    known = (task or "", title or "") if model.tasks else ("", "")
    head = hashlib.shake_128("\0".join((model.name, *known, "")).encode())
    blocks = -(-dims // _BLOCK)
    drawn = b"".join(_draw(head, text, model, blocks * _BLOCK * 2) for text in texts)
    raw = np.frombuffer(drawn, "<i2").reshape(len(texts), blocks, _BLOCK).astype(np.int32)
    squares = (raw * raw).sum(axis=2, dtype=np.int64)
    edges = (np.arange(blocks + 1) * _BLOCK / model.dimensions) ** _SHARE
    scale = np.sqrt(np.diff(edges) / np.maximum(squares, 1))
    whole = (raw * scale[:, :, None]).reshape(len(texts), -1)[:, :dims]
    if model.unit_when_cut and dims < model.dimensions:
        whole /= _length(whole)[:, None]
    values: NDArray[np.int32] = np.rint(whole * _ONE).astype(np.int32)
    return values


def _draw(head: hashlib._Hash, text: str | Sequence[int], model: EmulatedModel, size: int) -> bytes:
    """Pseudo-random bytes of a text; fewer are the beginning of more."""
    digest = head.copy()
    if isinstance(text, str):
        digest.update(utf8(cut(text, model.item_tokens)))
    else:
        digest.update(b"\0ids:" + " ".join(map(str, text)).encode())
    return digest.digest(size)  # type: ignore[call-arg]  # shake digests take a size; the stub's class is shared


def _length(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean length of each row, added up in one fixed order, so that a row's is the same in any company."""
    total = np.zeros(len(rows))
    for start in range(0, rows.shape[1], _BLOCK):
        part = rows[:, start : start + _BLOCK]
        total += np.ascontiguousarray(part * part).sum(axis=1)
    return np.sqrt(total)


# --- as text ---------------------------------------------------------------------------------------------------------

# Four decimal digits each, as the four bytes of one number, so that a row of coordinates is a row of such numbers.
_FOUR = np.frombuffer(b"".join(b"%04d" % i for i in range(10_000)), "<u4")
_HEADS = np.frombuffer(b", 0.,-0., 1.,-1.", "<u4").reshape(
    2, 2
)  # [whole, negative]; a space is the plus sign


def decimal_rows(values: NDArray[np.int32]) -> list[bytes]:
    """Each row as the inside of a JSON array: `0.12345678,-0.00012300`, twelve bytes a number."""
    size = np.abs(values)
    out = np.empty((*values.shape, 3), "<u4")
    out[:, :, 0] = _HEADS[size // _ONE, (values < 0).astype(np.intp)]
    out[:, :, 1] = _FOUR[size // 10_000 % 10_000]
    out[:, :, 2] = _FOUR[size % 10_000]
    return [row.tobytes()[1:] for row in out]


def base64_rows(values: NDArray[np.int32]) -> list[bytes]:
    """Each row as OpenAI's base64: float32, little-endian."""
    return [base64.b64encode(row.tobytes()) for row in (values / _ONE).astype("<f4")]
