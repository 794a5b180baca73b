"""`embatch map`, as a person and as a program call it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.integration.map.conftest import write_index

from embatch.errors import (
    EmbatchError,
    IndexNotFoundError,
    InterruptedRunError,
    MissingExtraError,
    OutputNotWritableError,
    SearchIndexError,
)
from embatch.frontends.cli.map import map_
from embatch.frontends.map import making

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.search
pytest.importorskip("plotly")
pytest.importorskip("umap")


def called(*arguments: str | Path) -> Result:
    return CliRunner().invoke(map_, [str(argument) for argument in arguments])


def error_of(*arguments: str | Path) -> EmbatchError:
    error = called(*arguments).exception
    assert isinstance(error, EmbatchError), error
    return error


def test_the_map_of_an_index_is_one_file(indexed: Path, tmp_path: Path) -> None:
    """The command writes the page, says so on standard error, and leaves nothing else behind."""
    output = tmp_path / "new" / "map.html"
    result = called(indexed, "--html", output)
    assert result.exit_code == 0, result.output
    assert "61 chunks in" in result.stderr
    assert result.stdout == ""
    assert "src/web/file_0.py" in output.read_text("utf-8")
    assert list(output.parent.iterdir()) == [output]


def test_a_program_gets_lines_of_json_and_a_sample_says_so(indexed: Path, tmp_path: Path) -> None:
    """With --json every line is an object, the last one the result; fewer points than chunks are a sample."""
    result = called(indexed, "--html", tmp_path / "map.html", "--json", "--points", "20")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"comparing", "arranging", "writing"} <= {line["phase"] for line in lines[:-1]}
    assert lines[-1]["event"] == "done"
    assert (lines[-1]["points"], lines[-1]["chunks"], lines[-1]["sampled"]) == (20, 61, True)
    assert lines[-1]["bytes"] == (tmp_path / "map.html").stat().st_size


def test_the_same_index_gives_the_same_map(indexed: Path, tmp_path: Path) -> None:
    """Two maps with one seed are equal but for nothing; another seed draws another."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        called(indexed, "--html", tmp_path / name, "--seed", str(seed), "--quiet")
    first, second, third = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second
    assert first != third


def test_what_is_there_is_kept_until_the_new_map_is_whole(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption in the midst leaves the old file as it was, no new one, and a plain message."""
    output = tmp_path / "map.html"
    output.write_text("old", "utf-8")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "layout", interrupted)
    error = error_of(indexed, "--html", output)
    assert isinstance(error, InterruptedRunError)
    assert "nothing was written" in str(error)
    assert output.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_there_must_be_an_index(tmp_path: Path) -> None:
    """A folder without an index is a named error, and nothing is written."""
    assert isinstance(error_of(tmp_path, "--html", tmp_path / "map.html"), IndexNotFoundError)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_index_has_no_map(tmp_path: Path) -> None:
    """An index without chunks is a named error."""
    write_index(tmp_path / "project", [])
    error = error_of(tmp_path / "project", "--html", tmp_path / "map.html")
    assert isinstance(error, SearchIndexError)
    assert "empty" in str(error)


def test_the_output_must_be_a_file_that_can_be_written(indexed: Path, tmp_path: Path) -> None:
    """A folder, or a place below a file, is a named error."""
    (tmp_path / "file").write_text("", "utf-8")
    assert isinstance(error_of(indexed, "--html", tmp_path), OutputNotWritableError)
    assert isinstance(error_of(indexed, "--html", tmp_path / "file" / "map.html"), OutputNotWritableError)


@pytest.mark.parametrize("library", ["plotly", "umap"])
def test_a_missing_extra_names_itself(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """Without one of the libraries, the error says what to install."""
    for name in [name for name in sys.modules if name == library or name.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    error = error_of(indexed, "--html", tmp_path / "map.html")
    assert isinstance(error, MissingExtraError)
    assert "embatch[map]" in error.hint


def test_the_name_of_a_database_hides_its_password() -> None:
    """What the page calls an index in a database has no user and no password."""
    assert making.name_of("postgresql://me:secret@host:5432/db#one?x=y") == "postgresql://host:5432/db#one"
    assert making.name_of("/home/me/project/.embatch/index") == "project"
