"""What is said before a run through a provider: plans and rehearsals, by tier and by what the model makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends.cli import main

pytest.importorskip("google.genai")
pytest.importorskip("openai")
pytest.importorskip("starlette")

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.emulator import Emulator

pytestmark = [pytest.mark.remote, pytest.mark.usefixtures("surroundings")]

SMALL = ["--model", "openai:text-embedding-3-small"]
FLASH = ["--model", "gemini:gemini-2.5-flash"]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Twenty thousand texts of some hundred tokens."""
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n} " + "word " * 100}) + "\n" for n in range(20_000)))
    return path


def planned(capsys: pytest.CaptureFixture[str], source: Path, *options: str) -> dict[str, Any]:
    assert main(["plan", str(source), *options, "--json"]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {**plan, "rows": {one["strategy"]: one for one in plan["outlook"]}}


def test_a_plan_compares_all_strategies(thirty: Path, many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each strategy has its calls, jobs, price and times; and the plan says which of them `auto` takes."""
    plan = planned(capsys, many, *SMALL)
    rows = plan["rows"]
    assert list(rows) == ["auto", "individual", "batch", "hybrid"]
    assert (rows["hybrid"]["call_items"], rows["hybrid"]["job_items"]) == (5, 19_995)
    assert rows["batch"]["dollars"] < rows["hybrid"]["dollars"] < rows["individual"]["dollars"]
    assert all(0 < row["seconds_p10"] <= row["seconds_p50"] <= row["seconds_p90"] for row in rows.values())
    assert plan["auto_takes"] == "batch"
    assert planned(capsys, thirty, *SMALL)["auto_takes"] == "individual"
    assert main(["plan", str(many), *SMALL]) == 0
    told = capsys.readouterr().out
    assert "auto takes batch" in told
    assert [line.split()[0] for line in told.splitlines() if line.startswith(tuple(rows))][:4] == list(rows)
    assert all(len(line) <= 80 for line in told.splitlines())


def test_a_deadline_shows_in_the_hybrid(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hybrid sends as much as jobs as the deadline allows: with a short one, less."""
    loose = planned(capsys, many, *SMALL)["rows"]["hybrid"]
    tight = planned(capsys, many, *SMALL, "--deadline", "3m")["rows"]["hybrid"]
    assert tight["job_items"] < loose["job_items"]
    assert tight["met"] >= 0.5


def test_a_tier_decides_the_quotas(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A free account takes longer than a paid one; the settings file may name the tier."""
    gemini = ["--model", "gemini:gemini-embedding-001"]
    seconds = {
        tier: planned(capsys, many, *gemini, *(["--tier", tier] if tier else []))["rows"]["individual"][
            "seconds_p50"
        ]
        for tier in ("free", "", "3")
    }
    assert seconds["free"] > 10 * seconds[""] > 20 * seconds["3"]
    file = many.with_name("settings.yaml")
    file.write_text("lanes: {tier: 3}\n")
    again = planned(capsys, many, *gemini, "--settings", str(file))["rows"]["individual"]
    assert again["seconds_p50"] == pytest.approx(seconds["3"])


@pytest.mark.parametrize(
    ("model", "tier", "told"),
    [
        ("gemini:gemini-embedding-001", "9", "Choose one of: free, 1, 2, 3"),
        ("compatible:some-model", "1", "no tiers that are known"),
        ("hashing", "1", "tier"),
    ],
)
def test_a_tier_that_means_nothing_is_refused(
    thirty: Path, capsys: pytest.CaptureFixture[str], model: str, tier: str, told: str
) -> None:
    """An unknown tier, one of a model without quotas, and one of a model on this machine are errors."""
    command = ["embed", str(thirty), "--to", str(thirty.with_name("o.parquet")), "--model", model]
    assert main([*command, "--tier", tier, *(["--base-url", "http://x/v1"] if ":some" in model else [])]) == 2
    assert told in capsys.readouterr().err


def test_a_tier_reaches_the_run(quick: Emulator, thirty: Path, tmp_path: Path) -> None:
    """Embedding and answering take it."""
    where = ["--base-url", quick.url, "--tier", "2", "--strategy", "individual"]
    assert main(["embed", str(thirty), "--to", str(tmp_path / "o.parquet"), *SMALL, *where]) == 0
    command = ["generate", str(thirty), "--to", str(tmp_path / "a.jsonl"), "--model", "openai:gpt-5-mini"]
    assert main([*command, *where]) == 0


def test_a_run_of_prompts_is_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that answers prompts is rehearsed as `generate` would use it: no key, a price with answers in it."""
    monkeypatch.delenv("GEMINI_API_KEY")
    source = tmp_path / "prompts.jsonl"
    source.write_text(
        "".join(json.dumps({"title": "no", "prompt": f"What is {n}?"}) + "\n" for n in range(12))
    )
    command = ["rehearse", str(source), *FLASH, "--runs", "1", "--strategy", "individual", "--json"]
    assert main([*command, "--system", "Be brief.", "--max-output-tokens", "20"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["failed"], one["error"], one["lanes"]["calls"]) == (0, None, 12)
    assert one["dollars"] > 12 * 5 * 2.5e-6
    assert one["lanes"]["dollars"] == pytest.approx(one["dollars"], rel=1e-6)


def test_options_of_answers_are_refused_for_vectors(thirty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An embedding model answers no prompts: what only answers have is an error."""
    assert main(["rehearse", str(thirty), *SMALL, "--system", "Be brief."]) == 2
    assert "--system" in capsys.readouterr().err
