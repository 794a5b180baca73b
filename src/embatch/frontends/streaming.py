"""One prompt's answer, piece by piece as it comes.

The request goes through the lanes like every other call, with their pacing, retries and bill: the run drives a provider
whose calls hand their pieces on. Once a piece was handed on nothing is asked again; what breaks then is the reader's to
know. Jobs have no pieces, and nothing here submits one.
"""

from __future__ import annotations

import queue
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from embatch.engine.lanes.run import LaneRun
from embatch.engine.window import check_text, text_digest
from embatch.errors import EmbatchError, ProviderError
from embatch.frontends.generation import answer_spec, check_generation
from embatch.providers.work import estimate_tokens
from embatch.remote import CallAnswer, ErrorKind, Generated
from embatch.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embatch.frontends.generation import GeneratingModel
    from embatch.frontends.remote import LaneSettings
    from embatch.remote import GenerateWork, Provider, Work
    from embatch.types import LaneReport


class _End:
    """No more pieces will come."""

    def __init__(self, error: BaseException | None, report: LaneReport | None) -> None:
        self.error = error
        self.report = report


class _Pieces:
    """A provider whose calls hand on the pieces of their answer: what a run needs of one that only makes calls."""

    def __init__(self, provider: Provider) -> None:
        self.facts = provider.facts
        self.name = provider.name
        self.account = provider.account
        self.left = threading.Event()
        """Set when nobody reads any more."""
        self.queue: queue.SimpleQueue[str | _End] = queue.SimpleQueue()
        self.broken: Exception | None = None
        """What ended the answer after its first piece."""
        self._provider = provider

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One request, whose pieces are handed on as they come."""
        said: list[str] = []
        pieces: Any = self._provider.stream(texts[0], cast("GenerateWork", work), timeout_s=timeout_s)
        try:
            with closing(pieces):
                for piece in pieces:
                    said.append(piece)
                    self.queue.put(piece)
                    if self.left.is_set():
                        break
        except Exception as error:
            if not said:
                raise
            self.broken = error
        answer = "".join(said)
        return CallAnswer(results=[Generated(answer, None, estimate_tokens(self.facts, answer))])


def stream_answer(
    model: GeneratingModel,
    work: GenerateWork,
    text: str,
    *,
    settings: LaneSettings,
    on_end: Callable[[LaneReport], None] | None = None,
) -> Iterator[str]:
    """Pieces of one answer. Close the iterator, or use it up.

    Args:
        model: open until the last piece.
        work: what is asked.
        text: the prompt.
        settings: goals and how many calls at once; the strategy is `individual` in any case.
        on_end: is told what the request came to, in the reader's thread, once the last piece was read.

    Raises:
        ItemError: the prompt is no text, or was refused.
        ProviderError: nothing can succeed any more, or the answer broke off.
        GoalError: the budget does not allow it.
    """
    error = check_text(text)
    if error is not None:
        raise error
    check_generation(model.facts, work)
    pieces = _Pieces(model.provider)
    plain = replace(settings, strategy="individual", threshold=None)
    threading.Thread(
        target=_drive, args=(model, work, text, plain, pieces), name="embatch-stream", daemon=True
    ).start()
    try:
        while not isinstance(piece := pieces.queue.get(), _End):
            yield piece
        if on_end is not None and piece.report is not None:
            on_end(piece.report)
        if piece.error is not None:
            raise piece.error
    finally:
        pieces.left.set()


def _drive(
    model: GeneratingModel, work: GenerateWork, text: str, settings: LaneSettings, pieces: _Pieces
) -> None:
    """Send it, and tell the reader when it is over."""
    end: BaseException | None = None
    report: LaneReport | None = None
    spec = answer_spec(model, work)
    try:
        with closing(Ledger.open(None, fingerprint=spec.fingerprint, about={"model": spec.model})) as ledger:
            report = model.new_report(settings, ledger)
            end = _send(model, work, text, pieces, ledger, settings, report)
    except BaseException as error:  # noqa: BLE001  # the reader, who waits, raises it
        end = error
    finally:
        pieces.queue.put(_End(end, report))


def _send(
    model: GeneratingModel,
    work: GenerateWork,
    text: str,
    pieces: _Pieces,
    ledger: Ledger,
    settings: LaneSettings,
    report: LaneReport,
) -> EmbatchError | None:
    digest = text_digest(text)
    ledger.add([(digest, text, estimate_tokens(model.facts, (work.system or "") + text))])
    run = model.run_for(work, lambda *_: None, ledger=ledger, settings=settings, report=report)
    LaneRun(replace(run.parts, provider=cast("Provider", pieces))).run()
    if pieces.broken is not None:
        return _broke_off(pieces.broken)
    return ledger.errors([digest]).get(digest)


def _broke_off(error: Exception) -> EmbatchError:
    if isinstance(error, EmbatchError):
        return error
    broken = ProviderError(f"the answer broke off: {error}", kind=ErrorKind.PROTOCOL)
    broken.__cause__ = error
    return broken
