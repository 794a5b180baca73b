"""Clients over the provider in memory, on fast time, with runs and what is learned in a folder of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.fake_provider import FakeProvider, facts

from embatch.engine.lanes.clock import Clock
from embatch.gemini import SmartGeminiClient
from embatch.remote import Generated, JobRow, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.remote import JobRef

    Make = Callable[..., Any]

SCALE = 2000.0


class PromptProvider(FakeProvider):
    """The double, for a model that answers prompts: its jobs do, too."""

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows."""
        known = self._job(job)
        if known.cancelled or self.end_state is JobState.FAILED:
            return
        for key, text in known.rows:
            row = JobRow(key, Generated(f"answer to {text}", 3, 5, "STOP"), 3)
            yield from [row] if self.spoil is None else self.spoil(row)


def prompt_provider(**changes: Any) -> PromptProvider:
    """One whose model has no dimensions."""
    return PromptProvider(facts=facts(dimensions=0, model="chat"), **changes)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and what is learned stay in this test; so does the working folder."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake() -> FakeProvider:
    """The provider of models that make vectors."""
    return FakeProvider()


@pytest.fixture
def chat() -> PromptProvider:
    """The provider of models that answer prompts."""
    return prompt_provider()


@pytest.fixture
def make(fake: FakeProvider, chat: PromptProvider) -> Iterator[Make]:
    """`make(kind=SmartGeminiClient, …)` gives a client over `fake` and, for models called chat…, `chat`."""
    clients: list[SmartGeminiClient] = []

    def make_client(
        *arguments: Any, kind: type[SmartGeminiClient] = SmartGeminiClient, **options: Any
    ) -> Any:
        client = kind(
            None,
            options.pop("model", "fake"),
            *arguments,
            provider=lambda name: chat if name.startswith("chat") else fake,
            clock=options.pop("clock", None) or Clock(SCALE),
            **options,
        )
        clients.append(client)
        return client

    yield make_client
    for client in clients:
        client.close()
