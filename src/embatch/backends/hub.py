"""The Hugging Face hub and its cache on this machine: what they have of a model, and the download.

Fetching asks it first. Everything of `huggingface_hub` that embatch uses is used here, and its exceptions become ours
here and nowhere else. It writes into the folder that it is given and judges no digest.
"""

from __future__ import annotations

import inspect
import os
import queue
import socket
import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

from embatch._version import __version__
from embatch.backends.cache import disk_error, is_disk_error
from embatch.backends.catalog import unknown
from embatch.errors import EmbatchError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.backends.cache import FileProgress

CONNECT_S = 3.0
"""How long finding the hub's address and connecting to it may take. A closed network often answers nothing at all,
and the resolver alone would then wait for 10 to 30 s."""
ANSWER_S = 10.0
"""How long the hub may take to answer a request."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository."""

    path: str
    size_bytes: int | None
    sha256: str | None
    """Known for large files, which the hub stores by their digest."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository has at one commit."""

    name: str
    commit: str
    endpoint: str
    files: tuple[RemoteFile, ...]


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT` or the public one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def is_switched_off() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached(name: str, revision: str | None) -> Path | None:
    """The model's folder in the hub's cache on this machine, possibly incomplete; None if it has none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        # Whoever filled the cache chose the files; asking for all of them would refuse a snapshot that has enough.
        found = snapshot_download(
            name, revision=revision, local_files_only=True, allow_patterns=["modules.json"]
        )
        return Path(found)
    except (EntryNotFoundError, HFValidationError, OSError):
        return None


def look_up(name: str, revision: str | None) -> Listing:
    """What the hub has under this name.

    Raises:
        UnknownModelError: the hub has no such repository or revision.
        ModelUnavailableError: the hub cannot be reached, refuses, or gives no usable answer.
    """
    address = endpoint()
    with _translated(name, revision, address, Path()):
        _connect(address)
        from huggingface_hub import HfApi

        api = HfApi(endpoint=address, library_name="embatch", library_version=__version__)
        info = api.model_info(name, revision=revision, timeout=ANSWER_S, files_metadata=True)
        files = tuple(
            RemoteFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None)
            for file in info.siblings or ()
        )
        return Listing(name, info.sha or revision or "main", address, files)


def download(listing: Listing, paths: Sequence[str], into: Path, on_progress: FileProgress | None) -> None:
    """Download files of a repository, at the listing's commit, into a folder.

    Raises:
        ModelUnavailableError: the hub ended the transfer, or refused it.
        DiskFullError, OutputNotWritableError: the folder takes no more.
    """
    from huggingface_hub import hf_hub_download

    sizes = {file.path: file.size_bytes for file in listing.files}
    # Before version 1.2 the library takes no bar of ours and draws its own.
    takes_counter = "tqdm_class" in inspect.signature(hf_hub_download).parameters
    for path in paths:
        counter = {"tqdm_class": _counter(path, sizes[path], on_progress)} if takes_counter else {}
        with _translated(listing.name, listing.commit, listing.endpoint, into):
            hf_hub_download(
                listing.name,
                path,
                revision=listing.commit,
                local_dir=into,
                cache_dir=into
                / ".cache",  # empty: what the hub's own cache has was looked at, and passed over
                endpoint=listing.endpoint,
                library_name="embatch",
                library_version=__version__,
                **counter,
            )
            if on_progress is not None:
                size = (into / path).stat().st_size
                on_progress(path, size, size)


def _connect(address: str) -> None:
    """Find out in a few seconds whether anybody listens at the hub's address.

    Raises:
        ModelUnavailableError: nobody does.
    """
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if {parts.scheme, "all"} & urllib.request.getproxies().keys() and not urllib.request.proxy_bypass(host):
        return  # a proxy connects for us; its answer comes with the first request
    answers: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), CONNECT_S).close()
            answers.put(None)
        except OSError as error:
            answers.put(error)

    # A thread, because nothing bounds how long the system's resolver takes.
    threading.Thread(target=connect, name="embatch-hub-probe", daemon=True).start()
    try:
        failure = answers.get(timeout=CONNECT_S)
    except queue.Empty:
        raise ModelUnavailableError(f"no answer from {address} within {CONNECT_S:.0f} s") from None
    if failure is not None:
        raise ModelUnavailableError(
            f"cannot connect to {address}: {failure.strerror or failure}"
        ) from failure


# Name of the exception class in huggingface_hub.errors → what happened, most specific first where they are subclasses
# of each other. By name, since each of the library's major versions has a few that others have not.
_REFUSALS = {
    "GatedRepoError": "the model is gated: accept its terms on the hub's page, and set HF_TOKEN",
    "DisabledRepoError": "the hub has disabled the model",
    "LocalTokenNotFoundError": "the hub asks for a token: set HF_TOKEN",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids the hub",
    "FileMetadataError": "what answers there is no hub",
    "XetDownloadError": "the transfer failed",
    "BadRequestError": "the hub refused the request",
    "EntryNotFoundError": "a file has vanished from the repository",
}
_UNKNOWN = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "RevisionResolutionError",
    "HFValidationError",
)


def translate(error: Exception, name: str, revision: str | None, address: str, into: Path) -> EmbatchError:
    """The error of ours for whatever came out of `huggingface_hub`.

    Args:
        error: what was raised.
        name: the model that was asked for.
        revision: the revision that was asked for.
        address: the hub's.
        into: the folder that was written to.
    """
    from huggingface_hub import errors

    def is_a(kind: str) -> bool:
        # A class that this version of the library does not have is no one's type.
        return isinstance(error, getattr(errors, kind, ()))

    if isinstance(error, EmbatchError):
        return error
    if is_disk_error(error) and isinstance(error, OSError):
        return disk_error(error, into)
    # A gated repository is a subclass of one that is not found, so refusals are looked at first.
    for kind, what in _REFUSALS.items():
        if is_a(kind):
            return ModelUnavailableError(f"{address}: {what}")
    if any(is_a(kind) for kind in _UNKNOWN):
        named = f"{name} at revision {revision}" if revision else name
        return unknown(name, f"{address} has no model {named}, or only for those who may see it (HF_TOKEN)")
    told = str(error).strip().partition("\n")[0] or "no reason given"
    return ModelUnavailableError(f"{address}: {type(error).__name__}: {told}")


@contextmanager
def _translated(name: str, revision: str | None, address: str, into: Path) -> Iterator[None]:
    # The library's failures are an open set: three HTTP clients in three major versions, a transfer library in Rust,
    # and KeyError or TypeError where what answers is no hub. All mean the same here: not from this place.
    try:
        yield
    except Exception as error:
        raise translate(error, name, revision, address, into) from error


def _counter(path: str, size_bytes: int | None, on_progress: FileProgress | None) -> Any:
    """A class with what `huggingface_hub` uses of a tqdm bar, which draws nothing and passes the count on."""

    class Counter:
        total = size_bytes
        format_dict: ClassVar[dict[str, Any]] = {}

        def __init__(self, *_: object, initial: int = 0, **_options: object) -> None:
            self.n = initial

        def update(self, more: float | None = 1) -> None:
            self.n += int(more or 0)
            if on_progress is not None:
                on_progress(path, self.n, size_bytes)

        def update_transfer(self, more: float) -> None:
            """Bytes on the wire, which differ from the file's: not counted, but its presence asks for one bar."""

        def ignore(self, *_: object, **_options: object) -> None:
            """Whatever concerns drawing."""

        set_description = set_description_str = set_postfix = set_postfix_str = ignore
        refresh = reset = close = clear = display = ignore

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            return

    return Counter
