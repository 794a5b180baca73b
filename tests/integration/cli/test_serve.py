"""`embatch serve` as a process, and what it refuses before anything is opened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from embatch.frontends.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.serve


def asked(url: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.kill
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """It says where it is, answers under the names that were given, honours keys, and ends with 0 on SIGTERM."""
    arguments = [
        "hashing-16",
        "--model",
        "wide=hashing-64",
        "--port",
        "0",
        "--json",
        "--state",
        str(tmp_path / "s"),
    ]
    command = [sys.executable, "-m", "embatch", "serve", *arguments]
    env = {**os.environ, "EMBATCH_SERVE_KEY": "0123456789abcdef-secret"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            told = json.loads(process.stdout.readline())
            key = {"Authorization": "Bearer 0123456789abcdef-secret"}
            body = {"input": "one", "model": "wide"}
            status, answer = asked(f"{told['url']}/v1/embeddings", body, **key)
            refused, _ = asked(f"{told['url']}/v1/embeddings", body)
            alive, _ = asked(f"{told['url']}/health")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
        said = process.stderr.read()
    assert told["event"] == "serving"
    assert told["models"] == ["hashing-16", "wide"]
    assert (status, refused, alive) == (200, 401, 200)
    assert len(json.loads(answer)["data"][0]["embedding"]) == 64
    assert f"serves hashing-16, wide at {told['url']}" in said
    assert "Ctrl-C" in said
    assert "secret" not in said


def test_a_taken_port_ends_it_with_the_way_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 2, the port, and what to do."""
    from embatch.frontends.server.transport.listening import listen

    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "hashing-16", "--port", port, "--state", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert "--port" in said


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["no-such-model"], 4, "no-such-model"),
        (["--model", "minilm"], 2, "is not NAME=MODEL"),
        (["hashing-16", "--model", "hashing-16=hashing-32"], 2, "names of their own"),
        (["hashing-16", "--keys", "nowhere.yaml"], 3, "nowhere.yaml"),
        pytest.param(["hashing-16", "--index", "nowhere"], 9, "nowhere", marks=pytest.mark.search),
        (["hashing-16", "--cache-limit", "5"], 2, "needs a cache"),
        (["hashing-16", "--tier", "2"], 2, "--tier: only for a provider's models"),
        (["hashing-16", "--dollars-per-day", "5"], 2, "only a provider's models cost money"),
        (
            ["openai:text-embedding-3-small", "--precision", "int8"],
            2,
            "--precision, --offline: only for models on this",
        ),
        (["hashing-16", "--batch-share", "1.5"], 2, "batch-share"),
        (["hashing-16", "--timeout", "soon"], 2, "soon"),
        (["hashing-16", "--host", "no-such-host.invalid"], 2, "no address for host"),
        (["hashing-16", "--state", "/dev/null/x"], 5, "cannot be made"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_opened(
    arguments: list[str],
    exit_code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrong options end with a documented code and a message that names them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert main(["serve", "--port", "0", "--offline", *arguments]) == exit_code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("library", ["uvicorn", "httptools", "starlette", "prometheus_client"])
def test_a_missing_extra_is_named(library: str) -> None:
    """Without a library of the extra, the message says how to install it, and exit code 4 that something lacks."""
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from embatch.frontends.cli import main\n"
        "sys.exit(main(['serve', 'hashing-16', '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4
    assert f"needs {library}" in done.stderr
    assert 'pip install "embatch[serve]"' in done.stderr


def test_help_fits_a_terminal() -> None:
    """No line of the help is longer than 80 columns."""
    from embatch.frontends.cli.serve import serve

    lines = CliRunner().invoke(serve, ["--help"]).output.splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("keys", "warned"), [((), True), (("k",), False)])
def test_an_open_server_is_warned_of(keys: Any, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever listens for other machines without keys is told so."""
    from embatch.frontends.cli.serve import tell
    from embatch.frontends.server.settings import ApiKey, ServeSettings

    ring = tuple(ApiKey(name=name, secret="0123456789abcdef") for name in keys)
    tell(ServeSettings(host="0.0.0.0", keys=ring), "http://127.0.0.1:1", as_json=False)
    assert ("has no API keys" in capsys.readouterr().err) is warned
