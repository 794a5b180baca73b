"""A run in words: the figures on top, and a paragraph that says what was done. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.decisions.lanes.words import count
from embatch.frontends.report.figures import Headline
from embatch.frontends.view import dollars, duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embatch.frontends.report.figures import Figures

_DID = {
    "embed": "embedded",
    "index": "embedded for an index",
    "generate": "answered",
    "serve": "embedded for clients",
}
_ENDS = {
    "done": "",
    "interrupted": " It was interrupted.",
    "failed": " It failed before its end.",
    "running": " It still goes on.",
    "killed": " It was killed before its end.",
}


def headlines(figures: Figures, foot: Mapping[str, Any]) -> tuple[Headline, ...]:
    """The figures on top."""
    return tuple(_headlines(figures, foot))


def _headlines(figures: Figures, foot: Mapping[str, Any]) -> Iterator[Headline]:
    t = figures.totals
    noun = figures.noun
    seconds = t.seconds or figures.seconds
    if figures.kind == "serve":
        refused = f"{t.asks_unanswered:,} not answered" if t.asks_unanswered else "all answered"
        yield Headline(label="requests", value=f"{t.asks:,}", note=refused)
    failed = f"{t.failed:,} without a result" if t.failed else "none failed"
    yield Headline(label=f"{noun}s", value=f"{t.items:,}", note=failed)
    yield Headline(label="tokens", value=short(t.tokens), note=f"{t.tokens:,}")
    rate = t.items / seconds if seconds else 0.0
    yield Headline(
        label=f"{noun}s a second",
        value=short(rate),
        note=f"{short(t.tokens / seconds if seconds else 0)} tokens a second",
    )
    yield Headline(label="time", value=duration(seconds), note=_state(figures.state))
    if figures.lanes:
        money = "no price known" if t.dollars is None else dollars(t.dollars)
        before = f"and {dollars(t.earlier_dollars)} before" if t.earlier_dollars else "by the price list"
        yield Headline(label="cost", value=money, note=before if t.dollars is not None else "")
        yield Headline(label="calls, jobs", value=f"{t.calls:,}, {t.jobs:,}", note=_troubles(figures))
    else:
        yield Headline(label="cost", value="$0", note="on this machine")
        if t.padded_tokens:
            yield Headline(label="padding", value=f"{t.padding:.1%}", note="of the tokens computed")
    sync = foot.get("sync")
    if isinstance(sync, dict):
        yield Headline(
            label="files", value=f"{sync.get('files', 0):,}", note=f"{sync.get('unchanged', 0):,} unchanged"
        )


def _state(state: str) -> str:
    return {"done": "done", "killed": "killed", "running": "still running"}.get(state, state)


def _troubles(figures: Figures) -> str:
    t = figures.totals
    words = [
        f"{t.calls_refused:,} refused" if t.calls_refused else "",
        f"{t.calls_failed:,} failed" if t.calls_failed else "",
    ]
    return ", ".join(word for word in words if word) or "none refused"


def paragraph(figures: Figures, head: Mapping[str, Any], foot: Mapping[str, Any]) -> str:
    """What was done, in plain words."""
    return " ".join(_sentences(figures, head, foot)) + _ENDS.get(figures.state, "")


def _sentences(figures: Figures, head: Mapping[str, Any], foot: Mapping[str, Any]) -> Iterator[str]:
    t = figures.totals
    did = _DID.get(figures.kind, "processed")
    of = f" by {figures.model}" if figures.model else ""
    where = f" on {figures.device}" if figures.device and not figures.lanes else ""
    they = f"{count(t.items, figures.noun)} {'was' if t.items == 1 else 'were'} {did}"
    yield f"{they}{of}{where} in {duration(t.seconds or figures.seconds)}."
    yield from _served(figures)
    if figures.lanes:
        yield _sent(figures)
    elif t.batches:
        streams = f" on {t.streams} streams" if t.streams > 1 else ""
        padded = t.padded_tokens > t.tokens
        pad = f"{t.padding:.1%} of what was computed was padding" if padded else "nothing was padded"
        they = "It" if t.items == 1 else "They"
        yield f"{they} went through {t.batches:,} {'batch' if t.batches == 1 else 'batches'}{streams}; {pad}."
    found = [
        (t.duplicates, "repeats of another" if figures.kind != "generate" else "repeats or answered before"),
        (t.cached, "stored before"),
        (t.truncated, "cut to what the model takes"),
        (t.pooled, "averaged over windows"),
    ]
    told = [f"{number:,} {what}" for number, what in found if number]
    if told:
        yield f"Of these, {', '.join(told)}."
    sync = foot.get("sync")
    if isinstance(sync, dict):
        yield (
            f"Files: {sync.get('files', 0):,}, of them new {sync.get('added', 0):,} and changed "
            f"{sync.get('changed', 0):,}; gone {sync.get('removed', 0):,}. Chunks that kept their vector: "
            f"{sync.get('reused', 0):,}."
        )
    if t.retries:
        yield f"{t.retries:,} {'batch was a part' if t.retries == 1 else 'batches were parts'} of others that failed."
    if t.out_of_memory:
        batches, were = ("batch", "was") if t.out_of_memory == 1 else ("batches", "were")
        yield f"{t.out_of_memory:,} {batches} did not fit into memory and {were} halved."
    if t.waits:
        times = "Once" if t.waits == 1 else f"{t.waits:,} times"
        yield f"{times} nothing was under way though something waited, for {duration(t.wait_s)} in all."
    if t.failed:
        yield f"{count(t.failed, figures.noun)} {'has' if t.failed == 1 else 'have'} no result; they are named below."
    output = head.get("output")
    if output and figures.kind != "serve":
        yield f"The result is {output}."


def _served(figures: Figures) -> Iterator[str]:
    t = figures.totals
    if t.asks:
        late = (
            f", of which {t.asks_unanswered:,} got no answer"
            if t.asks_unanswered
            else ", all of them answered"
        )
        yield f"Clients asked in {t.asks:,} {'request' if t.asks == 1 else 'requests'}{late}."


def _sent(figures: Figures) -> str:
    t = figures.totals
    ways = [count(t.calls, "call") if t.calls else "", count(t.jobs, "job") if t.jobs else ""]
    sent = " and ".join(way for way in ways if way)
    if not sent:
        return "Nothing had to be sent."
    paid = "" if t.dollars is None else f", for {dollars(t.dollars)}"
    again = f" {count(t.again, figures.noun)} had to be sent again." if t.again else ""
    return f"They were sent in {sent}{paid}.{again}"


def short(number: float) -> str:
    """`950`, `12.3k`, `1.2M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.99995:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
