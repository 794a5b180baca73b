"""`embatch emulate` as a process: its one line, its signals, its errors, and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embatch.emulator import EmulatorClient
from embatch.frontends.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.remote


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """`main` handles SIGTERM; give it back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, EmulatorClient]]:
    """The process, its one line, and the way in."""
    command = [sys.executable, "-m", "embatch", "emulate", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line, process.stderr and process.stderr.read()
            yield process, line, EmulatorClient(line.split(" at ")[1].split(": ")[0])
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("provider", "variable", "sent"),
    [
        ("gemini", "GOOGLE_GEMINI_BASE_URL", signal.SIGTERM),
        ("openai", "OPENAI_BASE_URL", signal.SIGINT),
    ],
)
def test_it_says_how_to_point_a_client_at_it_and_ends_cleanly(
    provider: str, variable: str, sent: signal.Signals
) -> None:
    """One line with the address; 0 and silence after either signal."""
    with running(provider, "--time-scale", "1000", "--tier", "1", "--real-delays") as (process, line, client):
        assert f"emulating {provider} at http://127.0.0.1:" in line
        assert f"export {variable}=http://127.0.0.1:" in line
        assert client.now() >= 0
        process.send_signal(sent)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_killed_emulator_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL in the middle of a job: started again on the same state, it has the job, and finishes and bills it."""
    import httpx2

    arguments = ("gemini", "--state", str(tmp_path), "--no-latency", "--job-time", "1000", "--regime", "good")
    rows = [{"request": {"content": {"parts": [{"text": "a"}]}}, "metadata": {"key": "k"}}]
    body = {"batch": {"inputConfig": {"requests": {"requests": rows}}, "displayName": "tag"}}
    with running(*arguments) as (process, _, client):
        url = f"{client.root}/v1/models/gemini-embedding-001:asyncBatchEmbedContent"
        created = httpx2.post(url, json=body, headers={"x-goog-api-key": "k"}).json()
        client.advance(600)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    with running(*arguments) as (_, _, client):
        (job,) = client.jobs()
        assert (job.id, job.tag) == (created["name"], "tag")
        assert client.now() >= 600
        client.advance(1000)
        assert client.jobs()[0].state == "succeeded"
        assert client.billed("a") == 1


def test_options_come_before_the_scenario(tmp_path: Path) -> None:
    """The file's quotas hold, but for those that the command line says."""
    path = tmp_path / "scenario.yaml"
    path.write_text("latency: none\nquotas: {items: 5, tokens: 1000}\n", encoding="utf-8")
    arguments = ("gemini", "--scenario", str(path), "--quota-items", "7", "--key", "right")
    with running(*arguments) as (_, line, client):
        import httpx2

        assert "GEMINI_API_KEY=right" in line
        url = f"{client.root}/v1/models/gemini-embedding-001:batchEmbedContents"

        def status(count: int) -> int:
            request = {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "a"}]}}
            answer = httpx2.post(
                url, json={"requests": [request] * count}, headers={"x-goog-api-key": "right"}
            )
            return int(answer.status_code)

        assert [status(8), status(7)] == [429, 200]


def test_errors_are_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is taken, a tier that is none of the provider's, a scenario that makes no sense: exit code 2."""
    import socket

    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("no_such: 1", encoding="utf-8")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, says in (
            (["--port", port], "in use"),
            (["--tier", "5"], "no published quotas"),
            (["--time-scale", "0"], "time_scale"),
            (["--scenario", str(scenario)], "'no_such'"),
        ):
            assert main(["emulate", "gemini", *arguments]) == 2
            told = capsys.readouterr().err
            assert says in told
            assert told.count("\n") == 2


def test_a_missing_library_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the library, and the hint the exact command."""
    for module in [name for name in sys.modules if name.startswith("embatch.emulator.server")]:
        monkeypatch.delitem(sys.modules, module)
    import embatch.emulator

    monkeypatch.delattr(embatch.emulator, "server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["emulate", "gemini"]) == 4
    told = capsys.readouterr().err
    assert "uvicorn" in told
    assert 'pip install "embatch[emulator]"' in told
