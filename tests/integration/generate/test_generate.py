"""`embatch generate` from end to end on the emulator: files in, answers out, exit codes, kills."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.emulator import Emulator

pytestmark = pytest.mark.remote
MODEL = "gemini:gemini-2.5-flash"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs, what is learned, the key and the working folder are the test's own; so is what SIGTERM does."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Answers at once; jobs stay under way until the clock is moved on."""
    pytest.importorskip("google.genai")
    pytest.importorskip("starlette")
    from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Latency

    options = EmulatorOptions(latency=Latency.none(), jobs=JobTimes.fixed(3600.0))
    with Emulator("gemini", options=options) as running:
        yield running


@pytest.fixture
def generate(emulator: Emulator) -> Callable[..., int]:
    """Runs the command in this process; gives the exit code."""

    def run(*arguments: object) -> int:
        return main(["generate", *map(str, arguments), "--model", MODEL, "--base-url", emulator.url])

    return run


def prompts(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def test_prompts_become_answers_in_their_order(
    generate: Callable[..., int], emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys, answers, why they end, tokens; equal prompts are asked once; bad ones go to the error file."""
    rows = [
        {"id": "a", "text": "why"},
        {"id": "b", "text": ""},
        {"id": "c", "text": "why"},
        {"id": "d", "text": "how"},
    ]
    output = tmp_path / "answers.jsonl"
    source = prompts(tmp_path / "in.jsonl", rows)
    assert generate(source, "--to", output, "--strategy", "individual") == 1
    found = lines(output)
    assert [line["key"] for line in found] == ["a", "c", "d"]
    assert found[0]["answer"] == found[1]["answer"] != found[2]["answer"]
    assert all(line["finish_reason"] == "STOP" and line["output_tokens"] > 0 for line in found)
    errors = lines(tmp_path / "answers.jsonl.errors.jsonl")
    assert [(line["row"], line["key"], line["error"]) for line in errors] == [(1, "b", "EmptyTextError")]
    assert emulator.requests["generate"] == 2
    told = capsys.readouterr().err
    assert "3 answers in" in told
    assert "1 prompt without an answer" in told
    assert [path.name for path in (tmp_path / ".embatch").iterdir()] == ["answers.jsonl.done"]


def test_columns_packed_output_settings_and_json(
    generate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CSV with names of its own, a gzip file, an instruction and limits, and lines of JSON for programs."""
    source = tmp_path / "in.csv"
    source.write_text("number,question\n7,why\n8,how\n", encoding="utf-8")
    output = tmp_path / "answers.jsonl.gz"
    options = ["--text-column", "question", "--id-column", "number", "--system", "Be brief"]
    options += ["--temperature", "0", "--max-output-tokens", "5", "--json"]
    assert generate(source, "--to", output, *options) == 0
    found = lines(output)
    assert [line["key"] for line in found] == ["7", "8"]
    assert all(line["output_tokens"] <= 5 and line["finish_reason"] == "MAX_TOKENS" for line in found)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "done"
    assert (events[-1]["answered"], events[-1]["failed"]) == (2, 0)
    assert events[-1]["lanes"]["calls"] == 2


def test_one_prompt_is_answered_piece_by_piece(
    generate: Callable[..., int], emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard output, with a line's end."""
    assert generate("--prompt", "why?") == 0
    told = capsys.readouterr()
    assert len(told.out.split()) > 3
    assert told.out.endswith("\n")
    assert told.err == ""
    assert emulator.requests["stream"] == 1


def test_an_empty_prompt_is_an_error(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Said without asking anybody."""
    assert generate("--prompt", " ") == 1
    assert "white space only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no prompts were given"),
        (["in.jsonl"], "no place for the answers"),
        (["in.jsonl", "--to", "answers.parquet"], "cannot be written to 'answers.parquet'"),
        (["--prompt", "x", "--to", "answers.jsonl"], "--prompt goes to standard output"),
        (["in.jsonl", "--prompt", "x"], "--prompt goes to standard output"),
        (["--prompt", "x", "--strategy", "batch"], "no --strategy batch"),
        (["--prompt", "x", "--temperature", "3"], "--temperature"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    generate: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    """With exit code 2 and words."""
    prompts(tmp_path / "in.jsonl", [{"text": "why"}])
    assert generate(*options) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_makes_vectors_is_refused(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers no prompts."""
    arguments = ["--prompt", "x", "--model", "gemini:gemini-embedding-001", "--base-url", emulator.url]
    assert main(["generate", *arguments]) == 2
    assert "makes vectors" in capsys.readouterr().err


def test_the_settings_file_gives_defaults_that_flags_override(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the API is, and the budget: too small in the file, enough on the command line."""
    (tmp_path / "embatch.yaml").write_text(
        f"lanes: {{base_url: '{emulator.url}', budget: 1.0e-9, strategy: individual}}\n", encoding="utf-8"
    )
    prompts(tmp_path / "in.jsonl", [{"text": "why"}])
    command = ["generate", "in.jsonl", "--to", "answers.jsonl", "--model", MODEL]
    assert main(command) == 8
    assert "budget" in capsys.readouterr().err
    assert not (tmp_path / "answers.jsonl").exists()
    assert main([*command, "--budget", "1"]) == 0
    assert len(lines(tmp_path / "answers.jsonl")) == 1


def test_a_wrong_key_ends_with_code_7(
    generate: Callable[..., int], emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with the way out."""
    from embatch.emulator import Fault

    emulator.fault(Fault(kind="unauthenticated", where="generate", every=1))
    prompts(tmp_path / "in.jsonl", [{"text": "why"}])
    assert generate("in.jsonl", "--to", "answers.jsonl", "--strategy", "individual") == 7
    assert "→" in capsys.readouterr().err


def started(emulator: Emulator, tmp_path: Path) -> tuple[list[str], subprocess.Popen[str]]:
    """The command as a process, once its job is accepted."""
    prompts(tmp_path / "in.jsonl", [{"text": f"why {i}"} for i in range(20)])
    command = [sys.executable, "-m", "embatch", "generate", "in.jsonl", "--to", "answers.jsonl"]
    command += ["--model", MODEL, "--base-url", emulator.url, "--strategy", "batch"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    while not emulator.requests["poll_job"]:
        assert process.poll() is None, process.communicate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    return command, process


@pytest.mark.kill
def test_killed_while_a_job_runs_it_goes_on_and_pays_nothing_twice(
    emulator: Emulator, tmp_path: Path
) -> None:
    """SIGKILL, the job ends meanwhile, the same command takes its results."""
    command, process = started(emulator, tmp_path)
    process.kill()
    process.communicate()
    assert not (tmp_path / "answers.jsonl").exists()
    emulator.advance(2 * 3600.0)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Going on with an interrupted run" in done.stderr
    assert len(lines(tmp_path / "answers.jsonl")) == 20
    assert len(emulator.jobs()) == 1
    assert {emulator.billed(f"why {i}") for i in range(20)} == {1}


@pytest.mark.kill
def test_ctrl_c_says_how_to_come_back(emulator: Emulator, tmp_path: Path) -> None:
    """Exit code 130, the jobs that go on, and what takes their results."""
    _, process = started(emulator, tmp_path)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "1 paid job(s) with 20 prompts go on" in told
    assert "Run the same command again" in told
