"""`embatch index` and `embatch query` from end to end: files in, places out, exit codes, messages."""

from __future__ import annotations

import json
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.corpus import RETRY

from embatch.frontends.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.search

HASHING = ["--model", "hashing", "--dimensions", "256"]


@pytest.fixture(autouse=True)
def _own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's folder of its own, and `main`'s signal handler given back."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code and prose, which is the current one."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "server.py").write_text(RETRY, "utf-8")
    (tmp_path / "guide.md").write_text("# Guide\n\n## Penguins\n\nPenguins cannot fly, but swim.\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The last line of standard output."""
    told: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return told


def test_an_index_is_made_and_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report says what was done; an answer is path, line, name and the lines themselves."""
    assert main(["index", ".", *HASHING]) == 0
    told = capsys.readouterr().err
    assert "2 files" in told
    assert "2 new" in told
    assert str(folder / ".embatch" / "index") in told
    assert main(["query", "wait", "for", "the", "server", "-k", "1"]) == 0
    answer = capsys.readouterr().out.splitlines()
    assert answer[0] == "src/server.py:2  wait_for_server"
    assert answer[1] == "  2  def wait_for_server(delay_s):"
    assert len(answer) == 7


def test_paths_are_those_of_the_current_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is found from inside, and what it answers can be opened from there."""
    main(["index", ".", *HASHING])
    monkeypatch.chdir(folder / "src")
    capsys.readouterr()
    assert main(["query", "wait for the server", "-k", "1", "--lines", "0"]) == 0
    assert capsys.readouterr().out == "server.py:2  wait_for_server\n"


def test_programs_get_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress, report and hits are lines of JSON."""
    assert main(["index", str(folder), *HASHING, "--json"]) == 0
    done = last_json(capsys)
    assert (done["event"], done["files"], done["embedded"], done["failed"]) == ("done", 2, 2, 0)
    assert main(["query", "penguins", "-k", "1", "--json"]) == 0
    told = last_json(capsys)
    assert told["query"] == "penguins"
    (hit,) = told["hits"]
    assert (hit["path"], hit["kind"], hit["language"]) == ("guide.md", "section", "markdown")
    assert hit["file"] == str(folder / "guide.md")
    assert "swim" in hit["text"]


def test_again_costs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a PATH the nearest index is brought up to date; nothing has changed."""
    main(["index", ".", *HASHING])
    os.utime(folder / "guide.md", (1, 1))
    capsys.readouterr()
    assert main(["index", "--json"]) == 0
    assert last_json(capsys)["embedded"] == 0


def test_many_questions_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One a line, answered in their order."""
    main(["index", ".", *HASHING])
    (folder / "questions.txt").write_text("penguins that swim\n\nwait for the server\n", "utf-8")
    capsys.readouterr()
    assert main(["query", "--from", "questions.txt", "-k", "1", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["hits"][0]["path"] for one in told] == ["guide.md", "src/server.py"]


def test_what_is_like_a_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A place is written as the answers write it."""
    (folder / "src" / "client.py").write_text(RETRY.replace("wait_for_server", "wait_for_client"), "utf-8")
    main(["index", ".", *HASHING])
    capsys.readouterr()
    assert main(["query", "--similar-to", "src/server.py:3", "-k", "1", "--lines", "0"]) == 0
    assert capsys.readouterr().out == "src/client.py:2  wait_for_client\n"


def test_stats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the index holds, for people and for programs."""
    main(["index", ".", *HASHING])
    capsys.readouterr()
    assert main(["query", "--stats"]) == 0
    assert "2 chunks of 2 files" in capsys.readouterr().out
    assert main(["query", "--stats", "--json"]) == 0
    told = last_json(capsys)
    assert (told["chunks"], told["languages"]) == (2, {"markdown": 1, "python": 1})


def test_nothing_found_is_another_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program can tell by the exit code."""
    main(["index", ".", *HASHING])
    capsys.readouterr()
    assert main(["query", "zyzzyva", "--text"]) == 1
    assert "Nothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["query", "anything"], 9, "embatch index"),
        (["query"], 2, "Ask for one thing"),
        (["query", "a", "--stats"], 2, "Ask for one thing"),
        (["query", "a", "--index", "nowhere"], 9, "nowhere"),
        (["index"], 9, "embatch index"),
        (["index", "nowhere"], 3, "nowhere"),
        (["index", ".", "--cache", "x.db"], 2, "No such option"),
    ],
)
def test_what_makes_no_sense_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    """Each mistake has its exit code and a message that names the way out."""
    assert main(arguments) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--similar-to", "src/server.py"], "no place"),
        (["--similar-to", "src/server.py:999"], "nothing at"),
        (["--from", "nowhere.txt"], "nowhere.txt"),
        (["a", "--kind", "poem"], "no kind"),
        ([" "], "empty question"),
    ],
)
def test_bad_questions_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """Never a traceback for something that a user did."""
    main(["index", ".", *HASHING])
    capsys.readouterr()
    assert main(["query", *arguments]) in {2, 3}
    assert words in capsys.readouterr().err


def test_another_model_is_refused_and_rebuilding_helps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names both models and the way out, which works."""
    main(["index", ".", *HASHING])
    capsys.readouterr()
    assert main(["index", ".", "--model", "hashing", "--dimensions", "128"]) == 9
    told = capsys.readouterr().err
    assert "256 dimensions" in told
    assert "--rebuild" in told
    assert main(["index", ".", "--model", "hashing", "--dimensions", "128", "--rebuild"]) == 0
    assert main(["query", "penguins"]) == 0


def test_unreadable_files_are_named_and_the_exit_code_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is indexed."""
    (folder / "gone.md").symlink_to(folder / "nowhere")
    assert main(["index", ".", *HASHING]) == 1
    told = capsys.readouterr().err
    assert "gone.md: " in told
    assert "1 unreadable" in told


def test_an_interrupt_ends_watching_and_says_so(folder: Path) -> None:
    """A change made while it watches is in the index; Ctrl-C ends it with 130."""
    command = [sys.executable, "-m", "embatch", "index", ".", "--watch", "--json", *HASHING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        done, reader = _runs_told_by(process)
        try:
            assert done.get(timeout=60)["added"] == 2
            assert _told_of_a_change(folder / "new.md", done)["files"] == 3
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            assert process.stderr is not None
            assert "Interrupted" in process.stderr.read()
        finally:
            process.kill()
            reader.join()
    assert process.returncode == 130
    assert main(["query", "tapirs", "--text", "-k", "1"]) == 0


def _runs_told_by(
    process: subprocess.Popen[str],
) -> tuple[queue.Queue[dict[str, Any]], threading.Thread]:
    """What it says at the end of each run, as it comes; and who reads it."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if (event := json.loads(line))["event"] == "done":
                told.put(event)

    reader = threading.Thread(target=read)
    reader.start()
    return told, reader


def _told_of_a_change(file: Path, told: queue.Queue[dict[str, Any]]) -> dict[str, Any]:
    """The run that a change sets off: one made before the watch is in place must be made again."""
    for number in range(20):
        file.write_text(f"# New {number}\n\nTapirs have trunks.\n", "utf-8")
        with suppress(queue.Empty):
            return told.get(timeout=3)
    raise AssertionError("no change was seen")


def test_a_terminal_gets_colours_and_no_line_too_long(folder: Path) -> None:
    """In a terminal of 80 columns, paths and code are coloured and cut to the width."""
    main(["index", ".", *HASHING])
    (folder / "wide.py").write_text(f"def wide():\n    return '{'x' * 300}'\n", "utf-8")
    main(["index", "."])
    primary, secondary = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "embatch", "query", "wide", "--text"], stdout=secondary, env=environment
    ) as process:
        os.close(secondary)
        shown = b""
        while True:
            try:
                block = os.read(primary, 65_536)
            except OSError:  # the other end is closed
                break
            if not block:
                break
            shown += block
        assert process.wait() == 0
    os.close(primary)
    text = shown.decode()
    assert "\x1b[35m" in text  # the path
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80
