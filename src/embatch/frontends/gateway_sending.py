"""One pile on its way to a provider: what is stored, what may be spent, one run, and each input's own result.

Between the piles and the lanes. A text that the provider refuses fails alone, in the asks that hold it; what ends the
run as a whole ends the asks whose texts were not sent.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from embatch.engine.window import as_items, text_digest
from embatch.errors import EmbatchError, GoalError, NotSentError, ProviderError
from embatch.frontends.gateway_asking import Row, Work
from embatch.remote import ErrorKind, Goal
from embatch.seen import BatchSeen
from embatch.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.engine.coalesce.pile_asks import PileOnItsWay
    from embatch.engine.lanes.pipeline import LanePipeline
    from embatch.frontends.gateway_asking import Input
    from embatch.storage.spending import Purse
    from embatch.types import FloatArray, LaneReport

    GatewayPile = PileOnItsWay[Input, Row]

_log = logging.getLogger(__name__)
_MARGIN = (
    2.1  # a run sends nothing that might cost more than is left of its budget, by twice the estimate at first
)
_TRIES = 3  # reservations for one pile: what calls that were lost may have cost is made up for


class Bill(NamedTuple):
    """What a pile came to."""

    calls: int
    dollars: float
    tokens: int


class Sending:
    """Sends one pile.

    Args:
        pile: whose terms are a `Work`.
        purse: what may be spent; None for no bound and no record.
        begun: told of each run before it sends anything, so that it can be stopped from elsewhere.
    """

    def __init__(self, pile: GatewayPile, purse: Purse | None, begun: Callable[[LanePipeline], None]) -> None:
        assert isinstance(pile.terms, Work)
        self._work = pile.terms
        self._pile = pile
        self._purse = purse
        self._begun = begun
        self._rows: dict[str, Row | EmbatchError] = {}
        self._payers: dict[str, list[str | None]] = {}
        """Texts to who wants them."""
        self._estimates: dict[str, int] = {}
        self._truncated: set[str] = set()
        self.bill = Bill(0, 0.0, 0)
        self.seen: list[BatchSeen] = []
        """Its runs, for an observer."""

    def go(self) -> list[Row | EmbatchError]:
        """Results of all inputs, in the order of the pile."""
        inputs = self._pile.payloads
        for text, payer in inputs:
            wanted = self._payers.setdefault(text, [])
            if payer not in wanted:
                wanted.append(payer)
        self._count()
        self._recall()
        self._send()
        return [self._rows[text] for text, _ in inputs]

    # --- before anything is sent ------------------------------------------------------------------------------

    def _count(self) -> None:
        model, texts = self._work.host.backend, list(self._payers)
        tokenized = model.tokenize(texts, prompt=self._work.spec.prompt)
        correct = model.ratio.correct
        for i, text in enumerate(texts):
            self._estimates[text] = correct(int(tokenized.lengths[i]))
            if tokenized.truncated[i] and self._work.spec.overlong == "truncate":
                self._truncated.add(text)

    def _recall(self) -> None:
        """Another pile may have brought some of it meanwhile."""
        store = self._work.store
        if store is None:
            return
        digests = {text_digest(text): text for text in self._payers}
        for digest, vector in store.get(list(digests)).items():
            text = digests[digest]
            self._rows[text] = self._row(text, vector, cached=True)

    def _missing(self) -> list[str]:
        return [text for text in self._payers if text not in self._rows]

    # --- sending ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Runs, until every text has its result: more than one only where money is short."""
        tries = 0
        while texts := self._missing():
            shares = self._reserve(texts)
            own = [text for share in shares for text in share.texts]
            if not own:
                continue  # all, or some at least, were refused
            stopped = self._run(own, shares)
            tries += stopped is not None
            again = isinstance(stopped, GoalError) and self._bounded and tries < _TRIES
            if stopped is not None and not again:
                self._rows.update(dict.fromkeys(self._missing(), stopped))

    @property
    def _bounded(self) -> bool:
        return self._purse is not None and self._purse.bounded

    def _reserve(self, texts: Sequence[str]) -> list[Share]:
        """Who pays for which texts. What nobody can pay for has its error then; the rest may go in another run."""
        if self._purse is None:
            return [Share(None, list(texts), 0.0, None)]
        shares: list[Share] = []
        try:
            refused = self._divide(self._purse, texts, shares)
        except EmbatchError:
            self._settle(shares, 0.0)
            raise
        if not shares:
            self._rows.update(refused)
        return shares

    def _divide(self, purse: Purse, texts: Sequence[str], shares: list[Share]) -> dict[str, GoalError]:
        """Add each payer's share; texts that none can pay for now, some of which none ever can."""
        left = dict.fromkeys(texts)
        refused: dict[str, GoalError] = {}
        for payer in dict.fromkeys(payer for text in texts for payer in self._payers[text]):
            own = [text for text in left if payer in self._payers[text]]
            share, error = self._share(purse, payer, own)
            if share is not None:
                shares.append(share)
                refused = {text: why for text, why in refused.items() if text not in share.texts}
                left = {text: None for text in left if text not in share.texts}
            elif error is not None:
                too_dear = self._price(own[:1])
                refused.update((text, error) for text in own if self._price([text]) >= too_dear)
        return refused

    def _share(
        self, purse: Purse, payer: str | None, texts: Sequence[str]
    ) -> tuple[Share | None, GoalError | None]:
        """As many of the oldest as a payer can pay for; or why not even one."""
        refusal: GoalError | None = None
        while texts:
            dollars = self._price(texts) * _MARGIN
            try:
                return Share(payer, list(texts), dollars, purse.reserve(payer, dollars)), None
            except GoalError as error:
                refusal = error
                texts = texts[: len(texts) // 2]
        return None, refusal

    def _price(self, texts: Sequence[str]) -> float:
        prices = self._work.host.backend.facts.prices
        tokens = sum(self._estimates[text] for text in texts)
        return 0.0 if prices is None else tokens * prices.individual / 1e6

    def _run(self, texts: Sequence[str], shares: Sequence[Share]) -> EmbatchError | None:
        """One run over distinct texts; what ended it before everything was sent."""
        work, started, at = self._work, time.monotonic(), time.time()
        spec = work.spec
        ledger = Ledger.open(None, fingerprint=spec.fingerprint, about={"model": spec.model})
        pipeline: LanePipeline | None = None
        stopped: EmbatchError | None = None
        try:
            budget = sum(share.dollars for share in shares) if self._bounded else None
            pipeline = self._pipeline(ledger, budget)
            for block in pipeline.run(as_items(texts)):
                failed = {failure.row: failure.error for failure in block.failures}
                for row, vector in enumerate(block.vectors, start=block.first_row):
                    self._take(texts[row], vector, failed.get(row))
            stopped = pipeline.stopped_by
        except EmbatchError as error:
            stopped = error
        finally:
            self._settle(shares, ledger.spent())
            ledger.close()
            lanes = pipeline.report.lanes if pipeline is not None else None
            if lanes is not None:
                self._conclude(texts, lanes, stopped, at=at, seconds=time.monotonic() - started)
        return stopped

    def _pipeline(self, ledger: Ledger, budget: float | None) -> LanePipeline:
        work = self._work
        settings = work.host.backend.settings
        own = settings.goal.budget
        if own is not None:
            budget = own if budget is None else min(own, budget)
        pipeline = work.host.pipeline(
            work.task,
            store=work.store,
            ledger=ledger,
            settings=replace(settings, strategy="individual", threshold=None, goal=Goal(budget=budget)),
            collect=True,
        )
        self._pile.on_unwanted = lambda: pipeline.stop(
            ProviderError("nobody waits for this any more", kind=ErrorKind.CONNECTION)
        )
        if not self._pile.wanted:
            self._pile.on_unwanted()
        self._begun(pipeline)
        return pipeline

    # --- afterwards -------------------------------------------------------------------------------------------

    def _take(self, text: str, vector: FloatArray, error: EmbatchError | None) -> None:
        if error is None:
            self._rows[text] = self._row(text, vector)
        elif not isinstance(error, NotSentError):
            self._rows[text] = Row(None, error)

    def _row(self, text: str, vector: FloatArray, *, cached: bool = False) -> Row:
        return Row(vector, None, self._estimates[text], text in self._truncated, cached)

    def _settle(self, shares: Sequence[Share], dollars: float) -> None:
        """Book what was spent, by what each had asked for."""
        if self._purse is None:
            return
        whole = sum(self._price(share.texts) for share in shares)
        for share in shares:
            part = self._price(share.texts) / whole if whole else 1 / len(shares)
            try:
                self._purse.settle(share.number or 0, dollars * part)
            except EmbatchError as error:  # the vectors are there, and what is reserved counts as spent
                _log.warning("what was spent could not be written down: %s", error)

    def _conclude(
        self,
        texts: Sequence[str],
        lanes: LaneReport,
        stopped: EmbatchError | None,
        *,
        at: float,
        seconds: float,
    ) -> None:
        estimates = [self._estimates[text] for text in texts]
        got = [text for text in texts if isinstance(row := self._rows.get(text), Row) and row.error is None]
        expected = sum(self._estimates[text] for text in got)
        if not (lanes.estimated_tokens or lanes.calls_failed) and lanes.call_tokens and expected:
            share = lanes.call_tokens / expected  # the provider has counted, all texts together
            for text in got:
                row = self._rows[text]
                assert isinstance(row, Row)
                self._rows[text] = row._replace(tokens=row.tokens * share)
        bill = self.bill
        self.bill = Bill(
            bill.calls + lanes.calls, bill.dollars + lanes.dollars, bill.tokens + lanes.call_tokens
        )
        self.seen.append(
            BatchSeen(
                at=at,
                seconds=seconds,
                stream=0,
                items=len(texts),
                longest=max(estimates),
                tokens=lanes.call_tokens,
                padded_tokens=lanes.call_tokens,
                budget=0,
                asks=self._pile.asks,
                priority=self._pile.priority,
                error="" if stopped is None else type(stopped).__name__,
            )
        )


class Share(NamedTuple):
    """What one payer pays for."""

    payer: str | None
    texts: list[str]
    dollars: float
    """Reserved."""
    number: int | None
    """Of the reservation."""
