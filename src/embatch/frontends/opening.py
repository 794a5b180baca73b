"""Which host a model's name means, and which options make sense there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.errors import UsageError
from embatch.frontends.hosts import LocalHost, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.frontends.remote import LaneSettings
    from embatch.frontends.remote_host import RemoteHost
    from embatch.remote import StrategyName
    from embatch.types import Backend, Overlong, Precision

    OnProgress = Callable[[str, int, int | None], None]

PROVIDERS = ("gemini", "openai", "compatible")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """Options that mean something for a model on this machine only."""

    precision: Precision = "auto"
    device: str | None = None
    streams: int | None = None
    threads: int | None = None
    calibration: Sequence[str] | None = None
    offline: bool = False
    budget_tokens: int | None = None
    batch_size: int | None = None

    def given(self) -> list[str]:
        """The options that are not as they would be unasked."""
        plain = LocalOptions()
        return [name for name in self.__slots__ if getattr(self, name) != getattr(plain, name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """Options that mean something for a model behind an API only."""

    strategy: StrategyName | None = None
    deadline: float | None = None
    budget: float | None = None
    hour_worth: float | None = None
    base_url: str | None = None
    tier: str | None = None
    api_key: str | None = None
    client: object | None = None
    lanes: LaneSettings | None = None

    def given(self) -> list[str]:
        """The options that were given."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]

    def settings(self) -> LaneSettings:
        """How runs may use the lanes.

        Raises:
            UsageError: a value makes no sense, or is given twice.
        """
        from embatch.frontends.remote import LaneSettings
        from embatch.remote import Goal

        goal = {"deadline_s": self.deadline, "budget": self.budget, "hour_worth": self.hour_worth}
        asked: dict[str, Any] = {name: value for name, value in goal.items() if value is not None}
        if self.lanes is not None:
            if asked or self.strategy is not None:
                raise UsageError("give either `lanes`, or strategy and goals one by one")
            return self.lanes
        return LaneSettings(strategy=self.strategy or "auto", goal=Goal(**asked))


def is_remote(model: object) -> bool:
    """Whether a model's name is that of a provider's model: `gemini:NAME`, `openai:NAME`, `compatible:NAME`."""
    return isinstance(model, str) and model.partition(":")[0] in PROVIDERS and ":" in model


def open_host(  # noqa: PLR0913  # what an Embedder was given, in groups
    model: str,
    backend: str | Backend,
    *,
    local: LocalOptions,
    remote: RemoteOptions,
    dimensions: int | None,
    overlong: Overlong,
    document_type: str,
    profiles: bool,
    on_progress: OnProgress | None,
) -> LocalHost | RemoteHost:
    """Open the model where it lives.

    Raises:
        UsageError: options that do nothing there, or make no sense.
        EmbatchError: the model cannot be had.
    """
    from_caller = not isinstance(backend, str)
    if (from_caller and type(backend).__name__ == "RemoteModel") or (not from_caller and is_remote(model)):
        if not from_caller and backend != "auto":
            raise UsageError(f"{model} is a provider's model: the backend {backend!r} does not run it")
        refuse(f"only for models on this machine, and {model} is a provider's", local.given())
        return _open_remote(model, backend, remote, dimensions, overlong, keep=profiles)
    refuse(
        f"only for a provider's model such as gemini:gemini-embedding-001, not for {model}", remote.given()
    )
    if isinstance(backend, str):
        from embatch.backends.registry import open_backend

        opened = open_backend(
            model,
            backend=backend,  # type: ignore[arg-type]  # the registry checks the name
            precision=local.precision,
            device=local.device,
            streams=local.streams,
            threads=local.threads,
            calibration=local.calibration,
            offline=local.offline,
            on_progress=on_progress,
        )
    else:
        opened = backend
    return LocalHost(
        opened,
        dimensions=dimensions,
        overlong=overlong,
        batch_size=local.batch_size,
        budget_tokens=local.budget_tokens,
        document_type=document_type,
        profiles=profiles,
    )


def _open_remote(
    model: str,
    backend: Any,
    options: RemoteOptions,
    dimensions: int | None,
    overlong: Overlong,
    *,
    keep: bool,
) -> RemoteHost:
    from embatch.frontends.remote import RemoteModel
    from embatch.frontends.remote_host import RemoteHost

    if not isinstance(backend, RemoteModel):
        backend = RemoteModel.open(
            model,
            base_url=options.base_url,
            tier=options.tier,
            api_key=options.api_key,
            client=options.client,
            settings=options.settings(),
            keep_learned=keep,
        )
    return RemoteHost(backend, dimensions=dimensions, overlong=overlong)
