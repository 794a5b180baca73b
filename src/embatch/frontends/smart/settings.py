"""Settings of lanes and batching from YAML: embatch's own `embatch.yaml`, or the `egregora` plugin's in `mkdocs.yml`.

Every key and value is checked, and a mistake is told with the file, the key and what is allowed. What MkDocs' own tags
mean (`!ENV`, `!!python/name:`) is not looked up and nothing of it is run: where such a value is needed, it is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from embatch.errors import UsageError
from embatch.remote import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embatch.frontends.smart.rules import Threshold
    from embatch.remote import StrategyName

OWN_FILE = "embatch.yaml"
MKDOCS_FILE = "mkdocs.yml"
_MKDOCS_NAMES = {MKDOCS_FILE, "mkdocs.yaml"}
_PLUGIN = "egregora"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingSettings:
    """The block `batching:`. Checked when read from a file, and again by the client that is made with it."""

    strategy: StrategyName = "auto"
    batch_threshold: Threshold = 10
    """Fewer requests than this go by calls; `auto` decides by cost."""
    max_parallel_individual: int = 5
    """Calls at once."""
    prefer_individual_for: tuple[str, ...] = ()
    """Purposes whose requests always go by calls."""

    @classmethod
    def load(cls, path: str | Path | None = None) -> BatchingSettings:
        """The block of a file; see `load_settings`."""
        return load_settings(path).batching


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a file says. None: nothing, so that the default of whoever asks holds."""

    batching: BatchingSettings = field(default_factory=BatchingSettings)
    strategy: StrategyName | None = None
    """Of `lanes:`, else of `batching:`."""
    deadline: float | None = None
    """Seconds."""
    budget: float | None = None
    """Dollars."""
    hour_worth: float | None = None
    """Dollars."""
    base_url: str | None = None
    tier: str | None = None
    """Of the account at the provider."""
    model: str | None = None
    file: Path | None = None
    """Where it was read; None if there was no file."""

    def defaults(self) -> dict[str, Any]:
        """Strategy, goals and base URL that are set, by the names of the command line's options."""
        names = ("strategy", "deadline", "budget", "hour_worth", "base_url", "tier")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def load_settings(path: str | Path | None = None) -> Settings:
    """What a settings file says.

    Args:
        path: a file of embatch's own form, or an `mkdocs.yml`. None takes `embatch.yaml` in the working folder, else
            `mkdocs.yml` there if it has the plugin; without either, nothing is set.

    Raises:
        UsageError: the file cannot be read, or says something that means nothing.
    """
    if path is not None:
        return _read(Path(path).expanduser())
    for name in (OWN_FILE, MKDOCS_FILE):
        if Path(name).is_file():
            return _read(Path(name))
    return Settings()


def as_settings(given: BatchingSettings | Settings | str | Path | None) -> Settings:
    """Settings from whatever stands for them."""
    if isinstance(given, Settings):
        return given
    return Settings(batching=given) if isinstance(given, BatchingSettings) else load_settings(given)


# --- reading ----------------------------------------------------------------------------------------------------------


class _Tagged(NamedTuple):
    """A value under a tag that YAML itself does not know: kept by name, not looked into."""

    tag: str


def _read(path: Path) -> Settings:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain data only."""

    def tagged(_: Any, suffix: str, __: Any) -> _Tagged:
        return _Tagged(suffix)

    Loader.add_multi_constructor("!", lambda *one: tagged(one[0], f"!{one[1]}", one[2]))
    Loader.add_multi_constructor(
        "tag:yaml.org,2002:python/", lambda *one: tagged(one[0], f"!!python/{one[1]}", one[2])
    )
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506  # a SafeLoader
    except OSError as error:
        raise UsageError(f"the settings file {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"the settings file {str(path)!r} is no YAML: {error}") from error
    reader = _Reader(path)
    if path.name in _MKDOCS_NAMES:
        return reader.mkdocs(data)
    return reader.own(data)


class _Reader:
    """Turns plain data into settings, with the file's name in every complaint."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def own(self, data: Any) -> Settings:
        """`batching:` and `lanes:` at the top."""
        table = self._table(data, "")
        self._known(table, "", {"batching", "lanes"})
        batching = self._table(table.get("batching"), "batching")
        lanes = self._table(table.get("lanes"), "lanes")
        self._known(lanes, "lanes", _LANES)
        values = {key: self._value(lanes[key], f"lanes.{key}", _LANES[key]) for key in lanes}
        if "strategy" not in values and "strategy" in batching:
            values["strategy"] = self._batching(batching, "batching").strategy
        return Settings(batching=self._batching(batching, "batching"), file=self._path, **values)

    def mkdocs(self, data: Any) -> Settings:
        """`plugins: - egregora: {model: {embedding: …}, batching: …}`; the rest is others' business."""
        plugin = self._plugin(self._table(data, ""))
        if plugin is None:
            return Settings()
        where = f"plugins.{_PLUGIN}"
        block = self._table(plugin.get("batching"), f"{where}.batching")
        model = self._table(plugin.get("model"), f"{where}.model").get("embedding")
        if model is not None:
            model = self._value(model, f"{where}.model.embedding", _TEXT)
        batching = self._batching(block, f"{where}.batching")
        strategy = batching.strategy if "strategy" in block else None
        return Settings(batching=batching, strategy=strategy, model=model, file=self._path)

    def _plugin(self, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        plugins = data.get("plugins")
        entries = [plugins] if isinstance(plugins, dict) else plugins if isinstance(plugins, list) else []
        for entry in entries:
            if entry == _PLUGIN:
                return {}
            if isinstance(entry, dict) and _PLUGIN in entry:
                return self._table(entry[_PLUGIN], f"plugins.{_PLUGIN}")
        return None

    def _batching(self, table: Mapping[str, Any], where: str) -> BatchingSettings:
        self._known(table, where, _BATCHING)
        values = {key: self._value(table[key], f"{where}.{key}", _BATCHING[key]) for key in table}
        return BatchingSettings(**values)

    # --- checks -----------------------------------------------------------------------------------------------

    def _table(self, value: Any, where: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            what = f"{where!r} must hold" if where else "it must hold"
            raise self._wrong(f"{what} keys and values, not {_shown(value)}")
        return value

    def _known(self, table: Mapping[str, Any], where: str, known: Mapping[str, Any] | set[str]) -> None:
        unknown = sorted(set(table) - set(known))
        if unknown:
            names = ", ".join(repr(f"{where}.{key}" if where else key) for key in unknown)
            raise self._wrong(f"nothing is called {names}", f"Known are: {', '.join(sorted(known))}.")

    def _value(self, value: Any, where: str, kind: _Kind) -> Any:
        found = None if isinstance(value, _Tagged) else kind.read(value)
        if found is None:
            raise self._wrong(f"{where!r} must be {kind.allowed}, not {_shown(value)}")
        return found

    def _wrong(self, what: str, hint: str | None = None) -> UsageError:
        return UsageError(f"{self._path}: {what}", hint=hint or "Correct the file, or leave the key out.")


def _shown(value: Any) -> str:
    if isinstance(value, _Tagged):
        return f"a value under the tag {value.tag}, which embatch does not look up"
    return repr(value)


class _Kind(NamedTuple):
    """What a value may be, in words, and what is made of it; None: it may not."""

    allowed: str
    read: Callable[[Any], Any]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _amount(value: Any) -> float | None:
    return float(value) if _is_number(value) and value >= 0 else None


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, list) and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    return None


def _seconds(value: Any) -> float | None:
    if _is_number(value):
        return float(value) if value > 0 else None
    if not isinstance(value, str):
        return None
    unit = _UNITS.get(value[-1:].lower())
    try:
        seconds = float(value[:-1]) * unit if unit else float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


_STRATEGY = _Kind(
    f"one of {', '.join(STRATEGIES)}",
    lambda value: cast("str", value) if isinstance(value, str) and value in STRATEGIES else None,
)
_TEXT = _Kind("a text", lambda value: value if isinstance(value, str) and value.strip() else None)
_DOLLARS = _Kind("a number of dollars of at least 0", _amount)
_LANES = {
    "strategy": _STRATEGY,
    "deadline": _Kind("a duration such as 90s, 30m, 2h or 1d", _seconds),
    "budget": _DOLLARS,
    "hour_worth": _DOLLARS,
    "base_url": _TEXT,
    "tier": _Kind(
        "the name of a tier, such as free or 2",
        lambda value: str(value) if _whole(value) else _TEXT.read(value),
    ),
    "model": _TEXT,
}
_BATCHING = {
    "strategy": _STRATEGY,
    "batch_threshold": _Kind(
        "a whole number of at least 1, or auto",
        lambda value: value if value == "auto" else _whole(value),
    ),
    "max_parallel_individual": _Kind("a whole number of at least 1", _whole),
    "prefer_individual_for": _Kind("a list of names", _names),
}
