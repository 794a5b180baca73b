"""One Embedder over a provider, call after call: what went wrong in one must not stand in the way of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.fake_provider import FakeProvider, vector

from embatch import Embedder, ItemsFailedError
from embatch.engine.lanes.clock import Clock
from embatch.errors import ProviderError
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = [f"text {number}" for number in range(40)]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))


def opened(provider: FakeProvider, strategy: str = "individual") -> Embedder:
    settings = LaneSettings(strategy=strategy)  # type: ignore[arg-type]  # one of its words
    return Embedder(backend=RemoteModel(provider, settings=settings, clock=Clock(1000)))


@pytest.mark.parametrize("kind", [ErrorKind.AUTH, ErrorKind.RATE_DAY, ErrorKind.QUOTA_MONEY])
def test_a_call_after_one_that_was_stopped(kind: ErrorKind) -> None:
    """Credit that was topped up, or a new day, is noticed by the next call."""
    refuses = [True]

    def refuse(_: Sequence[str]) -> None:
        if refuses[0]:
            raise ProviderError("no", kind=kind)

    with opened(FakeProvider(before_call=refuse)) as embedder:
        with pytest.raises(ProviderError):
            embedder.embed(TEXTS)
        refuses[0] = False
        np.testing.assert_array_equal(embedder.embed(TEXTS).vectors, np.stack([vector(t) for t in TEXTS]))


def test_a_retry_while_the_failure_is_looked_at_pays_nothing_twice() -> None:
    """Files of a call that failed are free again while its exception is still alive."""

    def refuse(sent: Sequence[str]) -> None:
        if "bad" in sent:
            raise ProviderError("refused", kind=ErrorKind.BAD_INPUT)

    provider = FakeProvider(before_call=refuse)
    with opened(provider, "hybrid") as embedder:
        try:
            embedder.embed([*TEXTS, "bad"])
        except ItemsFailedError:
            embedder.embed([*TEXTS, "bad"], on_error="collect")
    assert max(count for text, count in provider.billed().items() if text != "bad") == 1


def test_a_job_that_is_refused_for_its_content_is_submitted_once() -> None:
    """The same file would be refused again: calls take over and find the text to blame."""
    submitted: list[int] = []

    def before_submit() -> None:
        submitted.append(1)
        raise ProviderError("a bad line", kind=ErrorKind.BAD_INPUT)

    provider = FakeProvider(before_submit=before_submit)
    with opened(provider, "batch") as embedder:
        np.testing.assert_array_equal(embedder.embed(TEXTS).vectors, np.stack([vector(t) for t in TEXTS]))
    assert len(submitted) == 1
