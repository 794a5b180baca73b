"""A finished command given once more: what was paid for is not paid for again, unless that is wanted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from embatch.frontends.cli import main

pytest.importorskip("openai")
pytest.importorskip("starlette")

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.emulator import Emulator

pytestmark = pytest.mark.remote

MODEL = ["--model", "openai:text-embedding-3-small", "--dimensions", "64"]


def embed(emulator: Emulator, source: Path, output: Path, *options: str) -> int:
    return main(["embed", str(source), "--to", str(output), "--base-url", emulator.url, *MODEL, *options])


def test_a_finished_command_sends_nothing_again(
    quick: Emulator, thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command over the same inputs says that its output is there, how many rows it has, and costs nothing."""
    output = tmp_path / "o.parquet"
    assert embed(quick, thirty, output) == 0
    paid, before = quick.billing().dollars, output.read_bytes()
    capsys.readouterr()
    assert embed(quick, thirty, output) == 0
    told = capsys.readouterr().err
    assert "nothing is sent" in told
    assert "--fresh" in told
    assert "30 vectors" in told
    assert embed(quick, thirty, output, "--json") == 0
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], last["event"], last["items"]) == ("finished", "done", 30)
    assert last["lanes"]["dollars"] == 0
    assert quick.billing().dollars == paid
    assert output.read_bytes() == before


def test_a_plan_knows_what_is_finished(
    quick: Emulator, thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planning the finished command again says that nothing will be sent; with --fresh, what will."""
    output = tmp_path / "o.parquet"
    assert embed(quick, thirty, output) == 0
    command = ["plan", str(thirty), "--to", str(output), "--base-url", quick.url, *MODEL]
    capsys.readouterr()
    assert main(command) == 0
    assert "nothing is sent" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] is True
    assert main([*command, "--fresh"]) == 0
    assert "texts to send     30" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["fresh", "inputs", "output", "model", "options", "gone"])
def test_whatever_has_changed_is_sent(quick: Emulator, thirty: Path, tmp_path: Path, how: str) -> None:
    """With --fresh, other inputs, another model, other options, or without the very file, the run is made."""
    output = tmp_path / "o.parquet"
    assert embed(quick, thirty, output) == 0
    paid = quick.billing().dollars
    options: list[str] = []
    match how:
        case "fresh":
            options = ["--fresh"]
        case "inputs":
            thirty.write_text(thirty.read_text() + '{"text": "one more"}\n')
        case "output":
            output.write_bytes(output.read_bytes() + b"x")
        case "model":
            options = ["--dimensions", "32"]
        case "options":
            options = ["--with-text"]
        case "gone":
            output.unlink()
    assert embed(quick, thirty, output, *options) == 0
    assert quick.billing().dollars > paid
    again = quick.billing().dollars
    assert embed(quick, thirty, output, *[word for word in options if word != "--fresh"]) == 0
    assert quick.billing().dollars == again


def test_rows_without_a_vector_stay_told(
    quick: Emulator, thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the finished run left rows without a vector, the second ends with the same exit code and names the file."""
    thirty.write_text(thirty.read_text() + '{"text": ""}\n')
    output = tmp_path / "o.parquet"
    assert embed(quick, thirty, output) == 1
    capsys.readouterr()
    assert embed(quick, thirty, output) == 1
    assert "o.parquet.errors.jsonl" in capsys.readouterr().err


def test_a_model_on_this_machine_takes_the_output_over(quick: Emulator, thirty: Path, tmp_path: Path) -> None:
    """What a local model writes is no longer what was paid for: the provider is asked again."""
    output = tmp_path / "o.parquet"
    assert embed(quick, thirty, output) == 0
    paid = quick.billing().dollars
    assert main(["embed", str(thirty), "--to", str(output), "--model", "hashing"]) == 0
    assert not (tmp_path / ".embatch").exists()
    assert embed(quick, thirty, output) == 0
    assert quick.billing().dollars > paid


def test_answers_are_not_asked_for_again(
    quick: Emulator, thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished `generate` is not paid for twice either; another instruction makes another run."""
    command = ["generate", str(thirty), "--model", "openai:gpt-4o-mini", "--base-url", quick.url]
    command += ["--to", str(tmp_path / "answers.jsonl"), "--strategy", "individual"]
    assert main(command) == 0
    asked = quick.requests["generate"]
    capsys.readouterr()
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "nothing is sent" in told
    assert "30 answers" in told
    assert quick.requests["generate"] == asked
    assert main([*command, "--system", "Be brief."]) == 0
    assert quick.requests["generate"] == 2 * asked
