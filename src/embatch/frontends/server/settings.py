"""How a server is set up: every choice that `embatch serve` offers, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One client's key and what it may ask for. `None` is no limit."""

    name: str
    """Shown in metrics and logs; the key itself never is."""
    secret: str = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel: int | None = None
    """Requests under way at once."""
    dollars_per_day: float | None = None
    """Over a provider's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model and how it is opened."""

    name: str
    """What clients call it."""
    model: str
    """What `Embedder` calls it: an alias, a folder, `gemini:NAME`, …"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of `Embedder`, such as `precision`, `cache` or `base_url`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """A server's settings. Seconds end in `_s`, sizes in `_bytes`."""

    host: str = "127.0.0.1"
    port: int = 7997
    """0 takes a free one."""
    models: tuple[ServedModel, ...] = (ServedModel(name="minilm", model="minilm"),)
    """Served by name; the first also answers where a request names none. Opened when first asked for."""
    preload: bool = True
    """Open the first model before `/ready` says so."""
    idle_models: int = 2
    """Models kept open at once; the one unused for longest makes room for another."""
    keys: tuple[ApiKey, ...] = ()
    """If there are any, every request needs one of them, but `/health`, `/ready` and the dashboard's page, which holds
    no data and asks for a key itself."""
    queue: int = 4096
    """Inputs that may wait, for each model."""
    timeout_s: float = 60.0
    """Every request is answered or refused within so long."""
    batch_share: float = 0.1
    """Least share of the work that batch jobs get while interactive requests keep coming."""
    inputs_per_request: int = 2048
    body_bytes: int = 32 << 20
    text_chars: int = 1 << 20
    """Longest single text."""
    file_bytes: int = 200 << 20
    """Longest uploaded file."""
    header_s: float = 10.0
    """A client has so long to send its headers,"""
    body_s: float = 30.0
    """its body without a pause,"""
    send_s: float = 30.0
    """and to take what it asked for; otherwise it is cut off."""
    keep_alive_s: float = 75.0
    connections: int = 16_384
    """Open at once; more are answered 503."""
    drain_s: float = 30.0
    """After SIGTERM: requests that are in are answered for up to so long."""
    index: str | None = None
    """An index that `/v1/search` and the dashboard's search box ask."""
    state: Path | None = None
    """Folder of files and batch jobs; None is `serve` in the user's own folder."""
    dashboard: bool = True
    record: bool = True
    """Leave a record of what was served, for `embatch report`: times, sizes and outcomes, no texts."""
    dollars_per_day: float | None = None
    """All clients together, over providers' models."""

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"models need names of their own, at least one: {names}")
        if not 0.0 < self.batch_share < 1.0:
            raise UsageError(f"batch_share must lie between 0 and 1, not {self.batch_share}")
        for name in ("queue", "inputs_per_request", "body_bytes", "text_chars", "file_bytes", "connections"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
