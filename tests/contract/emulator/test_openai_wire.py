"""OpenAI's protocol, point by point, as it is on the wire: limits, error texts, headers, files, batches, streams."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.emulator.conftest import QUICK
from tests.contract.emulator.http import ask, form, job_name, openai_job, openai_lines, openai_upload

from embatch.emulator import Emulator, EmulatorOptions, Fault, JobTimes, Quotas
from embatch.emulator.vectors import vector

if TYPE_CHECKING:
    from tests.contract.emulator.http import Reply

pytestmark = pytest.mark.remote

MODEL = "text-embedding-3-small"
PATH = "/v1/embeddings"


def embed(emulator: Emulator, value: object, **options: object) -> Reply:
    return ask(emulator, "POST", PATH, {"model": MODEL, "input": value, "dimensions": 8, **options})


def output(emulator: Emulator, batch: dict[str, Any], which: str = "output") -> list[Any]:
    """The lines of a batch's output or error file; none if there is no such file."""
    name = batch[f"{which}_file_id"]
    return ask(emulator, "GET", f"/v1/files/{name}/content").lines if name else []


# --- embedding -------------------------------------------------------------------------------------------------------


def test_numbers_and_base64_are_the_same_float32(openai: Emulator) -> None:
    """Both forms read back as what `vector` says, with indices in order and usage beside them."""
    plain, packed = (embed(openai, ["a", "b"], encoding_format=form).json for form in ("float", "base64"))
    assert plain["usage"] == packed["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    for place, text in enumerate("ab"):
        one, other = plain["data"][place], packed["data"][place]
        assert one["index"] == other["index"] == place
        numbers = np.asarray(one["embedding"], np.float32)
        np.testing.assert_array_equal(numbers, np.frombuffer(base64.b64decode(other["embedding"]), "<f4"))
        np.testing.assert_array_equal(numbers, vector(MODEL, text, None, 8))


def test_vectors_have_unit_length_at_every_size(openai: Emulator) -> None:
    """Cut ones point the same way as the beginning of the full one."""
    found = [
        np.asarray(embed(openai, "a", dimensions=size).json["data"][0]["embedding"], np.float32)
        for size in (1536, 512, 100)
    ]
    for each in found:
        assert np.linalg.norm(each) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(
            each, found[0][: len(each)] / np.linalg.norm(found[0][: len(each)]), atol=1e-6
        )


@pytest.mark.parametrize(
    ("body", "says", "code"),
    [
        (
            {"input": ["a"] * 2049},
            "maximum length 2048, but got an array with length 2049",
            "array_above_max_length",
        ),
        ({"input": ""}, "input cannot be an empty string", None),
        ({"input": ["a", ""]}, "'input[1]': input cannot be an empty string", None),
        ({"input": []}, "cannot be an empty array", None),
        ({"input": [[]]}, "token ids", "invalid_type"),
        ({"input": 7}, "expected a string or an array", "invalid_type"),
        ({"input": ["a", 7]}, "'input[1]': expected a string", "invalid_type"),
        ({"input": "x" * 8193 * 4}, "maximum context length is 8192 tokens", None),
        (
            {"input": ["x" * 8000 * 4] * 38},
            "Requested 304000 tokens, max 300000 tokens per request",
            "max_tokens_per_request",
        ),
        ({"input": "a", "dimensions": 1537}, "Must be less than or equal to 1536", None),
        ({"input": "a", "dimensions": 0}, "Must be greater than 0", None),
        ({"input": "a", "dimensions": "8"}, "expected an integer", "invalid_type"),
        ({"input": "a", "foo": 1}, "Unknown parameter: 'foo'.", "unknown_parameter"),
        ({"input": "a", "encoding_format": "hex"}, "'encoding_format' must be one of", None),
        ({"input": "EMULATOR-POISON"}, "cannot be embedded", None),
        ({"input": "a", "model": ""}, "you must provide a model parameter", None),
    ],
)
def test_bad_requests_are_refused(
    openai: Emulator, body: dict[str, Any], says: str, code: str | None
) -> None:
    """400 for what the API would not take, and nothing of it is billed."""
    before = openai.billing(entries=False).texts
    reply = ask(openai, "POST", PATH, {"model": MODEL, **body})
    assert reply.status == 400
    assert says in reply.error["message"]
    assert reply.error["code"] == code
    assert openai.billing(entries=False).texts == before


def test_too_many_tokens_have_a_type_of_their_own(openai: Emulator) -> None:
    """As seen in the wild: type and code are the same word."""
    reply = ask(openai, "POST", PATH, {"model": MODEL, "input": ["x" * 8000 * 4] * 38})
    assert reply.error["type"] == reply.error["code"] == "max_tokens_per_request"


def test_a_body_that_is_no_json_is_refused(openai: Emulator) -> None:
    """400, in the API's words."""
    assert "could not parse the JSON body" in ask(openai, "POST", PATH, b"{oops").error["message"]


def test_the_old_model_takes_no_dimensions(openai: Emulator) -> None:
    """text-embedding-ada-002 has one size only."""
    body = {"model": "text-embedding-ada-002", "input": "a"}
    assert len(ask(openai, "POST", PATH, body).json["data"][0]["embedding"]) == 1536
    assert "does not support specifying dimensions" in ask(
        openai, "POST", PATH, {**body, "dimensions": 8}
    ).error["message"]  # fmt: skip


def test_keys_and_models_that_are_not_there(openai: Emulator) -> None:
    """401 without a key and with a wrong one, which is shown with stars; 404 for models; 404 for paths."""
    body = {"model": MODEL, "input": "a"}
    missing = ask(openai, "POST", PATH, body, key=False)
    assert (missing.status, missing.error["code"]) == (401, None)
    wrong = ask(openai, "POST", PATH, body, headers={"authorization": "Bearer wrong-key-of-some-length"})
    assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
    assert "wrong-key-of-some-length" not in wrong.error["message"]
    unknown = ask(openai, "POST", PATH, {**body, "model": "gemini-embedding-001"})
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert ask(openai, "POST", PATH, {**body, "model": "gpt-4o-mini"}).status == 404
    assert ask(openai, "GET", "/v1/nothing").status == 404


# --- limits ----------------------------------------------------------------------------------------------------------


def test_headers_say_what_is_left() -> None:
    """Limits, what remains and when all of it is there again, on each reply to a call; a request counts once."""
    quotas = Quotas(requests=60, tokens=6000)
    with Emulator("openai", options=EmulatorOptions(quotas=quotas, latency=QUICK.latency)) as emulator:
        headers = embed(emulator, ["x" * 40] * 10).headers
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "59"
        assert headers["x-ratelimit-limit-tokens"] == "6000"
        assert headers["x-ratelimit-remaining-tokens"] == "5900"
        assert headers["x-ratelimit-reset-requests"] in {"1s", "999ms", "998ms"} or headers[
            "x-ratelimit-reset-requests"
        ].endswith("ms")
        assert headers["x-request-id"].startswith("req_")
    with Emulator("openai", options=QUICK) as emulator:
        assert "x-ratelimit-limit-requests" not in embed(emulator, "a").headers


def test_requests_over_the_minute_are_refused_with_a_delay() -> None:
    """429 with both headers; the body names the limit; once the delay is over there is room."""
    with Emulator(
        "openai", options=EmulatorOptions(quotas=Quotas(requests=2), latency=QUICK.latency)
    ) as emulator:
        assert [embed(emulator, "a").status for _ in range(3)] == [200, 200, 429]
        refused = embed(emulator, "a")
        assert (refused.error["type"], refused.error["code"]) == ("requests", "rate_limit_exceeded")
        assert "requests per min (RPM): Limit 2, Used 2" in refused.error["message"]
        assert 29 <= int(refused.headers["retry-after"]) <= 30
        assert 29_000 < int(refused.headers["retry-after-ms"]) <= 30_000
        emulator.advance(30)
        assert embed(emulator, "a").status == 200


def test_tokens_over_the_minute_and_over_any_minute() -> None:
    """A request that alone is over the limit is told so, and given no delay."""
    with Emulator(
        "openai", options=EmulatorOptions(quotas=Quotas(tokens=100), latency=QUICK.latency)
    ) as emulator:
        assert embed(emulator, "x" * 360).status == 200
        refused = embed(emulator, "x" * 360)
        assert refused.error["type"] == "tokens"
        assert "Please try again in 4" in refused.error["message"]
        large = embed(emulator, "x" * 404)
        assert "Request too large" in large.error["message"]
        assert large.headers["retry-after"] is None


def test_the_quota_of_a_day_lasts_for_hours() -> None:
    """RPD in the message, with a delay that no SDK waits for."""
    quotas = Quotas(requests_day=1)
    with Emulator("openai", options=EmulatorOptions(quotas=quotas, latency=QUICK.latency)) as emulator:
        embed(emulator, "a")
        refused = embed(emulator, "a")
        assert "requests per day (RPD)" in refused.error["message"]
        assert "h" in refused.error["message"].rsplit("again in ", 1)[1]
        assert int(refused.headers["retry-after"]) > 80_000


def test_no_credit_is_a_429_too(openai: Emulator) -> None:
    """`insufficient_quota` stands in type and code, and there is no delay."""
    openai.fault(Fault(kind="insufficient_quota", where="embed"))
    reply = embed(openai, "a")
    assert (reply.status, reply.error["type"], reply.error["code"]) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    assert reply.headers["retry-after"] is None


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_are_uploaded_read_listed_and_deleted(openai: Emulator) -> None:
    """Content comes back as it went; batch files expire after thirty days, or when it is asked for."""
    data = openai_lines("a")
    body, headers = form(data, purpose="batch")
    file = ask(openai, "POST", "/v1/files", body, headers=headers).json
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(data), "in.jsonl", "batch")
    assert file["expires_at"] - file["created_at"] == 30 * 86_400
    assert ask(openai, "GET", f"/v1/files/{file['id']}").json == file
    assert ask(openai, "GET", f"/v1/files/{file['id']}/content").body == data
    listed = ask(openai, "GET", "/v1/files?purpose=batch").json
    assert file["id"] in [each["id"] for each in listed["data"]]
    assert ask(openai, "DELETE", f"/v1/files/{file['id']}").json["deleted"] is True
    assert ask(openai, "GET", f"/v1/files/{file['id']}").status == 404
    body, headers = form(
        data, purpose="batch", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    )
    short = ask(openai, "POST", "/v1/files", body, headers=headers).json
    assert short["expires_at"] - short["created_at"] == 3600


def test_uploads_that_make_no_sense_are_refused() -> None:
    """No file, no purpose, an empty one, a strange expiry: 400. Too large: 413 that names the limit."""
    options = EmulatorOptions(max_file_bytes=100, latency=QUICK.latency)
    with Emulator("openai", options=options) as emulator:
        for data, fields, status in (
            (b"", {"purpose": "batch"}, 400),
            (b"x", {"purpose": "no-such"}, 400),
            (b"x", {}, 400),
            (b"x", {"purpose": "batch", "expires_after[seconds]": "5"}, 400),
            (b"x" * 101, {"purpose": "batch"}, 413),
        ):
            body, headers = form(data, **fields)
            assert ask(emulator, "POST", "/v1/files", body, headers=headers).status == status
        assert "larger than the 100 maximum" in ask(
            emulator, "POST", "/v1/files", form(b"x" * 101, purpose="batch")[0], headers=headers
        ).error["message"]  # fmt: skip
        assert ask(emulator, "POST", "/v1/files", {}).status == 400


# --- batches ---------------------------------------------------------------------------------------------------------


def test_results_come_in_another_order_with_vectors_by_line(openai: Emulator) -> None:
    """Every custom id once; arrays in a line are answered as arrays; base64 where the line asks for it."""
    values: list[object] = [f"text {i}" for i in range(20)] + [["x", "y"]]
    path = job_name(openai, openai_job(openai, *values, encoding_format="base64"))
    openai.advance(101)
    lines = output(openai, ask(openai, "GET", path).json)
    ids = [line["custom_id"] for line in lines]
    assert sorted(ids) == sorted(f"c{i}" for i in range(21))
    assert ids != sorted(ids, key=lambda each: int(each[1:]))
    for line in lines:
        asked = values[int(line["custom_id"][1:])]
        assert (line["response"]["status_code"], line["error"]) == (200, None)
        expected = [asked] if isinstance(asked, str) else ["x", "y"]
        for entry, text in zip(line["response"]["body"]["data"], expected, strict=True):
            found = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
            np.testing.assert_array_equal(found, vector(MODEL, text, None, 8))


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (openai_lines("a") + b"{oops\n", "invalid_json_line", 2),
        (openai_lines("a") + openai_lines("b"), "duplicate_custom_id", 2),
        (b'{"method":"POST"}\n', "missing_required_parameter", 1),
        (openai_lines("a").replace(b'"POST"', b'"GET"'), "invalid_method", 1),
        (openai_lines("a").replace(b"/v1/embeddings", b"/v1/other"), "invalid_url", 1),
        (openai_lines("a", model="no-such"), "model_not_found", 1),
        (
            openai_lines("a") + openai_lines("b", model="text-embedding-3-large").replace(b'"c0"', b'"c1"'),
            "mismatched_model",
            2,
        ),
        (b"\n", "empty_file", None),
        (openai_lines(*[["a"] * 2048] * 25), "too_many_embedding_inputs", None),
    ],
)
def test_a_file_that_is_not_in_order_fails_its_batch(
    openai: Emulator, data: bytes, code: str, line: int | None
) -> None:
    """The batch is created, and fails in validation, with the line and the code of what is wrong."""
    body = {
        "input_file_id": openai_upload(openai, data),
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }
    created = ask(openai, "POST", "/v1/batches", body)
    assert created.json["status"] == "validating"
    openai.advance(10)
    batch = ask(openai, "GET", job_name(openai, created)).json
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
    assert batch["errors"]["data"][0]["code"] == code
    assert batch["errors"]["data"][0]["line"] == line
    assert batch["failed_at"] >= batch["created_at"]


def test_too_many_lines_fail_the_batch() -> None:
    """50,000 requests are the most."""
    row = json.loads(openai_lines([7]))
    data = b"".join(json.dumps(row | {"custom_id": str(i)}).encode() + b"\n" for i in range(50_001))
    with Emulator("openai", options=QUICK) as emulator:
        body = {
            "input_file_id": openai_upload(emulator, data),
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        created = ask(emulator, "POST", "/v1/batches", body)
        emulator.advance(10)
        codes = [
            error["code"]
            for error in ask(emulator, "GET", job_name(emulator, created)).json["errors"]["data"]
        ]
        assert codes[0] == "too_many_tasks"


def test_rows_that_are_refused_stand_in_the_error_file(openai: Emulator) -> None:
    """With the status and body that a call would have had; the batch itself is completed."""
    path = job_name(openai, openai_job(openai, "good", "", "EMULATOR-POISON", "x" * 40_000))
    openai.advance(101)
    batch = ask(openai, "GET", path).json
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
    bad = {line["custom_id"]: line for line in output(openai, batch, "error")}
    assert set(bad) == {"c1", "c2", "c3"}
    assert "8192" in bad["c3"]["response"]["body"]["error"]["message"]
    assert all(line["response"]["status_code"] == 400 for line in bad.values())


def test_requests_that_make_no_batch_are_refused(openai: Emulator) -> None:
    """400 for fields that are not right, 404 for a file that is not there."""
    right: dict[str, Any] = {
        "input_file_id": openai_upload(openai, openai_lines("a")),
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }
    for wrong, status in (
        ({"endpoint": "/v1/other"}, 400),
        ({"completion_window": "1h"}, 400),
        ({"metadata": {str(i): "x" for i in range(17)}}, 400),
        ({"metadata": {"a": 1}}, 400),
        ({"metadata": {"a": "x" * 513}}, 400),
        ({"foo": 1}, 400),
        ({"input_file_id": "file-none"}, 404),
    ):
        assert ask(openai, "POST", "/v1/batches", {**right, **wrong}).status == status
    assert ask(openai, "GET", "/v1/batches/batch_none").status == 404
    body, headers = form(b"x", purpose="assistants")
    other = ask(openai, "POST", "/v1/files", body, headers=headers).json["id"]
    assert ask(openai, "POST", "/v1/batches", {**right, "input_file_id": other}).status == 400


def test_an_expired_batch_keeps_what_it_has() -> None:
    """Lines that were done are in the output and on the bill; the others are in the error file, expired."""
    with Emulator("openai", options=QUICK) as emulator:
        emulator.fault(Fault(kind="job_expires", delay=3600))
        path = job_name(emulator, openai_job(emulator, *map(str, range(10))))
        emulator.advance(3601)
        batch = ask(emulator, "GET", path).json
        assert batch["status"] == "expired"
        assert batch["expired_at"] == batch["expires_at"] == batch["created_at"] + 3600
        good, bad = output(emulator, batch), output(emulator, batch, "error")
        assert len(good) == 5
        assert len(bad) == 5
        assert all(line["error"]["code"] == "batch_expired" and line["response"] is None for line in bad)
        assert emulator.billing().texts == 5


def test_a_batch_expires_after_a_day() -> None:
    """In stuck hours nothing moves, and after 24 of them there is an error file only."""
    options = EmulatorOptions(latency=QUICK.latency, jobs=JobTimes(regime="stuck"))
    with Emulator("openai", options=options) as emulator:
        path = job_name(emulator, openai_job(emulator, "a"))
        emulator.advance(23.9 * 3600)
        assert ask(emulator, "GET", path).json["status"] == "validating"
        emulator.advance(0.2 * 3600)
        batch = ask(emulator, "GET", path).json
        assert (batch["status"], batch["output_file_id"]) == ("expired", None)
        assert len(output(emulator, batch, "error")) == 1


def test_a_cancelled_batch_keeps_what_it_has() -> None:
    """First cancelling, then cancelled, with both files; one that has ended cannot be cancelled."""
    with Emulator("openai", options=QUICK) as emulator:
        path = job_name(emulator, openai_job(emulator, *map(str, range(10))))
        emulator.advance(61)
        assert ask(emulator, "POST", f"{path}/cancel").json["status"] == "cancelling"
        assert ask(emulator, "POST", f"{path}/cancel").json["status"] == "cancelling"
        emulator.advance(6)
        batch = ask(emulator, "GET", path).json
        assert batch["status"] == "cancelled"
        good, bad = output(emulator, batch), output(emulator, batch, "error")
        assert len(good) == 5
        assert {line["custom_id"] for line in good + bad} == {f"c{i}" for i in range(10)}
        assert batch["request_counts"] == {"total": 10, "completed": 5, "failed": 0}
        refused = ask(emulator, "POST", f"{path}/cancel")
        assert (refused.status, "status 'cancelled'" in refused.error["message"]) == (409, True)


def test_a_full_queue_lets_the_batch_fail() -> None:
    """Creating succeeds; validation finds no room, in the provider's words; room comes when batches end."""
    quotas = Quotas(enqueued_tokens=10)
    options = EmulatorOptions(quotas=quotas, latency=QUICK.latency, jobs=QUICK.jobs)
    with Emulator("openai", options=options) as emulator:
        assert openai_job(emulator, "x" * 32).status == 200
        full = openai_job(emulator, "x" * 32)
        assert full.status == 200
        emulator.advance(10)
        batch = ask(emulator, "GET", job_name(emulator, full)).json
        assert batch["status"] == "failed"
        (error,) = batch["errors"]["data"]
        assert error["code"] == "token_limit_exceeded"
        assert "Limit: 10 enqueued tokens" in error["message"]
        emulator.advance(101)
        again = openai_job(emulator, "x" * 32)
        emulator.advance(101)
        assert ask(emulator, "GET", job_name(emulator, again)).json["status"] == "completed"


def test_batches_an_hour_are_limited() -> None:
    """Beyond the limit creating is refused, until the hour is over."""
    options = EmulatorOptions(quotas=Quotas(jobs_hour=1), latency=QUICK.latency, jobs=QUICK.jobs)
    with Emulator("openai", options=options) as emulator:
        assert openai_job(emulator, "a").status == 200
        assert openai_job(emulator, "a").status == 429
        emulator.advance(3601)
        assert openai_job(emulator, "a").status == 200


def test_batches_are_listed_newest_first_by_pages() -> None:
    """`after`, `limit`, `has_more` and the ids at both ends."""
    with Emulator("openai", options=QUICK) as emulator:
        ids = [openai_job(emulator, "a", tag=f"t{i}").json["id"] for i in range(5)]
        page = ask(emulator, "GET", "/v1/batches?limit=3").json
        assert (page["has_more"], page["first_id"], page["last_id"]) == (True, ids[4], ids[2])
        rest = ask(emulator, "GET", f"/v1/batches?limit=3&after={page['last_id']}").json
        assert (rest["has_more"], [each["id"] for each in rest["data"]]) == (False, [ids[1], ids[0]])
        assert [job.metadata for job in emulator.jobs("t3")] == [{"tag": "t3"}]
        assert ask(emulator, "GET", "/v1/batches?limit=0").status == 400
        assert ask(emulator, "GET", "/v1/batches?after=none").status == 404


# --- generation ------------------------------------------------------------------------------------------------------


def chat(text: str, **options: object) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **options}


def test_a_stream_ends_with_done(openai: Emulator) -> None:
    """Events of JSON, the last of them [DONE]; without include_usage none has usage."""
    reply = ask(openai, "POST", "/v1/chat/completions", chat("hello", stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, end = [part.removeprefix(b"data: ") for part in reply.body.split(b"\n\n") if part]
    assert end == b"[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in chunks)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_answers_keep_to_the_limit_and_are_billed(openai: Emulator) -> None:
    """A short limit ends the answer with `length`; content in parts is read as one text."""
    parts = [{"type": "text", "text": "a long "}, {"type": "text", "text": "one"}]
    reply = ask(
        openai,
        "POST",
        "/v1/chat/completions",
        chat("", messages=[{"role": "user", "content": parts}], max_completion_tokens=5),
    ).json
    assert reply["choices"][0]["finish_reason"] == "length"
    assert 0 < reply["usage"]["completion_tokens"] <= 5
    assert openai.billing().entries[-1].output_tokens == reply["usage"]["completion_tokens"]
    assert openai.billed("a long one") == 1


@pytest.mark.parametrize(
    "body",
    [
        chat("a", messages=[]),
        chat("a", messages=[{"role": "user"}]),
        chat("EMULATOR-POISON"),
        chat("a", foo=1),
        chat("x" * 4 * 128_001),
    ],
)
def test_bad_prompts_are_refused(openai: Emulator, body: dict[str, Any]) -> None:
    """400 for no messages, no content, a bad input, an unknown field, too many tokens."""
    assert ask(openai, "POST", "/v1/chat/completions", body).status == 400
