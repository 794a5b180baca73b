"""A run that waits where nobody watches a bar: a line now and then says what for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.frontends import view
from embatch.frontends.cli import main

pytest.importorskip("openai")
pytest.importorskip("starlette")

from embatch.emulator.faults import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.emulator import Emulator

pytestmark = pytest.mark.remote


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "LINE_S", 0.05)


def run(emulator: Emulator, command: str, source: Path, *options: str) -> int:
    name = "o.parquet" if command == "embed" else "a.jsonl"
    model = "openai:text-embedding-3-small" if command == "embed" else "openai:gpt-5-mini"
    target = ["--to", str(source.with_name(name)), "--model", model, "--base-url", emulator.url]
    return main([command, str(source), *target, *options])


@pytest.mark.parametrize("command", ["embed", "generate"])
def test_a_line_says_what_is_waited_for(
    quick: Emulator, thirty: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Done of how many, the job that is under way, and money so far, on standard error only."""
    assert run(quick, command, thirty, "--strategy", "batch") == 0
    told = capsys.readouterr()
    waiting = [line for line in told.err.splitlines() if "1 job under way" in line]
    assert waiting
    assert waiting[-1].startswith("0 of 30 ")
    assert "$0" in waiting[-1]
    assert not told.out


def test_an_absent_provider_is_named(
    quick: Emulator, thirty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While nobody answers, the line says so instead of a time that nobody knows."""
    quick.fault(Fault(kind="overloaded", where="embed", times=2))
    assert run(quick, "embed", thirty, "--strategy", "individual") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "provider overloaded" in line]
    assert lines
    assert " left" not in lines[0]


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_silence_is_kept(
    quick: Emulator, thirty: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """--quiet says nothing at all, and --json nothing beside its own lines."""
    quick.fault(Fault(kind="stall", where="embed", delay=0.5))
    assert run(quick, "embed", thirty, "--strategy", "individual", option) == 0
    assert not capsys.readouterr().err


def test_a_short_run_says_nothing_in_between(
    quick: Emulator, thirty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends within a minute has its summary only."""
    monkeypatch.setattr(view, "LINE_S", 60.0)
    assert run(quick, "embed", thirty, "--strategy", "individual") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("30 vectors in")
