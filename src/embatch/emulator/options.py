"""Everything about an emulator that can be set, as frozen data with the defaults that published evidence suggests.

Times are virtual seconds. Leaves out what happens when: a scenario's timed events are in `scenario`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

from embatch.emulator.catalog import Price

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
RegimeName = Literal["good", "busy", "stuck"]
REGIMES: tuple[RegimeName, ...] = get_args(RegimeName)
TIERS = ("free", "1", "2", "3", "4", "5")

MIDNIGHT_PACIFIC = 1_767_254_400.0
"""Unix time of 2026-01-01T00:00 in California: where virtual time starts unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What an account may use. `None`: no limit. Buckets that fill evenly, per model, of one minute's size."""

    requests: int | None = None
    """HTTP requests a minute."""
    items: int | None = None
    """Texts a minute: what Gemini calls requests."""
    tokens: int | None = None
    requests_day: int | None = None
    items_day: int | None = None
    tokens_day: int | None = None
    enqueued_tokens: int | None = None
    """Of all jobs of a model that are under way."""
    concurrent_jobs: int | None = 100
    jobs_hour: int | None = 2000

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is not None and value < 0:
                raise ValueError(f"quota {each.name} must not be negative, not {value!r}")

    def over(self, base: Quotas) -> Quotas:
        """These quotas, with those of `base` where nothing is said here."""
        mine = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(base, **{name: value for name, value in mine.items() if value is not None})


TIER_QUOTAS: dict[tuple[str, str], Quotas] = {
    ("gemini", "free"): Quotas(items=100, tokens=30_000, items_day=1_000),
    ("gemini", "1"): Quotas(items=3_000, tokens=1_000_000, enqueued_tokens=500_000),
    ("gemini", "2"): Quotas(items=5_000, tokens=5_000_000, enqueued_tokens=5_000_000),
    ("gemini", "3"): Quotas(items=10_000, tokens=10_000_000, enqueued_tokens=10_000_000),
    ("openai", "free"): Quotas(requests=100, tokens=40_000, requests_day=2_000, enqueued_tokens=200_000),
    ("openai", "1"): Quotas(requests=3_000, tokens=1_000_000, enqueued_tokens=3_000_000),
    ("openai", "2"): Quotas(requests=5_000, tokens=1_000_000, enqueued_tokens=20_000_000),
    ("openai", "3"): Quotas(requests=5_000, tokens=5_000_000, enqueued_tokens=100_000_000),
    ("openai", "4"): Quotas(requests=10_000, tokens=5_000_000, enqueued_tokens=500_000_000),
    ("openai", "5"): Quotas(requests=10_000, tokens=10_000_000, enqueued_tokens=4_000_000_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long synchronous requests take: LogNormal(median, sigma) + per item + per 1,000 tokens, with stalls."""

    median_s: float = 0.45
    sigma: float = 0.45
    item_s: float = 0.008
    ktoken_s: float = 0.0015
    output_token_s: float = 0.01
    """For each generated token."""
    stall_probability: float = 0.005
    stall_s: tuple[float, float] = (5.0, 30.0)
    """Shortest and longest stall."""
    burst_every_s: float = 7200.0
    """On average, this often the model is overloaded for a while; 0: never."""
    burst_s: float = 20.0
    burst_probability: float = 0.7
    """Of a 503, in such a while."""
    control_s: tuple[float, float] = (0.3, 1.0)
    """Fastest and slowest answer to everything else: creating and polling jobs, files."""

    @classmethod
    def none(cls) -> Self:
        """Everything answers at once, and nothing is overloaded."""
        return cls(
            median_s=0.0,
            item_s=0.0,
            ktoken_s=0.0,
            output_token_s=0.0,
            stall_probability=0.0,
            burst_every_s=0.0,
            control_s=(0.0, 0.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimes:
    """How long jobs take: they wait in a queue that all jobs share, run at a rate, and are wrapped up."""

    fixed_s: float | None = None
    """Every job takes just this long, outages aside; all but `cancel_s` and the expiry is then without effect."""
    validate_s: float | None = None
    """None: 3 s at OpenAI, nothing at Gemini."""
    good_wait_s: float = 45.0
    """Median; the wait is LogNormal."""
    good_sigma: float = 0.6
    busy_wait_s: float = 600.0
    busy_sigma: float = 1.1
    rows_s: tuple[float, float] = (15.0, 60.0)
    """Slowest and fastest job, in rows a second."""
    finalise_s: tuple[float, float] = (2.0, 10.0)
    cancel_s: float = 5.0
    """From the request to cancel until the job has ended."""
    expires_s: float | None = None
    """None: 48 hours at Gemini, 24 at OpenAI."""
    regime: RegimeName | None = None
    """Always this; None: `good`, `busy` and `stuck` take turns, for all jobs at once."""
    good_hours: float = 8.0
    """Mean stay."""
    busy_hours: float = 1.5
    stuck_hours: float = 2.0
    stuck_share: float = 0.15
    """Of the times that good or busy hours end, this share ends in `stuck`."""

    def __post_init__(self) -> None:
        if self.regime is not None and self.regime not in REGIMES:
            raise ValueError(f"regime must be one of {', '.join(REGIMES)}, not {self.regime!r}")
        if self.fixed_s is not None and self.fixed_s < 0:
            raise ValueError(f"fixed_s must not be negative, not {self.fixed_s!r}")

    @classmethod
    def fixed(cls, seconds: float, **others: Any) -> Self:
        """Every job takes just so long, and there are no outages."""
        return cls(fixed_s=seconds, regime="good", **others)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFaults:
    """What share of a job's good rows fails, by itself, in each job."""

    transient: float = 0.0
    """503 in the row: sent again, it works."""
    internal: float = 0.0
    """500 in the row."""

    def __post_init__(self) -> None:
        if min(self.transient, self.internal) < 0 or self.transient + self.internal > 1:
            raise ValueError(f"shares of failing rows must lie between 0 and 1, not {self!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorOptions:
    """An emulator's settings. Without any: no rate limits, and the latencies of the published evidence."""

    seed: int = 0
    """Of everything drawn: latencies, orders, row faults."""
    time_scale: float = 1.0
    """Virtual seconds in a real one."""
    state: Path | str | None = None
    """Folder that jobs, files and the ledger are kept in; None: until the emulator stops."""
    epoch: float | None = MIDNIGHT_PACIFIC
    """Unix time at virtual second 0; None: the time of the first start."""
    tier: str | None = None
    """Quotas of a published tier; what `quotas` says comes first."""
    quotas: Quotas = field(default_factory=Quotas)
    latency: Latency = field(default_factory=Latency)
    jobs: JobTimes = field(default_factory=JobTimes)
    rows: RowFaults = field(default_factory=RowFaults)
    prices: Mapping[str, Price] = field(default_factory=dict)
    """By model, where they differ from the catalogue's."""
    key: str | None = None
    """The only API key that is accepted; None: any but one that begins with `wrong`."""
    list_lag_s: float = 0.0
    """How long a new job is missing from lists."""
    shuffle_from: int | None = None
    """Results of jobs with at least so many rows come shuffled; None: 1,000 for rows sent inline, 2 for files."""
    bill_cancelled: bool = False
    """Whether Gemini bills rows that a cancelled or expired job had done, though it gives out none of them."""
    real_delays: bool = False
    """Whether delays in answers (retry, reset) are real seconds, for clients that know of no virtual ones."""
    max_inline_bytes: int = 20_000_000
    """Of a Gemini request."""
    max_file_bytes: int | None = None
    """None: 2 GB at Gemini, 209,715,200 bytes at OpenAI."""
    max_storage_bytes: int = 20_000_000_000
    """Of all files of a Gemini project together."""

    def __post_init__(self) -> None:
        if not self.time_scale > 0:
            raise ValueError(f"time_scale must be above 0, not {self.time_scale!r}")
        if self.tier is not None and self.tier not in TIERS:
            raise ValueError(f"tier must be one of {', '.join(TIERS)}, not {self.tier!r}")


def quotas_of(provider: str, options: EmulatorOptions) -> Quotas:
    """The quotas that are in force at the start.

    Raises:
        ValueError: the provider has no such tier.
    """
    if options.tier is None:
        return options.quotas
    if (provider, options.tier) not in TIER_QUOTAS:
        raise ValueError(f"{provider} has no published quotas for tier {options.tier!r}")
    return options.quotas.over(TIER_QUOTAS[provider, options.tier])


def options_from(values: Mapping[str, Any]) -> EmulatorOptions:
    """Options from plain data, as a scenario file or a request holds it. `none` turns latencies off.

    Raises:
        ValueError: a name or value that is not one.
    """
    values = dict(values)
    if values.get("latency") == "none":
        values["latency"] = Latency.none()
    if isinstance(values.get("jobs"), (int, float)):
        values["jobs"] = JobTimes.fixed(float(values["jobs"]))
    if "tier" in values:
        values["tier"] = str(values["tier"])
    prices = values.get("prices", {})
    values["prices"] = {name: plain(Price, price, f"prices.{name}") for name, price in prices.items()}
    for name, kind in (("quotas", Quotas), ("latency", Latency), ("jobs", JobTimes), ("rows", RowFaults)):
        if name in values and not isinstance(values[name], kind):
            values[name] = plain(kind, values[name], name)
    return plain(EmulatorOptions, values, "options")


def plain(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass from a mapping, with lists as tuples and unknown names refused by name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping, not {values!r}")  # noqa: TRY004  # one error type for bad data
    known = {each.name for each in dataclasses.fields(kind)}  # type: ignore[arg-type]  # only dataclasses are passed
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"{where} has no {', '.join(map(repr, unknown))}; there are {', '.join(sorted(known))}"
        )
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
