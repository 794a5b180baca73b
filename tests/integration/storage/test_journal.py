"""One run's journal: taken up again, told apart, locked, and replaced when it is damaged."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from embatch.errors import EmbatchError, OutputBusyError, OutputNotWritableError
from embatch.storage.journal import RunJournal

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.types import FloatArray, ModelSpec

    class Texts(Protocol):
        def __call__(self, count: int, *, first: int = 0) -> tuple[list[bytes], FloatArray]: ...


@pytest.fixture
def opened(tmp_path: Path, spec: ModelSpec) -> Callable[..., RunJournal]:
    """Opens the journal of the test's output; arguments replace the usual ones."""

    def make(output: str = "out.parquet", **changed: Any) -> RunJournal:
        usual: dict[str, Any] = {"spec": spec, "settings": {"output": "float32"}, "signature": "s1"}
        return RunJournal.open(tmp_path / output, **{**usual, **changed})

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_first_run_resumes_nothing(opened: Callable[..., RunJournal], tmp_path: Path) -> None:
    """The journal lies in `.embatch` beside the output, under the output's name."""
    with opened() as journal:
        assert (journal.resumed, journal.stored, journal.changes) == (False, 0, [])
        assert journal.path == tmp_path / ".embatch" / "out.parquet.run"
        assert journal.path.exists()


def test_an_interrupted_run_is_taken_up(opened: Callable[..., RunJournal], texts: Texts) -> None:
    """Closing keeps the vectors; the same run finds them and has no change to tell."""
    digests, vectors = texts(500)
    with opened() as journal:
        journal.put(digests, vectors)
    with opened() as journal:
        assert (journal.resumed, journal.stored, journal.changes) == (True, 500, [])
        found = journal.get(digests)
    assert all((found[d] == v).all() for d, v in zip(digests, vectors, strict=True))


def test_finishing_removes_every_trace(
    opened: Callable[..., RunJournal], tmp_path: Path, texts: Texts
) -> None:
    """After a whole output no file and no empty folder stays, and `close` may still be called."""
    with opened() as journal:
        journal.put(*texts(500))
        journal.finish()
        journal.finish()
    assert names(tmp_path) == []


def test_finishing_leaves_other_outputs_alone(
    opened: Callable[..., RunJournal], tmp_path: Path, texts: Texts
) -> None:
    """Two outputs in one folder have two journals, open at the same time."""
    with opened("a.npy") as first, opened("b.npy") as second:
        first.put(*texts(5))
        second.put(*texts(7))
        first.finish()
        assert len(second.get(texts(7)[0])) == 7
    assert [name for name in names(tmp_path) if "a.npy" in name] == []
    with opened("b.npy") as second:
        assert second.stored == 7


def test_changed_inputs_and_settings_are_told_and_reused(
    opened: Callable[..., RunJournal], texts: Texts
) -> None:
    """Content decides what is reused: other inputs and settings only have to be said."""
    with opened(settings={"with_text": False, "output": "float32", "limit": 3}) as journal:
        journal.put(*texts(5))
    with opened(
        settings={"with_text": True, "output": "float32", "split": [1, (2, 3)]}, signature="s2"
    ) as journal:
        assert journal.changes == [
            "limit changed from 3 to None",
            "split changed from None to [1, [2, 3]]",
            "with text changed from False to True",
            "the inputs changed",
        ]
        assert (journal.resumed, journal.stored) == (True, 5)


def test_settings_of_any_type_compare_with_themselves(opened: Callable[..., RunJournal]) -> None:
    """Tuples, paths and other values that JSON changes are not told as changes."""
    settings = {"folder": Path("a/b"), "pair": (1, 2), "none": None}
    opened(settings=settings).close()
    with opened(settings=settings) as journal:
        assert journal.changes == []


@pytest.mark.parametrize(("before", "now"), [(None, "s2"), ("s1", None)])
def test_a_missing_signature_is_no_change(
    opened: Callable[..., RunJournal], before: str | None, now: str | None
) -> None:
    """Standard input has no signature, and nothing can be said about it."""
    opened(signature=before).close()
    with opened(signature=now) as journal:
        assert journal.changes == []


def test_another_model_reuses_nothing(
    opened: Callable[..., RunJournal], spec: ModelSpec, texts: Texts
) -> None:
    """Vectors of another model are dropped, and both models are named."""
    with opened() as journal:
        journal.put(*texts(50))
    other = dataclasses.replace(spec, model="other/model", dimensions=3)
    with opened(spec=other) as journal:
        assert journal.changes == [
            "the model changed from test/model to other/model (its vectors are not reused)"
        ]
        assert (journal.resumed, journal.stored) == (False, 0)
        assert journal.get(texts(50)[0]) == {}
    with opened() as journal:
        assert journal.get(texts(50)[0]) == {}


def test_another_precision_or_prompt_reuses_nothing(
    opened: Callable[..., RunJournal], spec: ModelSpec, texts: Texts
) -> None:
    """Whatever changes a vector is told by its name, with both values."""
    with opened() as journal:
        journal.put(*texts(50))
    with opened(spec=dataclasses.replace(spec, precision="bf16", prompt="query: ")) as journal:
        (told,) = journal.changes
        assert "precision changed from 'fp32' to 'bf16' and prompt changed from '' to 'query: '" in told
        assert "not reused" in told
        assert journal.stored == 0


def test_a_fresh_start_forgets(opened: Callable[..., RunJournal], texts: Texts) -> None:
    """With `fresh` nothing is reused and nothing is told."""
    with opened() as journal:
        journal.put(*texts(50))
    with opened(fresh=True, signature="s2") as journal:
        assert (journal.resumed, journal.stored, journal.changes) == (False, 0, [])
        assert journal.get(texts(50)[0]) == {}


def test_a_second_run_of_the_same_output_is_refused(
    opened: Callable[..., RunJournal], tmp_path: Path, texts: Texts
) -> None:
    """Within one process, under the same or another name of the file, and without harm to the first."""
    (tmp_path / "link.parquet").symlink_to(tmp_path / "out.parquet")
    with opened() as journal:
        for name in ("out.parquet", "link.parquet"):
            with pytest.raises(OutputBusyError, match=name):
                opened(name)
        journal.put(*texts(5))
    with opened() as journal:
        assert journal.stored == 5


CHILD = """
import sys
from pathlib import Path
from embatch.errors import EmbatchError
from embatch.storage.journal import RunJournal
from embatch.types import ModelSpec
spec = ModelSpec(model="test/model", revision="1", dimensions=6, max_tokens=64)
try:
    journal = RunJournal.open(Path(sys.argv[1]), spec=spec, settings={}, signature=None)
except EmbatchError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.kill
def test_the_lock_holds_between_processes_and_dies_with_its_own(
    opened: Callable[..., RunJournal], tmp_path: Path
) -> None:
    """A run in another process is refused by the output's name; the moment that it is killed, the way is free."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "out.parquet")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(OutputBusyError, match=r"out\.parquet"):
            opened()
        child.kill()
        child.wait()
        with opened(settings={}) as journal:
            assert journal.resumed
            other = subprocess.run(command, input="", capture_output=True, text=True, check=False)
            assert other.stderr.startswith("OutputBusyError: another process is writing")


@pytest.mark.kill
def test_of_many_that_start_at_once_exactly_one_has_it(tmp_path: Path) -> None:
    """Racing for a journal that does not exist yet has one winner, and the losers are told."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "out.parquet")]
    children = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    try:
        told = []
        for child in children:
            assert child.stdout is not None
            assert child.stderr is not None
            told.append(child.stdout.readline() or child.stderr.readline())
        assert sum(line == "open\n" for line in told) == 1
        assert sum(line.startswith("OutputBusyError") for line in told) == 5
    finally:
        for child in children:
            child.kill()
            child.communicate()


def overwrite(path: Path, rng: random.Random) -> None:
    """Rubbish somewhere in the file, or the file cut short."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if rng.random() < 0.3:
        path.write_bytes(data[:at])
    else:
        data[at : at + 800] = rng.randbytes(800)
        path.write_bytes(data)


def test_a_damaged_journal_is_never_fatal(opened: Callable[..., RunJournal], texts: Texts) -> None:
    """Whatever happened to its file, the run goes on: each vector is right or absent, and can be stored anew."""
    rng = random.Random(3)
    told = 0
    digests, vectors = texts(2000)
    for round_ in range(40):
        with opened() as journal:
            for start in range(0, 2000, 50):
                journal.put(digests[start : start + 50], vectors[start : start + 50])
        overwrite(journal.path, rng)
        with opened() as journal:
            found = journal.get(digests)
            assert all((found[d] == v).all() for d, v in zip(digests, vectors, strict=True) if d in found)
            journal.put(digests, vectors)
            found = journal.get(digests)
            told += bool(journal.changes)
        complete = [d for d, v in zip(digests, vectors, strict=True) if d in found and (found[d] == v).all()]
        assert len(complete) == len(digests), f"round {round_}"
    assert told > 5


def test_a_file_that_is_no_journal_is_set_aside(opened: Callable[..., RunJournal]) -> None:
    """It is kept under another name, which the message tells."""
    with opened() as journal:
        pass
    journal.path.write_text("something else entirely\n" * 100)
    with opened() as journal:
        (told,) = journal.changes
        aside = journal.path.with_name("out.parquet.run.damaged")
        assert str(aside) in told
        assert aside.read_text().startswith("something else")


def test_damage_that_shows_during_the_run_is_survived(
    opened: Callable[..., RunJournal], texts: Texts
) -> None:
    """When the file goes bad under an open journal, it is replaced, told, and what comes after is kept."""
    digests, vectors = texts(60_000)
    with opened() as journal:
        for start in range(0, 40_000, 4000):
            journal.put(digests[start : start + 4000], vectors[start : start + 4000])
    with opened() as journal:
        with journal.path.open("r+b") as file:
            file.seek(3 * 8192)
            file.write(b"\xee" * (journal.path.stat().st_size - 3 * 8192))
        for start in range(0, 60_000, 4000):
            journal.get(digests[start : start + 4000])
            journal.put(digests[start : start + 4000], vectors[start : start + 4000])
        assert len(journal.changes) == 1
        journal.put(digests, vectors)
        assert len(journal.get(digests)) == 60_000


def test_a_folder_that_refuses(read_only_folder: Path, spec: ModelSpec) -> None:
    """Where the output cannot be written, neither can its journal, and that is said."""
    with pytest.raises(OutputNotWritableError):
        RunJournal.open(read_only_folder / "out.parquet", spec=spec, settings={}, signature=None)


def test_use_after_the_end_is_named(opened: Callable[..., RunJournal], texts: Texts) -> None:
    """A closed journal says so."""
    journal = opened()
    journal.close()
    with pytest.raises(EmbatchError, match="closed"):
        journal.put(*texts(1))
