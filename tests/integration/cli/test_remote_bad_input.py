"""What goes wrong before and during a remote run, as a user meets it: one message, a way out, the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import embatch
from embatch.errors import UsageError
from embatch.frontends.cli import main

pytest.importorskip("google.genai")
pytest.importorskip("openai")
pytest.importorskip("starlette")

from embatch.emulator import Emulator, EmulatorOptions
from embatch.emulator.faults import Fault
from embatch.emulator.options import JobTimes, Latency

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.remote

KEY = "sk-a-secret-key-that-nobody-may-see"
OPENAI = ["--model", "openai:text-embedding-3-small", "--dimensions", "64"]


@pytest.fixture(autouse=True)
def _surroundings(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A user's folder and a working folder of the test's own, keys, and `main`'s signal handler given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "EMBATCH_API_KEY"):
        monkeypatch.setenv(name, KEY)
    for name in ("OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": f"text number {n}"}) + "\n" for n in range(6))
    )
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """OpenAI's wire, without latencies."""
    options = EmulatorOptions(seed=1, latency=Latency.none(), jobs=JobTimes.fixed(1.0), key=KEY)
    with Emulator("openai", options=options) as one:
        yield one


def embed(*options: str) -> int:
    return main(["embed", "texts.jsonl", "--to", "out.parquet", *options])


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://",
        "http://:8000/v1",
        "http://host:port/v1",
        "http://a b/v1",
        "ftp://x",
        "http://h:99999",
        " ",
    ],
)
@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_base_url_that_is_none(
    url: str, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything waits for an answer from nowhere, wherever it was given."""
    if way == "option":
        assert embed(*OPENAI, "--base-url", url) == 2
        where = "the base URL"
    else:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", url)
        assert embed("--model", "gemini:gemini-embedding-001") == 2
        where = "GOOGLE_GEMINI_BASE_URL"
    told = capsys.readouterr().err
    assert f"{where} is no address of a server" in told
    assert "http://localhost" in told


@pytest.mark.parametrize("option", ["--budget", "--hour-worth"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_none(
    option: str, value: str, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """No run is driven towards a goal that nothing can be compared with."""
    assert embed(*OPENAI, "--base-url", emulator.url, option, value) == 2
    assert f"must be a number, not {value}" in capsys.readouterr().err


def test_a_budget_for_a_model_without_prices(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """It cannot be kept, which is said before anything is sent, with both ways out."""
    model = ["--model", "compatible:text-embedding-3-small", "--base-url", emulator.url]
    assert embed(*model, "--budget", "1") == 2
    told = capsys.readouterr().err
    assert "no price is known for compatible:text-embedding-3-small" in told
    assert "EMBATCH_PROVIDER_FACTS" in told
    assert not emulator.billing().texts


@pytest.mark.parametrize("quiet", [(), ("--quiet",), ("--json",)])
def test_an_early_end_says_what_was_paid(
    quiet: tuple[str, ...], emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Credit that is used up ends the run with the provider's reason and what was paid until then; no key is shown."""
    emulator.fault(Fault(kind="insufficient_quota", every=1))
    options = ["--base-url", emulator.url, "--strategy", "individual", *quiet]
    assert embed(*OPENAI, *options) == 7
    out, err = capsys.readouterr()
    assert "Add credit" in err
    assert ("Until then: 0 tokens, $0" in err) is not bool(quiet)
    if quiet == ("--json",):
        stopped: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert stopped["event"] == "stopped"
        assert stopped["lanes"]["calls"] == 1
    assert KEY not in out + err


def test_answers_that_end_early_say_what_was_paid(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for vectors."""
    options = ["--base-url", emulator.url, "--model", "openai:gpt-4o-mini", "--strategy", "individual"]
    emulator.fault(Fault(kind="insufficient_quota", every=1))
    assert main(["generate", "texts.jsonl", "--to", "answers.jsonl", *options]) == 7
    told = capsys.readouterr().err
    assert "Until then: 0 tokens, $0" in told
    assert KEY not in told


def test_a_model_without_jobs_says_so(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs that were asked for and that there are none of are not passed over in silence, and no price is made up."""
    model = ["--model", "compatible:text-embedding-3-small", "--base-url", emulator.url]
    assert embed(*model, "--strategy", "batch") == 2
    told = capsys.readouterr().err
    assert "has no batch jobs here" in told
    assert "individual" in told
    assert embed(*model, "--strategy", "hybrid") == 0
    told = capsys.readouterr().err
    assert "no jobs: the model has none" in told
    assert "1 call (6 texts)\n" in told
    assert "no price known" in told
    assert "estimated" not in told


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        (
            "google.genai",
            ["embed", "texts.jsonl", "--to", "o.npy", "--model", "gemini:gemini-embedding-001"],
            "gemini",
        ),
        (
            "openai",
            ["embed", "texts.jsonl", "--to", "o.npy", "--model", "openai:text-embedding-3-small"],
            "openai",
        ),
        ("openai", ["generate", "--prompt", "x", "--model", "openai:gpt-5-mini"], "openai"),
        ("starlette", ["emulate", "gemini"], "emulator"),
        ("uvicorn", ["emulate", "gemini"], "emulator"),
        (
            "python_multipart",
            ["rehearse", "texts.jsonl", "--model", "gemini:gemini-embedding-001"],
            "emulator",
        ),
        ("starlette", ["rehearse", "texts.jsonl", "--model", "gemini:gemini-embedding-001"], "emulator"),
    ],
)
def test_a_library_that_is_not_installed(missing: str, arguments: list[str], extra: str) -> None:
    """The message names the extra to install, and nothing else is shown."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from embatch.frontends.cli import main\n"
        f"sys.exit(main({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert f'pip install "embatch[{extra}]"' in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    "wrong",
    [{"budget": "2"}, {"deadline": "30m"}, {"hour_worth": True}, {"base_url": 17}, {"api_key": b"key"}],
)
def test_arguments_of_another_type(wrong: dict[str, Any]) -> None:
    """From Python, too, the message names the argument."""
    [name] = wrong
    with pytest.raises(UsageError, match=name.replace("hour_worth", "hour of waiting")):
        embatch.embed(["a text"], model="openai:text-embedding-3-small", **wrong)


def test_a_plan_for_a_model_that_nothing_is_known_of(capsys: pytest.CaptureFixture[str]) -> None:
    """It asks for the one number that it needs, and does with it; a rehearsal says that it cannot do at all."""
    assert main(["plan", "texts.jsonl", "--model", "compatible:mine"]) == 2
    assert "add --dimensions" in capsys.readouterr().err
    assert main(["plan", "texts.jsonl", "--model", "compatible:mine", "--dimensions", "64"]) == 0
    assert "6 texts by calls" in capsys.readouterr().out
    assert main(["rehearse", "texts.jsonl", "--model", "compatible:mine", "--dimensions", "64"]) == 2
    assert "cannot be rehearsed" in capsys.readouterr().err


def test_a_broken_ledger_hides_no_other_run(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`runs list` names the run whose file cannot be read, and lists the others."""
    emulator.fault(Fault(kind="insufficient_quota", every=1))
    assert embed(*OPENAI, "--base-url", emulator.url, "--strategy", "individual") == 7
    (tmp_path / ".embatch" / "out.parquet.lanes").write_bytes(b"no database at all" * 300)
    emulator.clear_faults()
    again = ["embed", "texts.jsonl", "--to", "other.parquet", "--base-url", emulator.url]
    assert main([*again, *OPENAI]) == 0
    capsys.readouterr()
    assert main(["runs", "list", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {run["state"] for run in listed} == {"done", "unreadable"}


@pytest.mark.parametrize(
    ("target", "told"), [("closed", ""), ("/dev/full", "cannot be written: No space left")]
)
def test_nobody_reads_the_progress(target: str, told: str, emulator: Emulator, tmp_path: Path) -> None:
    """The reader of --json leaves, or its disk is full: the run ends as it would have, with its own exit code."""
    if target == "closed":
        reader, out = os.pipe()
        os.close(reader)
    else:
        out = os.open(target, os.O_WRONLY)
    arguments = ["embed", "texts.jsonl", "--to", "out.parquet", "--base-url", emulator.url, *OPENAI, "--json"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "embatch", *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(out)
    assert done.returncode == 0
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == bool(told)
    assert (tmp_path / "out.parquet").exists()
