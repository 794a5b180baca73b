"""Fetching from a hub, with the real `huggingface_hub` and a server whose faults are scripted."""

from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from embatch.backends import hub as hub_module
from embatch.backends.cache import model_folder
from embatch.backends.digests import compute
from embatch.backends.resolve import ensure, locate, resolve, verify
from embatch.errors import (
    CorruptModelError,
    DiskFullError,
    EmbatchError,
    ModelUnavailableError,
    OutputNotWritableError,
    UnknownModelError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.models.conftest import Hub

NAME = "tests/tiny"


def leftovers() -> list[str]:
    """What lies beside the models: nothing but locks, if all went well."""
    folder = model_folder(NAME).parent
    return [path.name for path in folder.iterdir() if ".part-" in path.name] if folder.exists() else []


def test_a_model_is_fetched_whole(hub: Hub, tmp_path: Path) -> None:
    """The files that matter arrive, are recorded with their digests, and are used without asking again."""
    hub.files |= {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph", "README.md": b"about"}
    files = resolve(NAME)
    assert files.path == model_folder(NAME)
    assert files.name == NAME
    assert files.revision == compute(tmp_path / "repository" / "model.safetensors")[:16]
    found = {p.relative_to(files.path).as_posix() for p in files.path.rglob("*") if p.is_file()}
    wanted = {"config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "model.safetensors"}
    assert found == {*wanted, "embatch-files.json"}
    asked = len(hub.requests)
    assert resolve(NAME) == files == locate(NAME)
    assert ensure(NAME) == (files, False)
    assert len(hub.requests) == asked
    assert not leftovers()
    assert all(file.ok and file.expected for file in verify(NAME)[1])


def test_progress_is_told(hub: Hub) -> None:
    """Each file's bytes grow to its size."""
    seen: dict[str, list[tuple[int, int | None]]] = {}
    resolve(NAME, on_progress=lambda name, done, total: seen.setdefault(name, []).append((done, total)))
    size = len(hub.files["model.safetensors"])
    assert seen["model.safetensors"][-1] == (size, size)
    done = [bytes_done for bytes_done, _ in seen["model.safetensors"]]
    assert done == sorted(done)


def test_a_revision_has_its_own_folder(hub: Hub) -> None:
    """A tag and the newest version lie side by side."""
    tagged, newest = resolve(NAME, revision="v1"), resolve(NAME)
    assert tagged.path != newest.path
    assert tagged.revision == newest.revision
    assert locate(NAME, revision="v1") == tagged


def test_a_missing_repository(hub: Hub) -> None:
    """The hub says that there is no such model: so do we."""
    with pytest.raises(UnknownModelError, match="tests/absent"):
        resolve("tests/absent")
    assert hub.requests
    assert not leftovers()


def test_a_missing_revision(hub: Hub) -> None:
    """The message names the revision."""
    with pytest.raises(UnknownModelError, match="v99"):
        resolve(NAME, revision="v99")


def test_a_known_model_that_the_hub_lacks(hub: Hub) -> None:
    """A private hub without a well-known model is no reason to call the model unknown."""
    with pytest.raises(ModelUnavailableError, match="BAAI/bge-small"):
        resolve("bge-small")
    assert hub.requests


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_hub_that_refuses(hub: Hub, status: int) -> None:
    """Whatever the status, the error is ours, and nothing is left behind."""
    hub.status = status
    with pytest.raises((ModelUnavailableError, UnknownModelError), match="127"):
        resolve(NAME)
    assert not model_folder(NAME).exists()
    assert not leftovers()


def test_a_server_error_in_the_middle_of_the_weights(hub: Hub) -> None:
    """A transfer that breaks leaves nothing, and the next one starts afresh."""
    hub.cut_after = 1000
    with pytest.raises(ModelUnavailableError, match=hub.address):
        resolve(NAME)
    assert not model_folder(NAME).exists()
    assert not leftovers()
    hub.cut_after = hub.status = None
    assert resolve(NAME).name == NAME


def test_weights_that_end_early(hub: Hub) -> None:
    """A file that is shorter than announced never becomes a model."""
    hub.truncate_to = 1000
    with pytest.raises((ModelUnavailableError, CorruptModelError), match=r"size|SHA-256"):
        resolve(NAME)
    assert not model_folder(NAME).exists()
    assert not leftovers()


def test_weights_with_another_digest(hub: Hub) -> None:
    """The message names the file, the digest that was announced and the one that was found."""
    hub.announced["model.safetensors"] = "ab" * 32
    found = compute(Path("repository/model.safetensors"))
    with pytest.raises(CorruptModelError, match=f"(?s)model.safetensors.*{found}.*{'ab' * 32}"):
        resolve(NAME)
    assert not model_folder(NAME).exists()


def test_a_repository_of_pickles(hub: Hub) -> None:
    """A model that has only pickled weights is refused before anything large is fetched."""
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    with pytest.raises(UnsupportedModelError, match="pickle"):
        resolve(NAME)
    assert not hub.downloads("pytorch_model.bin")


def test_a_repository_without_weights(hub: Hub) -> None:
    """A repository that is no model is told apart from one that is out of reach."""
    del hub.files["model.safetensors"]
    with pytest.raises(UnsupportedModelError, match="neither safetensors"):
        resolve(NAME)


def test_an_exported_graph_instead_of_safetensors(hub: Hub) -> None:
    """Where there are no safetensors, the graph comes with its data."""
    del hub.files["model.safetensors"]
    hub.files |= {
        "onnx/model.onnx": b"graph",
        "onnx/model.onnx_data": b"data",
        "onnx/model_O4.onnx": b"other",
    }
    files = resolve(NAME)
    assert (files.path / "onnx" / "model.onnx_data").read_bytes() == b"data"
    assert not (files.path / "onnx" / "model_O4.onnx").exists()


def test_nobody_at_the_hubs_address() -> None:
    """Without a hub, the error lists the ways out, and nothing is left behind."""
    with pytest.raises(ModelUnavailableError) as caught:
        resolve(NAME)
    told = str(caught.value)
    assert "cannot connect to http://127.0.0.1" in told
    for way in ("embatch models fetch", "HF_ENDPOINT", "HF_HOME", str(model_folder(NAME)), "--model PATH"):
        assert way in told
    assert caught.value.retryable
    assert not leftovers()


def test_an_address_that_answers_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packets vanish, or the resolver hangs, the hub is given up after a few seconds and named."""
    ended = threading.Event()

    def hang(*_: object) -> None:
        ended.wait(60)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", hang)
    monkeypatch.setattr(hub_module, "CONNECT_S", 0.05)
    with pytest.raises(ModelUnavailableError, match=f"no answer from {hub.address}"):
        resolve(NAME)
    ended.set()
    assert not hub.requests


def test_behind_a_proxy_the_hub_is_not_probed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy connects for us, whether we could ourselves says nothing: the request goes to the proxy."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", hub.address)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises((ModelUnavailableError, UnknownModelError), match=r"hub\.example"):
        resolve("tests/absent")
    assert hub.requests


def test_what_answers_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login page in place of the hub ends as a model that cannot be had, not as a traceback."""
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.address}/portal")
    with pytest.raises((ModelUnavailableError, UnknownModelError)):
        resolve(NAME)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline(hub: Hub, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, no request is made; what is here is used."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", how == "environment")
    with pytest.raises(ModelUnavailableError, match=r"offline mode|HF_HUB_OFFLINE"):
        resolve(NAME, offline=how == "argument")
    assert not hub.requests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    fetched = resolve(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", how == "environment")
    assert resolve(NAME, offline=True) == fetched


def test_the_hubs_cache_is_used(hub: Hub, tmp_path: Path) -> None:
    """A model that another program has fetched is used where it lies, and verified by the names of its blobs."""
    for name in hub.files:
        huggingface_hub.hf_hub_download(NAME, name, endpoint=hub.address)
    snapshot = next((tmp_path / "hf").glob("hub/*/snapshots/*"))
    asked = len(hub.requests)
    files = resolve(NAME, offline=True)
    assert files.path == snapshot
    assert not model_folder(NAME).exists()
    assert len(hub.requests) == asked
    path, checked = verify(NAME)
    assert path == snapshot
    assert next(file for file in checked if file.path == "model.safetensors").expected is not None


def test_half_a_model_in_the_hubs_cache(hub: Hub) -> None:
    """A snapshot without weights is passed over, and named where nothing better can be had."""
    huggingface_hub.hf_hub_download(NAME, "config.json", endpoint=hub.address)
    with pytest.raises(ModelUnavailableError, match="Hugging Face cache"):
        resolve(NAME, offline=True)
    assert resolve(NAME).path == model_folder(NAME)


def test_a_damaged_blob_in_the_hubs_cache(hub: Hub, tmp_path: Path) -> None:
    """Another program's copy whose content is not what its name says is not taken over, but fetched anew."""
    for name in hub.files:
        huggingface_hub.hf_hub_download(NAME, name, endpoint=hub.address)
    blob = next((tmp_path / "hf").glob("hub/*/snapshots/*/model.safetensors")).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    files, is_new = ensure(NAME)
    assert is_new
    assert files.path == model_folder(NAME)
    assert resolve(NAME, offline=True) == files


def test_a_damaged_copy_is_named_and_replaced(hub: Hub) -> None:
    """Resolving names the damaged file; verifying finds what sizes do not show; fetching replaces it."""
    files = resolve(NAME)
    weights = files.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    weights.write_bytes(content[:-1])
    with pytest.raises(CorruptModelError, match=r"model\.safetensors") as caught:
        resolve(NAME)
    assert "embatch models fetch" in caught.value.hint
    content[-1] ^= 1
    weights.write_bytes(content)
    bad = [file.path for file in verify(NAME)[1] if not file.ok]
    assert bad == ["model.safetensors"]
    assert ensure(NAME) == (files, True)
    assert all(file.ok for file in verify(NAME)[1])
    assert not leftovers()


def test_a_file_that_vanished_is_named(hub: Hub) -> None:
    """A file that was fetched and is gone makes the copy a damaged one."""
    files = resolve(NAME)
    (files.path / "tokenizer.json").unlink()
    with pytest.raises(CorruptModelError, match=r"tokenizer\.json is missing"):
        resolve(NAME)
    assert [file.path for file in verify(NAME)[1] if not file.ok] == ["tokenizer.json"]


def test_a_broken_record_is_a_damaged_copy(hub: Hub) -> None:
    """The record beside a model is read with the same distrust as the rest."""
    files = resolve(NAME)
    for content in ("{", "[]", json.dumps({"model": "x", "origin": "", "version": "", "files": {"a": 1}})):
        (files.path / "embatch-files.json").write_text(content, encoding="utf-8")
        with pytest.raises(CorruptModelError, match="embatch-files"):
            resolve(NAME)
    assert ensure(NAME) == (files, True)


def test_a_folder_copied_into_the_cache_by_hand(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """One of the ways out that the message names: no record lies there, and it works."""
    tiny_model(model_folder(NAME))
    assert resolve(NAME, offline=True).path == model_folder(NAME)


def test_a_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is noticed before the download, with both numbers."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError, match="0 MB are free") as caught:
        resolve(NAME)
    assert "EMBATCH_CACHE" in caught.value.hint
    assert not hub.downloads("model.safetensors")
    assert not leftovers()


def test_a_cache_that_cannot_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder below a file is no place for a model."""
    Path("file").touch()
    monkeypatch.setenv("EMBATCH_CACHE", str(Path("file/cache").absolute()))
    with pytest.raises(OutputNotWritableError, match="file") as caught:
        resolve(NAME)
    assert "EMBATCH_CACHE" in caught.value.hint


# What the library's exceptions become. A class that is in neither list fails the test: decide what it means.
MEANINGS: dict[str, type[EmbatchError]] = {
    "BadRequestError": ModelUnavailableError,
    "DisabledRepoError": ModelUnavailableError,
    "EntryNotFoundError": ModelUnavailableError,
    "FileMetadataError": ModelUnavailableError,
    "GatedRepoError": ModelUnavailableError,
    "HFValidationError": UnknownModelError,
    "HfHubHTTPError": ModelUnavailableError,
    "HfUriError": ModelUnavailableError,
    "IncompleteSnapshotError": ModelUnavailableError,
    "LocalEntryNotFoundError": ModelUnavailableError,
    "LocalTokenNotFoundError": ModelUnavailableError,
    "OfflineModeIsEnabled": ModelUnavailableError,
    "RemoteEntryNotFoundError": ModelUnavailableError,
    "RepositoryNotFoundError": UnknownModelError,
    "RevisionNotFoundError": UnknownModelError,
    "RevisionResolutionError": UnknownModelError,
    "XetDownloadError": ModelUnavailableError,
}
ELSEWHERE = (  # features of the library that embatch does not use
    *("Bucket", "CLI", "Cache", "Confirmation", "Corrupted", "DDUF", "Device", "DryRun", "FileDuplication"),
    *("Generation", "Incomplete", "Inference", "Job", "NotASafetensors", "OAuth", "OIDC", "Overloaded"),
    *(
        "Safetensors",
        "Sandbox",
        "StrictDataclass",
        "TextGeneration",
        "Unknown",
        "Validation",
        "XetAuthorization",
    ),
    *("XetError", "XetRefresh"),
)
CLASSES = [
    kind
    for _, kind in inspect.getmembers(hub_errors, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == hub_errors.__name__
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_exception_of_the_library_has_a_meaning(kind: type[Exception]) -> None:
    """Each class is mapped to the error of ours that fits it, and the message says who refused."""
    if kind.__name__ not in MEANINGS:
        assert kind.__name__.startswith(ELSEWHERE), f"{kind.__name__} is new: what does it mean for a fetch?"
    error = hub_module.translate(kind.__new__(kind, "told"), NAME, None, "https://hub", Path())
    assert type(error) is MEANINGS.get(kind.__name__, ModelUnavailableError)
    assert "https://hub" in str(error)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (OSError(28, "No space left on device"), DiskFullError),
        (OSError(122, "Quota exceeded"), DiskFullError),
        (PermissionError(13, "Permission denied"), OutputNotWritableError),
        (OSError(30, "Read-only file system"), OutputNotWritableError),
        (OSError("Consistency check failed"), ModelUnavailableError),
        (ConnectionResetError(104, "Connection reset by peer"), ModelUnavailableError),
        (KeyError("id"), ModelUnavailableError),
        (RuntimeError("xet"), ModelUnavailableError),
    ],
)
def test_other_exceptions(error: Exception, meaning: type[EmbatchError]) -> None:
    """A disk's complaint is told apart from a network's, and nothing passes as it is."""
    assert type(hub_module.translate(error, NAME, None, "https://hub", Path("place"))) is meaning
