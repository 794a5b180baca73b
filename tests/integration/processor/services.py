"""Embedding services that can fail: vectors depend on the text, and everything asked of them is counted."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.engine.lanes.clock import Clock
from embatch.frontends.processor.processor import BatchEmbeddingProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.types import FloatArray

DIMENSIONS = 6


def vector(text: str) -> FloatArray:
    """What every service here answers for a text: another one for every text."""
    digest = hashlib.blake2b(text.encode(), digest_size=2 * DIMENSIONS).digest()
    numbers: FloatArray = np.frombuffer(digest, np.uint16).astype(np.float32) + np.float32(1.0)
    return numbers


class Service:
    """See the module.

    Args:
        before: sees the texts of a call and its number, from 1, and may raise.
        spoil: sees the texts and the good answer, and gives back what is answered instead.
        delay_s: that each call takes.
    """

    def __init__(
        self,
        before: Callable[[list[str], int], None] | None = None,
        spoil: Callable[[list[str], Any], Any] | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.calls: list[list[str]] = []
        self.under_way = self.most = 0
        self._before = before
        self._spoil = spoil
        self._delay_s = delay_s

    async def generate_embeddings(self, texts: list[str]) -> Any:
        """Vectors, with one token a word."""
        self.calls.append(list(texts))
        number = len(self.calls)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self._delay_s)
            if self._before is not None:
                self._before(texts, number)
            answer = SimpleNamespace(
                embeddings=[vector(text).tolist() for text in texts],
                model="text-embedding-3-small",
                usage={"total_tokens": sum(len(text.split()) for text in texts)},
            )
            return answer if self._spoil is None else self._spoil(texts, answer)
        finally:
            self.under_way -= 1


def processor(service: object, **options: Any) -> BatchEmbeddingProcessor:
    """A processor whose pauses last a thousandth of what they are."""
    return BatchEmbeddingProcessor(service, **{"clock": Clock(200.0), "timeout": 6_000.0, **options})  # type: ignore[arg-type]  # any


def texts_of(count: int) -> list[str]:
    """Distinct texts."""
    return [f"chunk number {i}" for i in range(count)]
