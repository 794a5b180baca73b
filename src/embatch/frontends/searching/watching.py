"""Changes of files as they happen, for `embatch index --watch`: only when, not which, since a look at all is cheap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embatch.errors import MissingExtraError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

_SETTLED_MS = 1600
"""Changes that follow each other are taken together for so long: an editor writes a file several times."""


def changes(paths: Sequence[str], location: str, *, stop: threading.Event | None = None) -> Iterator[int]:
    """The number of files that changed, each time some did. Ends when `stop` is set.

    Args:
        paths: files and folders; what is hidden in them, as the index itself is, does not count.
        location: of the index, in case it is not hidden.
        stop: ends it.

    Raises:
        MissingExtraError: `watchfiles` is not installed.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        from watchfiles import DefaultFilter, watch
    except ImportError as error:
        raise MissingExtraError(
            "--watch needs the search extra.", hint='Install it: pip install "embatch[search]".'
        ) from error
    visible = DefaultFilter(ignore_paths=[str(Path(location))])

    def counts(change: object, path: str) -> bool:
        hidden = any(part.startswith(".") for part in Path(path).parts[1:] if part not in above)
        return not hidden and visible(change, path)

    above = {part for path in paths for part in Path(path).absolute().parts}
    for changed in watch(
        *paths, watch_filter=counts, debounce=_SETTLED_MS, stop_event=stop, raise_interrupt=True
    ):
        yield len(changed)
