"""Files and batches by OpenAI's own Python client, unchanged, and by hand where that is too polite."""

from __future__ import annotations

import io
import json
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.server.gate import until
from tests.contract.server.http import Reply, ask
from tests.doubles import FakeBackend, Faults
from tests.served import no_more_than

from embatch.frontends.server.settings import ApiKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.server.conftest import Serving

    from embatch.frontends.server.transport.running import BackgroundServer

pytestmark = [pytest.mark.serve, pytest.mark.remote]

TEXTS = ["the cat sat on the mat", "a dog barked at the moon", "Zürich, 東京 and 🦊"]
BATCH = {"endpoint": "/v1/embeddings", "completion_window": "24h"}


@contextmanager
def client_of(server: BackgroundServer, key: str = "none") -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def client(server: BackgroundServer) -> Iterator[Any]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def server(serving: Serving) -> Iterator[BackgroundServer]:
    with serving(file_bytes=300_000) as server:
        yield server


def lines_of(*texts: object, model: str = "words", **body: Any) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"row {place}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": model, "input": text, **body},
            }
        ).encode()
        + b"\n"
        for place, text in enumerate(texts)
    )


def upload(client: Any, data: bytes, **options: Any) -> Any:
    return client.files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch", **options)


def ended(client: Any, name: str) -> Any:
    end = time.monotonic() + 20
    while True:
        batch = client.batches.retrieve(name)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
        assert time.monotonic() < end
        time.sleep(0.005)


def uploads_left(server: BackgroundServer) -> list[Path]:
    state = server.server.state
    assert state is not None
    assert state.jobs is not None
    return list((state.jobs.folder / "parts").glob("*.upload"))


def form(server: BackgroundServer, body: bytes, kind: str = "multipart/form-data; boundary=XX") -> Reply:
    return ask(server, "POST", "/v1/files", body, {"Content-Type": kind})


def part(name: str, data: bytes, filename: str = "") -> bytes:
    told = f'; filename="{filename}"' if filename else ""
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = b"--XX--\r\n"


def test_a_batch(client: Any) -> None:
    """A batch gives what single requests give, under the ids of its rows."""
    expected = client.embeddings.create(model="words", input=TEXTS, encoding_format="float")
    file = upload(client, lines_of(*TEXTS, TEXTS))
    batch = client.batches.create(input_file_id=file.id, metadata={"a": "b"}, **BATCH)
    assert batch.status == "validating"
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.metadata == {"a": "b"}
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 4, "failed": 0}
    assert batch.usage.input_tokens == 2 * expected.usage.prompt_tokens
    assert batch.error_file_id is None
    assert batch.model == "words"
    assert None not in {batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at}
    rows = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [row["custom_id"] for row in rows] == [f"row {place}" for place in range(4)]
    vectors = [each.embedding for each in expected.data]
    found = [entry["embedding"] for row in rows for entry in row["response"]["body"]["data"]]
    assert np.allclose(found, vectors * 2, atol=1e-6)
    assert [row["response"]["body"]["usage"]["prompt_tokens"] for row in rows][3] > 0
    output = client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.status) == ("batch_output", "processed")
    assert output.bytes == len(client.files.content(batch.output_file_id).content)


def test_rows_that_fail(client: Any) -> None:
    """Rows that cannot be answered are in the error file, with a status and a body as of a single request."""
    file = upload(
        client, lines_of("fine", "", ["fine", "   "], [[-1]]) + lines_of("x").replace(b"row 0", b"row 9")
    )
    batch = ended(client, client.batches.create(input_file_id=file.id, **BATCH).id)
    assert batch.request_counts.model_dump() == {"total": 5, "completed": 2, "failed": 3}
    rows = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert [row["custom_id"] for row in rows] == ["row 1", "row 2", "row 3"]
    assert {row["response"]["status_code"] for row in rows} == {400}
    assert all(row["response"]["body"]["error"]["message"] for row in rows)


def test_no_good_row(client: Any) -> None:
    """Where no row went well the error file is the only one."""
    file = upload(client, lines_of("", ""))
    batch = ended(client, client.batches.create(input_file_id=file.id, **BATCH).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert batch.error_file_id is not None


def test_invalid_file(client: Any) -> None:
    """A batch whose file is invalid fails, and says which lines are to blame."""
    file = upload(client, lines_of("x") + b"{\n" + lines_of("y", model="gpt-9"))
    batch = ended(client, client.batches.create(input_file_id=file.id, **BATCH).id)
    assert batch.status == "failed"
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "mismatched_model"),
        (3, "duplicate_custom_id"),
    ]
    assert batch.failed_at is not None
    assert batch.output_file_id is None


def test_files(client: Any) -> None:
    """A file comes back as it was sent, until it is deleted."""
    data = lines_of("x") * 1000
    file = upload(client, data, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (file.bytes, file.filename, file.purpose) == (len(data), "in.jsonl", "batch")
    assert file.expires_at - file.created_at == 3600
    assert client.files.content(file.id).content == data
    assert client.files.retrieve(file.id) == file
    assert client.files.delete(file.id).deleted
    openai = pytest.importorskip("openai")
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


def test_lists(serving: Serving) -> None:
    """The client goes through lists page by page, in either order."""
    with serving() as server, client_of(server) as client:
        files = [upload(client, lines_of("x")).id for _ in range(5)]
        assert [file.id for file in client.files.list(limit=2)] == files[::-1]
        assert [file.id for file in client.files.list(limit=2, order="asc")] == files
        assert [file.id for file in client.files.list(purpose="assistants")] == []
        batches = [client.batches.create(input_file_id=name, **BATCH).id for name in files]
        assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
        page = client.batches.list(limit=2, after=batches[2])
        assert [batch.id for batch in page.data] == [batches[1], batches[0]]
        assert not page.has_next_page()
        for name in batches:
            ended(client, name)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("GET", "/v1/batches?limit=0", None, 400, "limit"),
        ("GET", "/v1/batches?limit=x", None, 400, "limit"),
        ("GET", "/v1/batches?after=batch_1", None, 404, "after"),
        ("GET", "/v1/files?after=file-1", None, 404, "after"),
        ("GET", "/v1/files?order=up", None, 400, "order"),
        ("GET", "/v1/batches/batch_1", None, 404, "id"),
        ("POST", "/v1/batches/batch_1/cancel", {}, 404, "id"),
        ("GET", "/v1/files/file-1", None, 404, "id"),
        ("GET", "/v1/files/..%2f..%2fserved.sqlite/content", None, 404, None),
        ("POST", "/v1/batches", {}, 400, "input_file_id"),
        ("POST", "/v1/batches", {**BATCH, "input_file_id": "file-1"}, 404, "input_file_id"),
        ("POST", "/v1/batches", {**BATCH, "input_file_id": 7}, 400, "input_file_id"),
        ("POST", "/v1/batches", {**BATCH, "input_file_id": "f", "endpoint": "/v1/x"}, 400, "endpoint"),
        (
            "POST",
            "/v1/batches",
            {**BATCH, "input_file_id": "f", "completion_window": "1h"},
            400,
            "completion_window",
        ),
        ("POST", "/v1/batches", {**BATCH, "input_file_id": "f", "metadata": {"a": 1}}, 400, "metadata"),
        ("POST", "/v1/batches", {**BATCH, "input_file_id": "f", "colour": "red"}, 400, "colour"),
        (
            "POST",
            "/v1/batches",
            {**BATCH, "input_file_id": "f", "output_expires_after": {"anchor": "created_at", "seconds": 5}},
            400,
            "output_expires_after.seconds",
        ),
        ("POST", "/v1/batches", b"[]", 400, None),
    ],
)
def test_refusals(
    server: BackgroundServer, method: str, path: str, body: Any, status: int, param: str | None
) -> None:
    """What makes no sense is refused with its field, in OpenAI's error body."""
    reply = ask(server, method, path, body)
    assert reply.status == status
    error = reply.json["error"]
    assert error["param"] == param
    assert error["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (END, 400, "missing_required_parameter"),
        (part("purpose", b"batch") + END, 400, "missing_required_parameter"),
        (part("file", b"x", "f") + END, 400, "missing_required_parameter"),
        (part("purpose", b"fine-tune") + part("file", b"x", "f") + END, 400, "invalid_value"),
        (part("purpose", b"batch") + part("file", b"", "f") + END, 400, "empty_file"),
        (part("file", b"x", "f") + part("file", b"y", "g") + END, 400, "invalid_form"),
        (part("purpose", b"batch") + part("file", b"x", "f"), 400, "invalid_form"),
        (part("purpose", b"b" * 9000) + END, 400, "invalid_form"),
        (part("a", b"b") * 30 + END, 400, "invalid_form"),
        (b"no form at all", 400, "invalid_form"),
        (part("file", b"x" * 300_001, "f") + END, 413, "file_too_large"),
    ],
)
def test_forms(server: BackgroundServer, body: bytes, status: int, code: str) -> None:
    """A form that is none, or holds no file that can be taken, is refused and leaves nothing behind."""
    reply = form(server, body)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert uploads_left(server) == []


def test_no_form(server: BackgroundServer) -> None:
    """A file that comes in no form is refused."""
    assert form(server, b"{}", "application/json").status == 400


def test_largest_file(server: BackgroundServer) -> None:
    """A file of exactly as many bytes as are allowed is taken."""
    reply = form(server, part("purpose", b"batch") + part("file", b"x" * 300_000, "f") + END)
    assert (reply.status, reply.json["bytes"]) == (200, 300_000)


def test_client_that_goes_away(server: BackgroundServer) -> None:
    """An upload whose client goes away leaves nothing behind."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n" + part("file", b"x" * 1000, "f")
        )
        until(lambda: bool(uploads_left(server)))
    until(lambda: not uploads_left(server))


def test_keys(serving: Serving) -> None:
    """What one key made no other sees."""
    openai = pytest.importorskip("openai")
    keys = (ApiKey(name="ann", secret="s-ann"), ApiKey(name="bob", secret="s-bob"))
    with serving(keys=keys) as server, client_of(server, "s-ann") as ann, client_of(server, "s-bob") as bob:
        file = upload(ann, lines_of("x"))
        batch = ended(ann, ann.batches.create(input_file_id=file.id, **BATCH).id)
        assert list(bob.files.list()) == []
        assert list(bob.batches.list()) == []
        for ask_, name in (
            (bob.files.retrieve, file.id),
            (bob.files.content, batch.output_file_id),
            (bob.files.delete, file.id),
            (bob.batches.retrieve, batch.id),
            (bob.batches.cancel, batch.id),
        ):
            with pytest.raises(openai.NotFoundError):
                ask_(name)
        with pytest.raises(openai.NotFoundError):
            bob.batches.create(input_file_id=file.id, **BATCH)
        assert {each.id for each in ann.files.list()} == {file.id, batch.output_file_id}


def test_cancelling(client: Any) -> None:
    """A batch that has ended cannot be cancelled any more; its input cannot be used for something else."""
    openai = pytest.importorskip("openai")
    batch = ended(client, client.batches.create(input_file_id=upload(client, lines_of("x")).id, **BATCH).id)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.BadRequestError):
        client.batches.create(input_file_id=batch.output_file_id, **BATCH)


def test_folder_that_cannot_be_written(serving: Serving, tmp_path: Path) -> None:
    """Where files cannot be kept the server works all the same, and says so to who asks for files."""
    (tmp_path / "file").touch()
    with serving(state=tmp_path / "file" / "state") as server:
        assert form(server, part("purpose", b"batch") + part("file", b"x", "f") + END).status == 507
        reply = ask(server, "GET", "/v1/batches")
        assert (reply.status, reply.json["error"]["code"]) == (507, "storage_failed")
        assert ask(server, "POST", "/v1/embeddings", {"model": "words", "input": "x"}).status == 200


def test_restart(serving: Serving, tmp_path: Path) -> None:
    """Files and batches are there again after a restart, and what was interrupted goes on."""
    with serving(state=tmp_path / "s") as server, client_of(server) as client:
        texts = [f"text {place}" for place in range(1000)]
        file = upload(client, lines_of(*texts))
        name = client.batches.create(input_file_id=file.id, **BATCH).id
    with serving(state=tmp_path / "s") as server, client_of(server) as client:
        batch = ended(client, name)
        assert batch.request_counts.completed == 1000
        rows = client.files.content(batch.output_file_id).text.splitlines()
        assert [json.loads(row)["custom_id"] for row in rows] == [f"row {place}" for place in range(1000)]


def test_bad_texts_in_a_real_queue(serving: Serving) -> None:
    """Texts that break a batch or come back as NaN are error rows; the others, asked with them, have their vectors."""
    faults = Faults(raise_for=["break"], nan_for=["odd"], fail_calls=[2])
    with serving(FakeBackend(faults=faults), queue=400) as server, client_of(server) as client:
        texts: list[object] = [f"text {place}" for place in range(300)]
        texts[40], texts[41], texts[250] = "break it", "odd one", ["fine", "break too"]
        name = client.batches.create(
            input_file_id=upload(client, lines_of(*texts, model="fake")).id, **BATCH
        ).id
        batch = ended(client, name)
        assert (batch.status, batch.request_counts.completed) == ("completed", 297)
        rows = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
        assert [row["custom_id"] for row in rows] == ["row 40", "row 41", "row 250"]


def dying(how: str) -> FakeBackend:
    """A backend that works for three batches, and never again."""
    if how == "fails":
        return FakeBackend(faults=Faults(fail_calls=range(4, 100_000)))
    backend = FakeBackend()

    def leave(texts: list[str]) -> None:
        if len(backend.batches) > 3:
            raise SystemExit  # as an extension may do to a thread

    backend.faults = Faults(before_embed=leave)
    return backend


@pytest.mark.parametrize("how", ["fails", "leaves"])
def test_engine_that_dies_during_a_batch(serving: Serving, how: str) -> None:
    """An engine that dies costs a batch nothing: it is opened again, and the batch goes on."""
    backend = dying(how)
    with serving(backend, FakeBackend(), FakeBackend()) as server, client_of(server) as client:
        texts = [f"text {place}" for place in range(1000)]
        file = upload(client, lines_of(*texts, model="fake"))
        batch = ended(client, client.batches.create(input_file_id=file.id, **BATCH).id)
        assert len(backend.batches) > 3
        assert (batch.status, batch.request_counts.completed) == ("completed", 1000)
        assert batch.error_file_id is None


def test_full_disk(serving: Serving) -> None:
    """A file that does not fit on the disk is refused with 507, leaves nothing behind, and the server goes on."""
    with serving() as server:
        ask(server, "GET", "/v1/files")
        with no_more_than(1 << 20):
            reply = form(server, part("purpose", b"batch") + part("file", b"x" * (2 << 20), "f") + END)
        assert (reply.status, reply.json["error"]["code"]) == (507, "storage_failed")
        assert uploads_left(server) == []
        assert form(server, part("purpose", b"batch") + part("file", b"x", "f") + END).status == 200


def test_upload_that_stands_still(serving: Serving) -> None:
    """An upload that stands still is cut off with 408, and leaves nothing behind."""
    with (
        serving(body_s=0.05) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection,
    ):
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n" + part("file", b"x" * 1000, "f")
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert uploads_left(server) == []


def test_part_of_a_content(client: Any, server: BackgroundServer) -> None:
    """A content can be fetched in ranges, so that a long one goes on where it broke off."""
    file = upload(client, b"0123456789")
    reply = ask(server, "GET", f"/v1/files/{file.id}/content", headers={"Range": "bytes=4-6"})
    assert (reply.status, reply.body) == (206, b"456")
