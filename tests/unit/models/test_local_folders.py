"""What the user calls a model: folders, aliases, names, and what is none of these."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embatch.backends.digests import compute
from embatch.backends.resolve import ensure, locate, resolve, verify
from embatch.errors import CorruptModelError, ModelUnavailableError, UnknownModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_local_folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A folder is taken as it is: named after itself, pinned by its weights."""
    folder = tiny_model(tmp_path / "mine")
    files = resolve(str(folder))
    assert files.path == folder
    assert files.name == "mine"
    assert files.revision == compute(folder / "model.safetensors")[:16]
    assert files.known is None
    assert locate(str(folder)) == files
    assert ensure(str(folder)) == (files, False)


def test_a_relative_folder(
    tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may be written without a dot in front, and a dot alone has a name."""
    folder = tiny_model(tmp_path / "owner" / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/mine").path == folder
    monkeypatch.chdir(folder)
    assert resolve(".").name == "mine"


def test_a_folder_called_like_an_alias_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unrelated folder `minilm` in the working folder does not hide the alias."""
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ModelUnavailableError):
        resolve("minilm", offline=True)


@pytest.mark.parametrize(
    "model", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "", " ", "bert", "x" * 5000, "a\0b", "-/"]
)
def test_what_is_no_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither folder, nor alias, nor owner/name is unknown, without asking any network."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError):
        resolve(model)


def test_a_misspelled_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The close alias is suggested."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="minilmm") as caught:
        resolve("minilmm")
    assert "minilm" in caught.value.hint


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """An existing folder that holds no model is named as such."""
    with pytest.raises(UnknownModelError, match="holds no model"):
        resolve(str(tmp_path))


def test_a_file_instead_of_its_folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A weight file's path is answered with: give the folder."""
    folder = tiny_model(tmp_path / "mine")
    with pytest.raises(UnknownModelError, match="is a file") as caught:
        resolve(str(folder / "model.safetensors"))
    assert "folder" in caught.value.hint


def test_a_revision_of_a_folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A folder has no revisions to choose from."""
    with pytest.raises(UsageError, match="v1"):
        resolve(str(tiny_model(tmp_path / "mine")), revision="v1")


def test_a_damaged_folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Weights that were cut short are a corrupt model, with the file's name."""
    weights = tiny_model(tmp_path / "mine") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CorruptModelError, match=r"model\.safetensors"):
        resolve(str(weights.parent))


def test_other_weights_are_another_revision(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Vectors of retrained weights never mix with the old ones: the revision differs."""
    folder = tiny_model(tmp_path / "mine", seed=0)
    before = resolve(str(folder)).revision
    tiny_model(folder, seed=1)
    assert resolve(str(folder)).revision != before


def test_verify_a_folder_of_the_users(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Nothing is known about its digests, so all of its files pass as unknown."""
    path, checked = verify(str(tiny_model(tmp_path / "mine")))
    assert path == tmp_path / "mine"
    assert {file.path for file in checked} >= {"config.json", "model.safetensors"}
    assert all(file.ok and file.expected is None for file in checked)


def test_importing_and_resolving_load_no_hub(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Neither the import nor a model that is here pays for the hub's library."""
    folder = tiny_model(tmp_path / "mine")
    program = (
        "import sys, embatch.backends.resolve as r\n"
        "heavy = {'huggingface_hub', 'openvino', 'torch', 'rich', 'urllib.request'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"r.resolve({str(folder)!r})\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
