"""Targets that cannot be written: refused by name, early where it can be known, and without a trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.errors import DiskFullError, OutputNotWritableError, UsageError
from embatch.storage.sinks import FORMATS, check_target, format_of, open_sink
from embatch.types import Block, Item, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

ENDINGS = [".parquet", ".jsonl", ".jsonl.gz", ".npy"]


def rows(count: int, spec: ModelSpec) -> Block:
    """Rows that no format can store in few bytes."""
    vectors = np.random.default_rng(0).random((count, spec.dimensions), dtype=np.float32)
    return Block(0, [Item(f"key-{i}", "text", "source") for i in range(count)], vectors)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["vectors.csv", "vectors", "parquet", "vectors.json.gz"])
def test_an_unknown_ending_names_those_that_exist(tmp_path: Path, spec: ModelSpec, name: str) -> None:
    """Both the early check and the sink itself refuse it."""
    for act in (lambda: open_sink(tmp_path / name, spec=spec), lambda: check_target(tmp_path / name)):
        with pytest.raises(UsageError) as caught:
            act()
        assert caught.value.hint is not None
        assert all(ending in caught.value.hint for ending in FORMATS)


def test_endings_are_read_without_regard_to_case() -> None:
    """`X.PARQUET` is Parquet, and the longest ending counts."""
    assert format_of(Path("X.PARQUET")) == "parquet"
    assert format_of(Path("a.b.jsonl.gz")) == "jsonl.gz"


def test_a_format_may_be_named(tmp_path: Path, spec: ModelSpec) -> None:
    """With `format` the ending does not matter; an unknown one is refused."""
    with open_sink(tmp_path / "vectors.data", spec=spec, format="jsonl") as sink:
        sink.write(rows(1, spec))
        sink.commit()
    assert (tmp_path / "vectors.data").read_bytes().startswith(b'{"key":"key-0","vector":[')
    with pytest.raises(UsageError, match="no output format 'csv'"):
        open_sink(tmp_path / "vectors.data", spec=spec, format="csv")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, spec: ModelSpec) -> None:
    """Texts in an .npy file, and int8 of vectors without unit length."""
    with pytest.raises(UsageError, match="no place for the text"):
        open_sink(tmp_path / "x.npy", spec=spec, with_text=True)
    loose = ModelSpec(model="dot", revision="1", dimensions=6, max_tokens=64, normalize=False)
    with pytest.raises(UsageError, match="not of unit length"):
        open_sink(tmp_path / "x.npy", spec=loose, output="int8")
    assert names(tmp_path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_folders_are_made(tmp_path: Path, spec: ModelSpec, ending: str) -> None:
    """An output may go to a folder that is not there yet."""
    path = tmp_path / "a" / "b" / f"x{ending}"
    with open_sink(path, spec=spec) as sink:
        sink.commit()
    assert path.exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_is_no_target(tmp_path: Path, spec: ModelSpec, ending: str) -> None:
    """An existing folder under the output's name is refused, and stays."""
    path = tmp_path / f"x{ending}"
    path.mkdir()
    with pytest.raises(OutputNotWritableError, match="is a folder"):
        open_sink(path, spec=spec)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_is_no_folder(tmp_path: Path, spec: ModelSpec, ending: str) -> None:
    """A target below a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritableError):
        open_sink(tmp_path / "file" / f"x{ending}", spec=spec)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such devices")
def test_a_device_is_never_replaced(tmp_path: Path, spec: ModelSpec) -> None:
    """A link to /dev/null is refused: renaming a file over a device would break the system."""
    (tmp_path / "x.jsonl").symlink_to("/dev/null")
    with pytest.raises(OutputNotWritableError, match="not an ordinary file"):
        open_sink(tmp_path / "x.jsonl", spec=spec)
    assert not Path("/dev/null").is_file()


def test_a_link_keeps_pointing(tmp_path: Path, spec: ModelSpec) -> None:
    """The file behind a symbolic link is replaced, the link stays."""
    (tmp_path / "far").mkdir()
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "far" / "y.jsonl")
    with open_sink(tmp_path / "x.jsonl", spec=spec) as sink:
        sink.write(rows(1, spec))
        sink.commit()
    assert (tmp_path / "x.jsonl").is_symlink()
    assert (tmp_path / "far" / "y.jsonl").stat().st_size > 0
    assert names(tmp_path / "far") == ["y.jsonl"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_read_only_folder_is_refused(read_only_folder: Path, spec: ModelSpec, ending: str) -> None:
    """Before a row is written, by the sink and by the early check, with nothing left behind."""
    path = read_only_folder / f"x{ending}"
    for act in (lambda: open_sink(path, spec=spec), lambda: check_target(path)):
        with pytest.raises(OutputNotWritableError, match="ermission"):
            act()
    assert names(read_only_folder) == ["old"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_space_left(
    tmp_path: Path,
    spec: ModelSpec,
    ending: str,
    largest_file: Callable[[int], AbstractContextManager[None]],
) -> None:
    """A full disk is named as such, the old output stays whole, and no temporary file is left."""
    path = tmp_path / f"x{ending}"
    with open_sink(path, spec=spec) as sink:
        sink.write(rows(3, spec))
        sink.commit()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    block = rows(40_000, spec)

    def fill() -> None:
        with open_sink(path, spec=spec) as sink:
            sink.write(block)
            sink.commit()

    with largest_file(100_000), pytest.raises(DiskFullError, match="no space left"):
        fill()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


FILL = """
import sys
from pathlib import Path
import numpy as np
from embatch.errors import DiskFullError
from embatch.storage.journal import RunJournal
from embatch.storage.sinks import open_sink
from embatch.types import Block, Item, ModelSpec
folder = Path(sys.argv[1])
spec = ModelSpec(model="m", revision="1", dimensions=64, max_tokens=64)
vectors = np.random.default_rng(0).random((500, 64), dtype=np.float32)
items = [Item(str(i), "t") for i in range(500)]
for name in ("x.parquet", "x.jsonl", "x.jsonl.gz", "x.npy"):
    try:
        with open_sink(folder / name, spec=spec) as sink:
            for first in range(0, 100_000, 500):
                sink.write(Block(first, items, vectors))
            sink.commit()
    except DiskFullError:
        print(name, "full", sorted(path.name for path in folder.iterdir()))
(folder / "ballast").write_bytes(bytes(500_000))
journal = RunJournal.open(folder / "x.npy", spec=spec, settings={}, signature=None)
stored = 0
try:
    for first in range(0, 100_000, 500):
        digests = [number.to_bytes(16, "big") for number in range(first, first + 500)]
        journal.put(digests, vectors)
        stored += 500
except DiskFullError:
    print("journal full")
journal.close()
try:
    RunJournal.open(folder / "x.npy", spec=spec, settings={}, signature=None).close()
except DiskFullError:
    print("still full")
(folder / "ballast").unlink()
journal = RunJournal.open(folder / "x.npy", spec=spec, settings={}, signature=None)
print("journal keeps", 0 < stored <= journal.stored, journal.changes)
"""


@pytest.mark.kill
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 4 MiB every format and the journal say that it is full; the journal keeps what it said."""
    mount = f'mount -t tmpfs -o size=4m none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable, FILL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no mount of its own here: {done.stderr.strip()}")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *(f"{name} full []" for name in ("x.parquet", "x.jsonl", "x.jsonl.gz", "x.npy")),
        "journal full",
        "still full",
        "journal keeps True []",
    ]


def test_leftovers_of_dead_processes_are_cleared(tmp_path: Path, spec: ModelSpec) -> None:
    """Temporary files of killed runs for this target go; those of living processes and other targets stay."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead, alive = process.pid, os.getppid()
    stays = [f".x.jsonl.{alive}.tmp", f".y.jsonl.{dead}.tmp", f".x.jsonl.{dead}.tmp.bak", ".x.jsonl.word.tmp"]
    for name in [f".x.jsonl.{dead}.tmp", *stays]:
        (tmp_path / name).write_text("left over")
    with open_sink(tmp_path / "x.jsonl", spec=spec) as sink:
        sink.commit()
    assert names(tmp_path) == sorted([*stays, "x.jsonl"])


@pytest.mark.kill
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_killed_writer_leaves_no_half_file(tmp_path: Path, spec: ModelSpec, ending: str) -> None:
    """After SIGKILL in the middle there is no output, and the next run clears what was left."""
    path = tmp_path / f"x{ending}"
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from embatch.storage.sinks import open_sink; from embatch.types import *\n"
        "spec = ModelSpec(model='m', revision='1', dimensions=6, max_tokens=64)\n"
        "sink = open_sink(Path(sys.argv[1]), spec=spec)\n"
        "while True:\n"
        "    sink.write(Block(0, [Item('k', 't')] * 100, np.ones((100, 6), dtype=np.float32)))\n"
        "    print('.', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(50)
        process.kill()
    assert all(name.endswith(".tmp") for name in names(tmp_path))
    with open_sink(path, spec=spec) as sink:
        sink.write(rows(3, spec))
        sink.commit()
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
