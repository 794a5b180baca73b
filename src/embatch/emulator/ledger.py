"""What was billed, one entry a text, with its time, lane, job and price: so that double payment shows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from embatch.emulator.tokens import utf8

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embatch.emulator.catalog import EmulatedModel, Price
    from embatch.emulator.options import EmulatorOptions
    from embatch.emulator.store import Billed, Store

Lane = Literal["individual", "batch"]


class Entry(NamedTuple):
    """One text that was billed."""

    time: float
    """Virtual seconds."""
    lane: Lane
    job: str | None
    model: str
    text: str
    """Digest of the text, as `digest` makes it: hexadecimal."""
    tokens: int
    output_tokens: int
    dollars: float


class Total(NamedTuple):
    """What a lane and a model came to."""

    lane: Lane
    model: str
    texts: int
    tokens: int
    output_tokens: int
    dollars: float


@dataclass(frozen=True, slots=True)
class Billing:
    """The ledger at one moment."""

    entries: Sequence[Entry]
    """In order of time of entry; empty if only totals were asked for."""
    totals: Sequence[Total]
    counts: dict[str, int]
    """Digest of a text → how often it was billed; empty if only totals were asked for."""

    def billed(self, text: str) -> int:
        """How often this text was billed."""
        return self.counts.get(digest(text), 0)

    @property
    def twice(self) -> list[str]:
        """Digests of texts that were billed more than once."""
        return [text for text, count in self.counts.items() if count > 1]

    @property
    def texts(self) -> int:
        """How many texts were billed, repeats included."""
        return sum(total.texts for total in self.totals)

    @property
    def tokens(self) -> int:
        """Tokens that were billed, generated ones aside."""
        return sum(total.tokens for total in self.totals)

    @property
    def dollars(self) -> float:
        """The bill."""
        return sum(total.dollars for total in self.totals)

    def lane(self, lane: Lane) -> list[Total]:
        """The totals of one lane."""
        return [total for total in self.totals if total.lane == lane]


class Charge(NamedTuple):
    """What a text costs."""

    text: str
    tokens: int
    output_tokens: int = 0


def digest(text: str) -> str:
    """What stands for a text in the ledger: 32 hexadecimal digits."""
    return _digest(text).hex()


def bill(
    store: Store, options: EmulatorOptions, model: EmulatedModel, charges: Iterable[Charge], *, now: float,
    job: str | None = None,
) -> None:  # fmt: skip  # one line a group
    """Enter texts: at the batch price if they are a job's, else at the individual one."""
    price = options.prices.get(model.name, model.price)
    lane: Lane = "batch" if job else "individual"
    rate, output_rate = _rates(price, lane)
    rows: list[Billed] = [
        (
            now,
            lane,
            job,
            model.name,
            _digest(charge.text),
            charge.tokens,
            charge.output_tokens,
            (charge.tokens * rate + charge.output_tokens * output_rate) / 1_000_000,
        )
        for charge in charges
    ]
    store.bill(rows)


def billing(store: Store, *, entries: bool = True) -> Billing:
    """The ledger as it stands."""
    totals = [Total(*row) for row in store.billed_totals()]  # type: ignore[arg-type]  # the lane's type is lost in SQL
    if not entries:
        return Billing([], totals, {})
    rows = [Entry(*row[:4], row[4].hex(), *row[5:]) for row in store.billed()]  # type: ignore[arg-type]  # the same
    return Billing(rows, totals, {text.hex(): count for text, count in store.billed_counts().items()})


def _rates(price: Price, lane: Lane) -> tuple[float, float]:
    if lane == "batch":
        return price.batch, price.output_batch
    return price.individual, price.output_individual


def _digest(text: str) -> bytes:
    return hashlib.blake2b(utf8(text), digest_size=16).digest()
