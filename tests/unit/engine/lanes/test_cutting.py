"""Texts whose tokens were estimated too low, at a provider that refuses what is too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.fake_provider import FakeProvider

from embatch import Embedder
from embatch.engine.lanes.clock import Clock
from embatch.errors import ProviderError
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))


def too_long_beyond(characters: int) -> Callable[[Sequence[str]], None]:
    """Refuses calls with a longer text, as a provider whose tokens are shorter than was estimated."""

    def refuse(texts: Sequence[str]) -> None:
        if any(len(text) > characters for text in texts):
            raise ProviderError("maximum context length is 8192 tokens", kind=ErrorKind.INPUT_TOO_LONG)

    return refuse


def test_a_text_refused_as_too_long_is_cut_until_it_fits() -> None:
    """With `truncate`, an estimate that was too low costs a few calls and no text; the report counts the cuts."""
    provider = FakeProvider(before_call=too_long_beyond(200))
    texts = ["short", "word " * 70, "also short"]
    with Embedder(
        backend=RemoteModel(provider, settings=LaneSettings(strategy="individual"), clock=Clock(1000))
    ) as e:
        result = e.embed(texts)
    assert np.isfinite(result.vectors).all()
    assert result.report.lanes is not None
    assert result.report.lanes.cut >= 1
    (sent,) = [text for call in provider.calls for text in call if len(text) > 20]
    assert texts[1].startswith(sent)
    assert len(sent) > 100


def test_a_text_refused_as_too_long_fails_where_that_was_asked_for() -> None:
    """With `overlong="error"` it is named instead, and the others are not touched."""
    provider = FakeProvider(before_call=too_long_beyond(200))
    remote = RemoteModel(provider, settings=LaneSettings(strategy="individual"), clock=Clock(1000))
    with Embedder(backend=remote, overlong="error") as e:
        result = e.embed(["short", "word " * 70], on_error="collect")
    assert [failure.row for failure in result.errors] == [1]
