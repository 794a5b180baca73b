"""What goes over the wire to servers of all kinds, and what must not."""

from __future__ import annotations

import json
import logging
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.errors import ProviderError
from embatch.providers.registry import open_provider
from embatch.remote import EmbedWork, GenerateWork, JobRef, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.providers.conftest import Scripted

pytestmark = pytest.mark.remote
pytest.importorskip("openai")
pytest.importorskip("google.genai")

KEY = "topsecret-0123456789"
WORK = EmbedWork(model="bge-m3")
ONE = {"data": [{"index": 0, "embedding": [1.0, 2.0]}], "usage": {"total_tokens": 3}}


def test_a_compatible_server_gets_no_key_that_was_not_meant_for_it(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither OpenAI's key nor what belongs to an account there; without a key, no header at all."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    server.reply(200, ONE)
    provider = open_provider("compatible:bge-m3", base_url=f"{server.url}/v1")
    provider.call(["a"], WORK, timeout_s=5)
    provider.close()
    (seen,) = server.seen
    assert "authorization" not in seen.headers
    assert not {"openai-organization", "openai-project"} & set(seen.headers)
    assert KEY not in str(seen)


@pytest.mark.parametrize("where", ["argument", "EMBATCH_API_KEY", "OPENAI_API_KEY"])
def test_a_compatible_server_gets_the_key_that_was_meant_for_it(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """By argument or variable; OpenAI's variable together with OpenAI's base URL variable."""
    server.reply(200, ONE)
    base_url = f"{server.url}/v1"
    if where == "OPENAI_API_KEY":
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    if where != "argument":
        monkeypatch.setenv(where, KEY)
    provider = open_provider(
        "compatible:bge-m3",
        base_url=None if where == "OPENAI_API_KEY" else base_url,
        api_key=KEY if where == "argument" else None,
    )
    provider.call(["a"], WORK, timeout_s=5)
    provider.close()
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_numbers_from_compatible_servers_and_base64_from_openai(server: Scripted) -> None:
    """Many servers break on base64, which the SDK would ask for unless told otherwise."""
    server.reply(200, ONE)
    compatible = open_provider("compatible:bge-m3", base_url=f"{server.url}/v1")
    vector = compatible.call(["a"], WORK, timeout_s=5).results[0]
    assert isinstance(vector, np.ndarray)
    assert vector.tolist() == [1.0, 2.0]
    with open_closing("openai:text-embedding-3-small", server) as provider, pytest.raises(ProviderError):
        provider.submit([("k", "a")], EmbedWork(model="text-embedding-3-small"), tag="t")
    compatible.close()
    assert server.seen[0].body["encoding_format"] == "float"
    assert b'"encoding_format":"base64"' in server.seen[1].body


class open_closing:  # noqa: N801  # reads as a verb
    """`with open_closing(model, server) as provider`."""

    def __init__(self, model: str, server: Scripted) -> None:
        path = "" if model.startswith("gemini") else "/v1"
        self.provider = open_provider(model, base_url=server.url + path, api_key=KEY)

    def __enter__(self) -> Provider:
        return self.provider

    def __exit__(self, *_: object) -> None:
        self.provider.close()
        self.provider.close()  # closing twice is allowed


@pytest.mark.parametrize("model", ["gemini:gemini-embedding-001", "openai:text-embedding-3-small"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 502])
def test_the_key_is_in_no_message_and_no_log(
    server: Scripted, caplog: pytest.LogCaptureFixture, model: str, status: int
) -> None:
    """Even if the server repeats it, and all libraries log all they know."""
    server.reply(status, {"error": {"message": f"your key {KEY} is odd", "code": status}})
    with caplog.at_level(logging.DEBUG), open_closing(model, server) as provider:
        name = model.partition(":")[2]
        asks: list[Callable[[], object]] = [
            lambda: provider.call(["a"], EmbedWork(model=name), timeout_s=5),
            lambda: provider.call(["a"], GenerateWork(model=name), timeout_s=5),
            lambda: provider.poll(JobRef(id="batches/1")),
            lambda: provider.submit([("k", "a")], EmbedWork(model=name), tag="t"),
        ]
        told = ""
        for ask in asks:
            try:
                ask()
            except ProviderError as error:
                told += f"{error} {error!r} {error.hint} {error.__cause__} {error.__cause__!r}"
    assert KEY not in told
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("embatch"))
    assert KEY not in ours
    foreign = [r for r in caplog.records if KEY in r.getMessage() and "your key" not in r.getMessage()]
    assert foreign == []


def test_a_proxys_page_with_status_200(server: Scripted) -> None:
    """HTML where JSON should be: PROTOCOL, with the page's name."""
    server.reply(200, "<html><title>Login</title></html>")
    for model in ("gemini:gemini-embedding-001", "openai:text-embedding-3-small"):
        with open_closing(model, server) as provider, pytest.raises(ProviderError) as error:
            provider.call(["a"], EmbedWork(model=model.partition(":")[2]), timeout_s=5)
        assert error.value.kind == "protocol"
        assert "Login" in str(error.value)


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "{}", "", '{"data": null, "embeddings": null}'])
def test_json_that_is_no_answer(server: Scripted, body: str) -> None:
    """Whatever comes with status 200 is looked at before it is used."""
    server.reply(200, body)
    for model in ("gemini:gemini-embedding-001", "openai:text-embedding-3-small"):
        with open_closing(model, server) as provider, pytest.raises(ProviderError) as error:
            provider.call(["a"], EmbedWork(model=model.partition(":")[2]), timeout_s=5)
        assert error.value.kind == "protocol"


def test_a_gateway_that_refuses_with_status_200(server: Scripted) -> None:
    """Some put the error into a good answer."""
    server.reply(200, {"error": {"message": "no credit", "code": "insufficient_quota"}})
    with (
        open_closing("openai:text-embedding-3-small", server) as provider,
        pytest.raises(ProviderError) as error,
    ):
        provider.call(["a"], EmbedWork(model="text-embedding-3-small"), timeout_s=5)
    assert error.value.kind == "quota_money"


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        ([(200, {}, {})], "no address"),
        ([(200, {}, {"x-goog-upload-url": "URL"}), (200, {}, {})], "ended as nothing"),
        (
            [(200, {}, {"x-goog-upload-url": "URL"}), (200, {}, {"x-goog-upload-status": "active"})],
            "ended as active",
        ),
        (
            [(200, {}, {"x-goog-upload-url": "URL"}), (200, {}, {"x-goog-upload-status": "final"})],
            "without a name",
        ),
    ],
)
def test_uploads_that_make_no_sense(
    server: Scripted, upload: list[tuple[int, object, dict[str, str]]], said: str
) -> None:
    """Each leg's answer is checked, nothing is waited for and nothing sent twice; the key stays with the first leg."""
    server.replies = [
        (status, body, {n: v.replace("URL", f"{server.url}/there") for n, v in headers.items()})
        for status, body, headers in upload
    ]
    work = EmbedWork(model="gemini-embedding-001")
    with (
        open_closing("gemini:gemini-embedding-001", server) as provider,
        pytest.raises(ProviderError, match=said) as error,
    ):
        provider.submit([("k", "a")], work, tag="t")
    assert error.value.kind == "protocol"
    assert len(server.seen) == len(upload)
    assert KEY not in str(server.seen[1:])


def test_large_uploads_go_in_chunks(server: Scripted) -> None:
    """Of 8 MiB, with their offsets, the last one ending the file."""
    server.reply(200, {}, x_goog_upload_url=f"{server.url}/there")
    server.reply(200, {}, x_goog_upload_status="active")
    server.reply(200, {"file": {"name": "files/1"}}, x_goog_upload_status="final")
    server.reply(200, {"name": "batches/1"})
    text = "x" * 3_000_000
    with open_closing("gemini:gemini-embedding-001", server) as provider:
        job = provider.submit(
            [(str(i), text) for i in range(4)], EmbedWork(model="gemini-embedding-001"), tag="t"
        )
    assert job == JobRef(id="batches/1", input_file="files/1")
    _, first, second, create = server.seen
    assert (first.headers["x-goog-upload-command"], second.headers["x-goog-upload-command"]) == (
        "upload",
        "upload, finalize",
    )
    assert second.headers["x-goog-upload-offset"] == str(8 * 1024 * 1024)
    assert len(first.body) == 8 * 1024 * 1024
    assert create.body == {"batch": {"displayName": "t", "inputConfig": {"fileName": "files/1"}}}


@pytest.mark.parametrize("model", ["gemini:gemini-embedding-001", "openai:text-embedding-3-small"])
def test_large_results_do_not_fill_the_memory(server: Scripted, model: str) -> None:
    """A file of 24 MB is on disk before its first row, and in memory line by line."""
    padding = "x" * 200_000
    if model.startswith("gemini"):
        line: dict[str, object] = {"key": "k", "error": {"code": 3, "message": "m"}, "padding": padding}
        server.reply(200, {"done": True, "response": {"responsesFile": "files/out"}})
    else:
        line = {"custom_id": "k", "error": {"code": "x", "message": "m"}, "padding": padding}
        server.reply(200, {"id": "batch_1", "status": "completed", "output_file_id": "file-1"})
    server.reply(200, (json.dumps(line) + "\n").encode() * 120)
    with open_closing(model, server) as provider:
        tracemalloc.start()
        count = sum(1 for _ in provider.results(JobRef(id="batches/1")))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 120
    assert peak < 12_000_000


def test_lists_that_never_end(server: Scripted) -> None:
    """A page that names itself as the next one ends the search."""
    server.reply(200, {"operations": [], "nextPageToken": "again"})
    with open_closing("gemini:gemini-embedding-001", server) as provider:
        assert provider.find("tag") is None
    assert len(server.seen) == 2
    server.seen.clear()
    server.replies = [(200, {"data": [], "has_more": True, "last_id": "again"}, {})]
    with open_closing("openai:text-embedding-3-small", server) as provider:
        assert provider.find("tag") is None
    assert len(server.seen) == 2


def test_a_job_without_a_name(server: Scripted) -> None:
    """It may exist: the kind says so, and its file is left alone."""
    server.reply(200, {"id": "file-1"})
    server.reply(200, {})
    with (
        open_closing("openai:text-embedding-3-small", server) as provider,
        pytest.raises(ProviderError) as error,
    ):
        provider.submit([("k", "a")], EmbedWork(model="text-embedding-3-small"), tag="t")
    assert error.value.kind.may_have_happened
    assert [seen.method for seen in server.seen] == ["POST", "POST"]
