"""`embatch report` from end to end: a run is recorded by its command, and told in lines, JSON and one page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The figures of a run."""
    capsys.readouterr()
    assert main(["report", *arguments, "--json"]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def embedded(texts: Path, *more: str) -> int:
    """The exit code of embedding the texts by hashing."""
    return main(["embed", str(texts), "--model", "hashing", "--to", "out.parquet", "--quiet", *more])


def test_a_run_is_told_as_it_was(records: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, failures with their keys and the command are those of the run; no text is in the record."""
    assert embedded(texts) == 1
    figures = told(capsys, "out.parquet")
    assert (figures["state"], figures["totals"]["items"], figures["totals"]["failed"]) == ("done", 300, 2)
    assert figures["totals"]["batches"] == len(
        [s for s in figures["timeline"]["spans"] if s["kind"] == "batch"]
    )
    assert [failure["key"] for failure in figures["failures"]] == ["<script>alert(1)</script>&", "row99"]
    assert sum(count for _, count in figures["lengths"]) == 298
    kept = next(records.iterdir()).read_text("utf-8")
    assert "always the same" not in kept


def test_lines_fit_a_terminal(records: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --html the report is lines of at most 80 columns."""
    del records
    embedded(texts)
    capsys.readouterr()
    assert main(["report"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert any("EmptyTextError" in line for line in shown)


def test_one_of_each_is_told_as_one(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index of a single short file is told without a plural of one."""
    del records
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "only.txt").write_text("wait for the server", "utf-8")
    assert main(["index", "notes", "--model", "hashing"]) == 0
    words = told(capsys)["words"]
    assert words.startswith("1 chunk was embedded for an index")
    assert re.search(r"It went through 1 batch( on 2 streams)?;", words)  # one stream on a single core
    assert "Files: 1, of them new 1 and changed 0; gone 0." in words


def test_a_page_holds_all_and_escapes_it(records: Path, texts: Path) -> None:
    """The page is one file with Plotly in it, refers to no other host, and shows keys as text."""
    pytest.importorskip("plotly")
    del records
    embedded(texts)
    assert main(["report", "last", "--html", "deep/page.html"]) == 0
    page = (texts.parent / "deep" / "page.html").read_text("utf-8")
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    assert "default-src 'none'" in page
    assert "src=" not in page.split("</head>")[0]


def test_a_page_without_plotly_says_what_is_missing(
    records: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra the error names it; lines need no extra."""
    del records
    embedded(texts)
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert main(["report", "--html", "page.html"]) == 4
    assert 'pip install "embatch[report]"' in capsys.readouterr().err
    assert not (texts.parent / "page.html").exists()
    assert main(["report"]) == 0


def test_a_run_may_leave_no_record(records: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --no-record nothing is kept, and a report says that there is none."""
    embedded(texts, "--no-record")
    assert not records.exists()
    assert main(["report"]) == 2
    assert "no run has been recorded" in capsys.readouterr().err


def test_runs_are_listed(records: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each record is a line, newest first; an unknown name is answered with what there is."""
    embedded(texts)
    known = next(records.iterdir()).stem
    capsys.readouterr()
    assert main(["report", "--list"]) == 0
    assert known in capsys.readouterr().out
    assert main(["report", "zzz"]) == 2
    assert known in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--open"], ["zzz", "--open"]])
def test_nothing_to_open_is_an_error(arguments: list[str]) -> None:
    """A browser is only shown a page that is written."""
    assert main(["report", *arguments]) == 2


@pytest.mark.search
def test_a_sync_is_told(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and chunks of an index are in the report of its command."""
    del records
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.md").write_text(f"# {name}\n\nSome words on {name}.\n", "utf-8")
    assert main(["index", str(folder), "--model", "hashing", "--quiet"]) == 0
    figures = told(capsys)
    assert (figures["kind"], figures["noun"], figures["state"]) == ("index", "chunk", "done")
    assert figures["totals"]["items"] >= 3
    assert any(one["label"] == "files" and one["value"] == "3" for one in figures["headlines"])


@pytest.mark.kill
def test_a_killed_run_leaves_a_record(records: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is killed while it reads standard input is told as killed, with what it had seen."""
    run = subprocess.Popen(
        [sys.executable, "-m", "embatch", "embed", "-", "--model", "hashing", "--to", "out.jsonl", "--quiet"],
        stdin=subprocess.PIPE,
        env={**os.environ},
    )
    assert run.stdin is not None
    run.stdin.write(b'{"text": "some words"}\n' * 2000)
    run.stdin.flush()
    until = time.monotonic() + 30
    while not _has_batch(records):
        assert time.monotonic() < until, "no batch was recorded"
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdin.close()
    figures = told(capsys)
    assert figures["state"] == "killed"
    assert figures["totals"]["batches"] >= 1
    assert figures["notes"]


def _has_batch(records: Path) -> bool:
    return any(b'\n["BatchSeen"' in path.read_bytes() for path in records.glob("*.jsonl"))


@pytest.mark.remote
@pytest.mark.parametrize(("strategy", "kind"), [("individual", "call"), ("batch", "job")])
def test_a_run_over_a_provider_is_told(
    records: Path,
    texts: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    kind: str,
) -> None:
    """Calls and jobs are drawn, the bill is the run's, the alternatives were reckoned before, and the id is one."""
    pytest.importorskip("openai")
    pytest.importorskip("starlette")
    from embatch.emulator import Emulator, EmulatorOptions
    from embatch.emulator.options import JobTimes, Latency
    from embatch.storage.runs import default_registry

    del records
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    options = EmulatorOptions(latency=Latency.none(), jobs=JobTimes.fixed(0.0))
    with Emulator("openai", options=options) as emulator:
        asked = [
            "--model",
            "openai:text-embedding-3-small",
            "--base-url",
            emulator.url,
            "--strategy",
            strategy,
        ]
        assert main(["embed", str(texts), "--to", "out.parquet", "--quiet", *asked]) == 1
    figures = told(capsys, default_registry().runs(1)[0].id)
    assert kind in {span["kind"] for span in figures["timeline"]["spans"]}
    assert figures["totals"]["dollars"] > 0
    assert figures["done"][-1]["items"] == 298
    assert figures["done"][-1]["dollars"] == pytest.approx(figures["totals"]["dollars"])
    assert [way["this"] for way in figures["alternatives"]] == [True] + [False] * 4
    assert "a-secret-key" not in json.dumps(figures)


@pytest.mark.remote
def test_answers_are_told(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that answers prompts is told with its prompts, and without their words."""
    pytest.importorskip("google.genai")
    pytest.importorskip("starlette")
    from embatch.emulator import Emulator, EmulatorOptions, Latency

    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    source = tmp_path / "q.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"the question {i}"}) + "\n" for i in range(6)), "utf-8")
    with Emulator("gemini", options=EmulatorOptions(latency=Latency.none())) as emulator:
        asked = ["--model", "gemini:gemini-2.5-flash", "--base-url", emulator.url, "--strategy", "individual"]
        assert (
            main(["generate", str(source), "--to", "a.jsonl", "--system", "Be kind.", "--quiet", *asked]) == 0
        )
    figures = told(capsys)
    assert (figures["noun"], figures["totals"]["items"], figures["totals"]["calls"]) == ("prompt", 6, 6)
    kept = next(records.iterdir()).read_text("utf-8")
    assert "the question" not in kept
    assert "Be kind" not in kept
