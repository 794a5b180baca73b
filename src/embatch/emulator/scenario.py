"""Scenario files: an emulator's options, and what happens to it at which virtual second. YAML or JSON.

```yaml
seed: 7
time_scale: 600
tier: "1"
jobs: {regime: good}
events:
  - {at: 600, regime: stuck}
  - {at: 7200, regime: good}
  - {at: 900, quota: {tokens: 100000}}
  - {at: 1200, fault: {kind: overloaded, where: embed, times: 5}}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.emulator.faults import Fault
from embatch.emulator.options import REGIMES, EmulatorOptions, Quotas, options_from, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from embatch.emulator.control import Control


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedEvent:
    """Something that happens at a virtual second: exactly one of the other three.

    Raises:
        ValueError: none or several of them, or a value that is not one.
    """

    at: float
    regime: str | None = None
    """A regime, or `seed`: as the seed has it."""
    quota: Mapping[str, Any] | None = None
    """Limits that change, by name; `null` lifts one."""
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.regime, self.quota, self.fault)) != 1:
            raise ValueError(f"the event at {self.at!r} needs one of regime, quota and fault")
        if self.regime is not None and self.regime not in (*REGIMES, "seed"):
            raise ValueError(f"regime must be one of {', '.join(REGIMES)} and seed, not {self.regime!r}")
        plain(Quotas, self.quota or {}, f"quota at {self.at!r}")

    def action(self, control: Control) -> Callable[[], None]:
        """What is to be done when its time has come."""

        def act() -> None:
            if self.regime is not None:
                control.set_regime(None if self.regime == "seed" else self.regime, at=self.at)  # type: ignore[arg-type]  # checked above
            elif self.quota is not None:
                control.change_quotas(dict(self.quota), at=self.at)
            elif self.fault is not None:
                control.fault(self.fault)

        return act


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario file's content."""

    options: Mapping[str, Any]
    """As `options_from` takes them."""
    events: tuple[TimedEvent, ...] = ()

    def settings(self, **others: Any) -> EmulatorOptions:
        """The options, with others that come first; in groups such as `quotas`, one by one.

        Raises:
            ValueError: a name or value that is not one.
        """
        merged = dict(self.options)
        for name, value in others.items():
            below = merged.get(name)
            is_nested = isinstance(below, dict) and isinstance(value, dict)
            merged[name] = {**below, **value} if is_nested and below else value
        return options_from(merged)


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML or JSON, or says what makes no sense.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping, not {values!r}")  # noqa: TRY004  # one error type for bad data
    listed = values.pop("events", None) or []
    if not isinstance(listed, list):
        raise ValueError(f"{path}: events must be a list")  # noqa: TRY004  # the same
    scenario = Scenario(options=values, events=tuple(_event(each) for each in listed))
    scenario.settings()  # finds errors now, not at the start
    return scenario


def _event(values: Any) -> TimedEvent:
    if isinstance(values, dict) and isinstance(values.get("fault"), dict):
        values = {**values, "fault": plain(Fault, values["fault"], "fault")}
    return plain(TimedEvent, values, "event")
