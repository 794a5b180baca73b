"""Fetches that are killed, and fetches that run at the same time: a model is there whole, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from embatch.backends.cache import exclusive, model_folder, publish, staging
from embatch.backends.resolve import locate, resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.models.conftest import Hub

NAME = "tests/tiny"
PROGRAM = f"from embatch.backends.resolve import resolve; print(resolve({NAME!r}).revision)"


def start() -> subprocess.Popen[str]:
    """A process that resolves the model, with the surroundings of the test."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def parts() -> list[Path]:
    return [path for path in model_folder(NAME).parent.iterdir() if ".part-" in path.name]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_fetch_that_is_ended_in_the_middle(hub: Hub, how: signal.Signals) -> None:
    """Killed while the weights come in, a fetch leaves no model; the next one removes the rest and succeeds."""
    hub.hold = threading.Event()
    with start() as process:
        assert hub.halfway.wait(60)
        os.kill(process.pid, how)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert locate(NAME) is None
    assert len(parts()) == (1 if how == signal.SIGKILL else 0)  # Ctrl-C still tidies up
    hub.hold.set()
    assert resolve(NAME).path == model_folder(NAME)
    assert not parts()


def test_two_processes_at_once(hub: Hub) -> None:
    """The second waits for the first and uses what it fetched: the weights cross the network once."""
    hub.hold = threading.Event()
    with start() as first:
        assert hub.halfway.wait(60)
        with start() as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            hub.hold.set()
            outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert outputs[0] == outputs[1] == f"{resolve(NAME).revision}\n"
    assert hub.downloads("model.safetensors") == 1
    assert not parts()


def test_a_dead_process_holds_no_lock(hub: Hub) -> None:
    """The lock ends with its process: nobody waits for a fetch that was killed."""
    hub.hold = threading.Event()
    with start() as process:
        assert hub.halfway.wait(60)
        process.kill()
    with exclusive(model_folder(NAME)):
        assert not parts()


def test_publishing_replaces_a_folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A new version takes an old one's place in one step, and nothing of the old one stays."""
    target = tiny_model(tmp_path / "models" / "x")
    (target / "old").touch()
    with exclusive(target), staging(target) as folder:
        tiny_model(folder, seed=1)
        publish(folder, target)
    assert not (target / "old").exists()
    assert (target / "model.safetensors").is_file()
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == ["x"]
    assert target.stat().st_mode & 0o777 == (tmp_path / "models").stat().st_mode & 0o777
