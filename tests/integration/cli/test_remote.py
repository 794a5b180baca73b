"""The command line over a provider's model: embed, plan, runs and rehearse, as typed, against the emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from embatch.frontends.cli import main

pytest.importorskip("google.genai")
pytest.importorskip("openai")
pytest.importorskip("starlette")

from embatch.emulator import Emulator, EmulatorOptions
from embatch.emulator.faults import Fault
from embatch.emulator.options import JobTimes, Latency
from embatch.emulator.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.remote

TEXTS = [f"text number {number}" for number in range(30)]
OPENAI = ["--model", "openai:text-embedding-3-small", "--dimensions", "64"]


@pytest.fixture(autouse=True)
def _surroundings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A user's folder of its own, keys in the environment, and `main`'s signal handler given back."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    monkeypatch.setenv("GEMINI_API_KEY", "a-secret-key")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """OpenAI's wire, without latencies; jobs take a virtual second."""
    options = EmulatorOptions(seed=1, latency=Latency.none(), jobs=JobTimes.fixed(1.0), key="a-secret-key")
    with Emulator("openai", options=options) as one:
        yield one


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Thirty texts, one of them twice, and an empty one."""
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"k{n}", "text": text} for n, text in enumerate([*TEXTS, TEXTS[0], ""])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def embed(emulator: Emulator, source: Path, output: Path, *options: str) -> int:
    return main(["embed", str(source), "--to", str(output), "--base-url", emulator.url, *OPENAI, *options])


def check(output: Path) -> None:
    """Every row has its own text's vector."""
    table = pq.read_table(output)
    keys, vectors = table["key"].to_pylist(), table["vector"].to_pylist()
    assert keys == [f"k{n}" for n in range(31)]
    for text, one in zip([*TEXTS, TEXTS[0]], vectors, strict=True):
        expected = vector("text-embedding-3-small", text, None, 64)
        assert float(np.dot(one, expected / np.linalg.norm(expected))) > 0.9999


@pytest.mark.parametrize("strategy", ["individual", "batch", "hybrid", "auto"])
def test_embed_by_every_strategy(
    strategy: str, emulator: Emulator, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each strategy gives every text its own vector, names the bad row, and pays for each text once."""
    output = tmp_path / "out.parquet"
    assert embed(emulator, source, output, "--strategy", strategy) == 1
    check(output)
    failure = json.loads((tmp_path / "out.parquet.errors.jsonl").read_text())
    assert failure["key"] == "k31"
    assert not emulator.billing().twice
    assert emulator.billing().texts == len(TEXTS)
    told = capsys.readouterr().err
    assert "openai:text-embedding-3-small" in told
    assert "a-secret-key" not in told
    assert all(len(line) <= 80 or str(tmp_path) in line for line in told.splitlines())


def test_the_flag_of_the_founding_document(emulator: Emulator, source: Path, tmp_path: Path) -> None:
    """`--batching-strategy` is `--strategy`."""
    assert embed(emulator, source, tmp_path / "o.parquet", "--batching-strategy", "batch") == 1
    assert len(emulator.jobs()) == 1


def test_settings_stand_in_for_flags(
    emulator: Emulator, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What embatch.yaml says holds where no flag is given, and a wrong value names file and key."""
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "embatch.yaml"
    settings.write_text(f"batching:\n  strategy: batch\nlanes:\n  base_url: {emulator.url}\n")
    arguments = ["embed", str(source), "--to", "o.parquet", *OPENAI]
    assert main(arguments) == 1
    assert len(emulator.jobs()) == 1
    assert main([*arguments, "--fresh", "--strategy", "individual"]) == 1
    assert len(emulator.jobs()) == 1
    settings.write_text("batching:\n  strategy: sometimes\n")
    assert main(arguments) == 2
    assert "embatch.yaml" in (told := capsys.readouterr().err)
    assert "strategy" in told


def test_json_tells_lanes_and_money(
    emulator: Emulator, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line of `--json` has what was sent and paid."""
    embed(emulator, source, tmp_path / "o.parquet", "--strategy", "individual", "--json")
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["event"] == "done"
    assert done["lanes"]["calls"] >= 1
    assert done["lanes"]["dollars"] == pytest.approx(emulator.billing().dollars, rel=0.01)


def test_a_second_run_with_a_cache_pays_nothing(emulator: Emulator, source: Path, tmp_path: Path) -> None:
    """What a cache holds is not sent again."""
    cache = ["--cache", str(tmp_path / "cache.sqlite")]
    embed(emulator, source, tmp_path / "a.parquet", *cache)
    before = emulator.billing().texts
    embed(emulator, source, tmp_path / "b.parquet", *cache)
    assert emulator.billing().texts == before
    check(tmp_path / "b.parquet")


def test_a_wrong_key_is_told_and_nothing_written(
    emulator: Emulator,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A key that is refused ends the run with exit code 7 and a way out, and is not shown."""
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-but-secret")
    assert embed(emulator, source, tmp_path / "o.parquet") == 7
    told = capsys.readouterr().err
    assert "→" in told
    assert "wrong-but-secret" not in told
    assert not (tmp_path / "o.parquet").exists()


def test_a_missing_key_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a key, the message names the variable to set."""
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main(["embed", str(source), "--to", str(tmp_path / "o.parquet"), *OPENAI]) == 7
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def test_a_budget_is_kept_and_a_larger_one_goes_on(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that reaches its budget ends with exit code 8; a larger one pays only for the rest."""
    source = tmp_path / "many.jsonl"
    source.write_text("".join(json.dumps({"text": f"text {n} " + "word " * 300}) + "\n" for n in range(200)))
    output = tmp_path / "o.parquet"
    budget = ["--strategy", "individual", "--budget"]
    assert embed(emulator, source, output, *budget, "0.0008") == 8
    assert emulator.billing().dollars <= 0.0008
    assert "budget" in capsys.readouterr().err
    assert embed(emulator, source, output, *budget, "1") == 0
    assert not emulator.billing().twice
    assert pq.read_table(output).num_rows == 200


@pytest.mark.kill
def test_calls_in_flight_at_a_kill_count_as_spent(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run killed while calls are under way, again and again, never bills more than its budget in the end."""
    source, output, budget = tmp_path / "many.jsonl", tmp_path / "o.parquet", 0.0008
    source.write_text("".join(json.dumps({"text": f"text {n} " + "word " * 300}) + "\n" for n in range(200)))
    options = ["--base-url", emulator.url, *OPENAI, "--strategy", "individual", "--budget", str(budget)]
    command = [sys.executable, "-m", "embatch", "embed", str(source), "--to", str(output), *options]
    emulator.fault(Fault(kind="stall", where="embed", every=1, delay=60.0))
    for _ in range(3):
        before = emulator.billing().dollars
        child = subprocess.Popen(command, env=os.environ, cwd=tmp_path, stderr=subprocess.DEVNULL)
        _until(lambda: emulator.billing().dollars > before or child.poll() is not None)  # noqa: B023  # called at once
        child.kill()
        child.wait()
        assert emulator.billing().dollars <= budget
    assert emulator.billing().dollars > 0
    assert main(["runs", "list", "--json"]) == 0
    run = json.loads(capsys.readouterr().out.splitlines()[0])
    assert main(["runs", "show", run["id"]]) == 0
    assert "whose bill is not known" in capsys.readouterr().out
    emulator.clear_faults()
    assert embed(emulator, source, output, "--strategy", "individual", "--budget", str(budget)) == 8
    assert emulator.billing().dollars <= budget


def test_options_of_the_other_kind_of_model_are_refused(
    emulator: Emulator, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that would do nothing is an error, for both kinds of models."""
    assert embed(emulator, source, tmp_path / "o.parquet", "--precision", "int8") == 2
    assert "precision" in capsys.readouterr().err
    arguments = ["embed", str(source), "--to", str(tmp_path / "o.parquet"), "--model", "hashing"]
    assert main([*arguments, "--strategy", "batch"]) == 2
    assert "strategy" in capsys.readouterr().err
    assert main([*arguments, "--deadline", "soon"]) == 2


def test_a_killed_run_is_listed_and_resumed(
    emulator: Emulator, source: Path, tmp_path: Path, capsys: Any
) -> None:
    """A run killed while its job is under way is listed as killed; resuming takes the job's results."""
    emulator.fault(Fault(kind="stall", where="poll_job", every=1, delay=30.0))
    output = tmp_path / "o.parquet"
    command = [
        "embed",
        str(source),
        "--to",
        str(output),
        "--base-url",
        emulator.url,
        *OPENAI,
        "--strategy",
        "batch",
    ]
    child = subprocess.Popen([sys.executable, "-m", "embatch", *command], env=os.environ, cwd=tmp_path)
    _until(lambda: bool(emulator.jobs()))
    _until(lambda: _accepted(tmp_path))
    child.send_signal(signal.SIGKILL)
    child.wait()
    emulator.clear_faults()
    assert main(["runs", "list", "--json"]) == 0
    (run,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (run["state"], run["jobs_under_way"]) == ("killed", 1)
    assert main(["runs", "show", run["id"]]) == 0
    assert f"embatch runs resume {run['id']}" in capsys.readouterr().out
    assert main(["runs", "resume", run["id"][:6]]) == 1
    check(output)
    assert len(emulator.jobs()) == 1
    assert not emulator.billing().twice
    assert main(["runs", "list"]) == 0
    told = capsys.readouterr().out
    assert "done" in told
    assert all(len(line) <= 80 for line in told.splitlines())


def test_a_killed_run_can_be_cancelled(emulator: Emulator, source: Path, tmp_path: Path, capsys: Any) -> None:
    """`runs cancel` ends the job at the provider and forgets the run's ledger."""
    emulator.fault(Fault(kind="job_stuck", where="create_job"))
    output = tmp_path / "o.parquet"
    command = [
        "embed",
        str(source),
        "--to",
        str(output),
        "--base-url",
        emulator.url,
        *OPENAI,
        "--strategy",
        "batch",
    ]
    child = subprocess.Popen([sys.executable, "-m", "embatch", *command], env=os.environ, cwd=tmp_path)
    _until(lambda: _accepted(tmp_path))
    child.send_signal(signal.SIGKILL)
    child.wait()
    main(["runs", "list", "--json"])
    run = json.loads(capsys.readouterr().out.splitlines()[0])
    assert main(["runs", "cancel", run["id"]]) == 0
    _until(lambda: emulator.jobs()[0].state in {"cancelled", "cancelling"})
    assert not list((tmp_path / ".embatch").glob("*.lanes"))


def test_an_unknown_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that does not exist is a usage error that names the list."""
    assert main(["runs", "show", "nothing"]) == 2
    assert "embatch runs list" in capsys.readouterr().err
    assert main(["runs", "list"]) == 0


def test_planning_needs_no_key_and_sends_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan compares the strategies' calls, jobs, prices and times, in 80 columns and as JSON."""
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main(["plan", str(source), *OPENAI, "--deadline", "10m"]) == 0
    told = capsys.readouterr().out
    assert all(len(line) <= 80 for line in told.splitlines())
    assert "deadline" in told
    assert main(["plan", str(source), *OPENAI, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    _, individual, batch, _ = plan["outlook"]
    assert plan["distinct"] == individual["call_items"] == batch["job_items"] == len(TEXTS)
    assert batch["dollars"] < 2 * individual["dollars"]
    assert main(["plan", str(source), *OPENAI, "--threads", "2"]) == 2


def test_a_plan_and_its_run_agree(
    emulator: Emulator, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the plan says of calls and tokens is what the run then does, and the report tells what was saved."""
    assert main(["plan", str(source), *OPENAI, "--json", "--strategy", "individual"]) == 0
    (individual,) = [
        one for one in json.loads(capsys.readouterr().out)["outlook"] if one["strategy"] == "individual"
    ]
    embed(emulator, source, tmp_path / "o.parquet", "--strategy", "individual", "--json")
    lanes = json.loads(capsys.readouterr().out.splitlines()[-1])["lanes"]
    assert lanes["call_items"] == individual["call_items"]
    assert lanes["calls"] == individual["calls"]
    assert lanes["dollars"] == pytest.approx(individual["dollars"], rel=0.3)
    assert lanes["saved_seconds"] is not None
    assert lanes["expected_dollars"] == pytest.approx(individual["dollars"], rel=0.01)
    assert lanes["expected_seconds"] == pytest.approx(individual["seconds_p50"], rel=0.2)


def test_the_summary_holds_the_run_against_what_was_expected(
    emulator: Emulator, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside what was paid stands what was to be expected before."""
    embed(emulator, source, tmp_path / "o.parquet", "--strategy", "batch")
    assert "expected before: $" in capsys.readouterr().err


def test_rehearsing_needs_no_key(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rehearsal sends nothing anywhere, and prints times and prices."""
    monkeypatch.delenv("OPENAI_API_KEY")
    assert (
        main(["rehearse", str(source), *OPENAI[:2], "--runs", "2", "--quiet", "--strategy", "individual"])
        == 0
    )
    told = capsys.readouterr().out
    assert "2 rehearsals of 32 texts" in told
    assert "price" in told


def _accepted(folder: Path) -> bool:
    """Whether the run in this folder has written down that the provider has its job."""
    import sqlite3
    from contextlib import closing

    for path in (folder / ".embatch").glob("*.lanes"):
        # The run keeps its file locked; the log beside it tells that the job's name has been written.
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return bool(connection.execute("SELECT 1 FROM jobs WHERE provider_id IS NOT NULL").fetchone())
            except sqlite3.OperationalError:
                log = path.with_name(f"{path.name}-wal")
                return log.exists() and b"batch_" in log.read_bytes()
    return False


def _until(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail("what was waited for did not come about")
        time.sleep(0.02)
