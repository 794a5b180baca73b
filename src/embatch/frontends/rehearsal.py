"""A planned remote run, played against the emulator on fast time: what may happen, before anything is paid.

Each rehearsal is the run itself, over real HTTP on loopback, with the same windows, strategy, pacing and ledger, at an
emulated provider with the model's limits and with latencies, outages and stalls drawn from the published evidence.
Texts do not leave the machine. Vectors are made short: they are thrown away. Prompts are answered by the emulator, so
that the price of answers is that of its own, a line or two long.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embatch.engine.lanes.clock import Clock
from embatch.errors import EmbatchError, MissingExtraError
from embatch.frontends.generation import GenerateRun, GeneratingModel
from embatch.frontends.jobs import split_by
from embatch.frontends.planning import ReadOnly
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.frontends.remote_host import RemoteHost
from embatch.storage.cache import MemoryStore
from embatch.storage.ledger import Ledger
from embatch.types import BadItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.emulator import Emulator, EmulatorOptions
    from embatch.emulator.catalog import ProviderName
    from embatch.emulator.options import Quotas
    from embatch.frontends.jobs import SplitRule
    from embatch.remote import GenerateWork, ModelFacts
    from embatch.storage.learned import LearnedFacts
    from embatch.types import Item, LaneReport, Overlong

KEY = "rehearsal"
_DIMENSIONS = 128  # fewer numbers to send around: they are not looked at
_EMULATED: dict[str, ProviderName] = {"gemini": "gemini", "openai": "openai", "compatible": "openai"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """How one rehearsal ended."""

    seed: int
    seconds: float
    """Of the provider's time, from the first text sent to the last result."""
    dollars: float
    """As the emulator billed it."""
    failed: int
    """Texts without a vector."""
    lanes: LaneReport
    error: str | None = None
    """Why the run ended before its end; None if it did not."""
    real_seconds: float = 0.0


def rehearse(  # noqa: PLR0913  # one argument for each choice that a user has
    model: str,
    rows: Sequence[Item | BadItem],
    *,
    settings: LaneSettings,
    facts: ModelFacts,
    seed: int,
    time_scale: float,
    rule: SplitRule | None = None,
    overlong: Overlong = "truncate",
    task: str | None = None,
    tier: str | None = None,
    generate: GenerateWork | None = None,
    learned: LearnedFacts | None = None,
) -> Rehearsed:
    """Play the run once.

    Args:
        model: a provider's model, as for `Embedder`.
        rows: what would be embedded.
        settings: of the lanes.
        facts: of the model: its quotas become the emulator's.
        seed: of latencies and outages.
        time_scale: seconds of the provider's in one of ours.
        rule: how texts longer than the model are split; None leaves them whole.
        overlong: as for `Embedder`.
        task: as for `Embedder`.
        tier: that the facts are of.
        generate: what is asked for each text of a model that answers prompts; None for one that makes vectors.
        learned: what earlier runs learned, to begin with; it is not changed.

    Raises:
        MissingExtraError: the emulator's libraries are not installed.
    """
    emulator_class, options_class, quotas_class = _emulator()
    job = facts.job
    quotas = quotas_class(
        requests=facts.rates.requests,
        items=facts.rates.items,
        tokens=facts.rates.tokens,
        enqueued_tokens=job.enqueued_tokens if job else None,
        concurrent_jobs=job.concurrent if job else None,
    )
    options = options_class(seed=seed, time_scale=time_scale, quotas=quotas)
    started = time.perf_counter()
    with emulator_class(_EMULATED[facts.provider], options=options) as emulator:
        from embatch.providers.registry import open_provider

        provider = open_provider(model, base_url=emulator.url, api_key=KEY, tier=tier)
        kept = None if learned is None else ReadOnly(learned)
        clock = Clock(time_scale)
        if generate is not None:
            answering = GeneratingModel(provider, settings=settings, learned=kept, clock=clock)
            with closing(answering):
                failed, lanes, error = _answer(answering, rows, generate)
        else:
            with closing(RemoteModel(provider, settings=settings, learned=kept, clock=clock)) as remote:
                failed, lanes, error = _embed(remote, rows, rule, overlong, task)
        dollars = emulator.billing(entries=False).dollars
    return Rehearsed(
        seed=seed,
        seconds=lanes.seconds,
        dollars=dollars,
        failed=failed,
        lanes=lanes,
        error=error,
        real_seconds=time.perf_counter() - started,
    )


def _answer(
    model: GeneratingModel, rows: Sequence[Item | BadItem], work: GenerateWork
) -> tuple[int, LaneReport, str | None]:
    ledger = Ledger.open(None, fingerprint="", about={})
    run = GenerateRun(model, work, ledger=ledger, collect=True)
    prompts = ((row.key, row.error if isinstance(row, BadItem) else row.text) for row in rows)
    failed, error = 0, None
    try:
        for _, answer in run.run(prompts):
            failed += isinstance(answer, EmbatchError)
    except EmbatchError as raised:
        error = str(raised)
    if run.stopped_by is not None:
        error = str(run.stopped_by)
    ledger.close()
    return failed, replace(run.report), error


def _embed(
    remote: RemoteModel,
    rows: Sequence[Item | BadItem],
    rule: SplitRule | None,
    overlong: Overlong,
    task: str | None,
) -> tuple[int, LaneReport, str | None]:
    facts = remote.facts
    short = facts.min_dimensions is not None and facts.min_dimensions <= _DIMENSIONS < facts.dimensions
    host = RemoteHost(remote, dimensions=_DIMENSIONS if short else None, overlong=overlong)
    pipeline = host.pipeline(task, store=MemoryStore())
    error = None
    try:
        for _ in pipeline.run(split_by(rows, remote, host.spec_for(task), rule)):
            pass
    except EmbatchError as raised:
        error = str(raised)
    lanes = pipeline.report.lanes
    assert lanes is not None
    return pipeline.report.failed, replace(lanes), error


def _emulator() -> tuple[type[Emulator], type[EmulatorOptions], type[Quotas]]:
    """The emulator's classes, which need an extra."""
    try:
        import python_multipart  # noqa: F401  # the server imports it when it starts: missed now, not then
        import starlette  # noqa: F401  # the server's libraries are looked for before anything is read
        import uvicorn  # noqa: F401  # same

        from embatch.emulator import Emulator, EmulatorOptions
        from embatch.emulator.options import Quotas
    except ImportError as error:
        raise MissingExtraError(
            f"the emulator needs {error.name}", hint='Install it: pip install "embatch[emulator]"'
        ) from error
    return Emulator, EmulatorOptions, Quotas
