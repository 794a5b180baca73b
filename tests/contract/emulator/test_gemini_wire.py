"""Gemini's protocol, point by point, as it is on the wire: paths, spellings, limits, error texts, files, operations."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.emulator.conftest import QUICK
from tests.contract.emulator.http import (
    ask,
    gemini_job,
    gemini_lines,
    gemini_upload,
    job_name,
    texts,
)

from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Quotas
from embatch.emulator.tokens import count_tokens
from embatch.emulator.vectors import vector

if TYPE_CHECKING:
    from tests.contract.emulator.http import Reply

pytestmark = pytest.mark.remote

MODEL = "gemini-embedding-001"
MANY = f"/v1beta/models/{MODEL}:batchEmbedContents"
ONE = f"/v1beta/models/{MODEL}:embedContent"


def numbers(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.float32)


def first(reply: Reply) -> np.ndarray[Any, Any]:
    assert reply.status == 200, reply.body
    return numbers(reply.json["embeddings"][0]["values"])


# --- embedding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["/v1", "/v1beta", "/v1alpha", ""])
def test_every_version_of_the_path_is_served(gemini: Emulator, version: str) -> None:
    """The same call works under each version, and without one."""
    reply = ask(gemini, "POST", f"{version}/models/{MODEL}:batchEmbedContents", texts("a"))
    np.testing.assert_array_equal(first(reply), vector(MODEL, "a"))
    assert reply.json["usageMetadata"] == {"promptTokenCount": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"taskType": "RETRIEVAL_QUERY", "outputDimensionality": 256},
        {"task_type": "RETRIEVAL_QUERY", "output_dimensionality": 256},
        {"embedContentConfig": {"taskType": "RETRIEVAL_QUERY", "outputDimensionality": 256}},
        {"embed_content_config": {"task_type": "RETRIEVAL_QUERY", "output_dimensionality": "256"}},
    ],
)
def test_every_spelling_of_the_options_is_read(gemini: Emulator, options: dict[str, Any]) -> None:
    """camelCase, snake_case, flat and nested all mean the same."""
    expected = vector(MODEL, "a", "RETRIEVAL_QUERY", 256)
    np.testing.assert_array_equal(first(ask(gemini, "POST", MANY, texts("a", **options))), expected)


def test_one_text_has_a_call_of_its_own(gemini: Emulator) -> None:
    """`embedContent` takes one text, with or without the model in its body."""
    body = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 128}
    for each in (body, {**body, "model": f"models/{MODEL}"}):
        reply = ask(gemini, "POST", ONE, each)
        np.testing.assert_array_equal(
            numbers(reply.json["embedding"]["values"]), vector(MODEL, "a", None, 128)
        )


@pytest.mark.parametrize(
    ("body", "says", "field"),
    [
        ({"requests": [], "foo": 1}, 'Unknown name "foo": Cannot find field.', None),
        (texts("a", foo=1), "Unknown name \"foo\" at 'requests[0]': Cannot find field.", "requests[0]"),
        (
            texts("a", embedContentConfig={"foo": 1}),
            "Unknown name \"foo\" at 'requests[0].embed_content_config': Cannot find field.",
            "requests[0].embed_content_config",
        ),
        (
            texts("a", outputDimensionality="many"),
            "Invalid value at 'requests[0].output_dimensionality' (TYPE_INT32), \"many\"",
            "requests[0].output_dimensionality",
        ),
        (
            texts("a", taskType="NO_SUCH"),
            "Invalid value at 'requests[0].task_type' (TYPE_ENUM), \"NO_SUCH\"",
            "requests[0].task_type",
        ),
    ],
)
def test_unknown_fields_and_values_are_refused_by_name(
    gemini: Emulator, body: dict[str, Any], says: str, field: str | None
) -> None:
    """400 INVALID_ARGUMENT says which name, where, and repeats it as a field violation."""
    reply = ask(gemini, "POST", MANY, body)
    assert (reply.status, reply.error["status"]) == (400, "INVALID_ARGUMENT")
    assert says in reply.error["message"]
    (detail,) = reply.error["details"]
    assert detail["@type"].endswith("BadRequest")
    assert detail["fieldViolations"][0].get("field") == field


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            texts(*["a"] * 101),
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n",
        ),
        ({"requests": []}, "requests is not specified"),
        (texts("a", model="gemini-embedding-2"), "model must match"),
        (texts(""), "contains an empty Part."),
        ({"requests": [{"model": f"models/{MODEL}"}]}, "contents is not specified"),
        (texts("a", outputDimensionality=3073), "must be between 128 and 3072"),
        (texts("a", outputDimensionality=64), "must be between 128 and 3072"),
        (texts("a", title="t"), "title is only supported"),
        (texts("a", "so EMULATOR-POISON it"), "requests[1].content"),
    ],
)
def test_bad_requests_are_refused(gemini: Emulator, body: dict[str, Any], says: str) -> None:
    """400 for what the API would not take, and nothing of it is billed."""
    before = gemini.billing(entries=False).texts
    reply = ask(gemini, "POST", MANY, body)
    assert (reply.status, reply.error["status"]) == (400, "INVALID_ARGUMENT")
    assert says in reply.error["message"]
    assert gemini.billing(entries=False).texts == before


def test_a_body_that_is_no_json_or_too_large_is_refused() -> None:
    """400, before anything else is looked at."""
    with Emulator(
        "gemini", options=EmulatorOptions(max_inline_bytes=1000, latency=QUICK.latency)
    ) as emulator:
        assert "Invalid JSON" in ask(emulator, "POST", MANY, b"{oops").error["message"]
        assert "1000 bytes" in ask(emulator, "POST", MANY, texts("a" * 1000)).error["message"]


def test_vectors_of_the_first_model_have_unit_length_at_full_size_only(gemini: Emulator) -> None:
    """At 768 dimensions the length is about 0.6, and the numbers are the beginning of the full vector."""
    full = first(ask(gemini, "POST", MANY, texts("a")))
    cut = first(ask(gemini, "POST", MANY, texts("a", outputDimensionality=768)))
    assert np.linalg.norm(full) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(cut) == pytest.approx(0.59, abs=0.01)
    np.testing.assert_array_equal(cut, full[:768])


def test_vectors_of_the_second_model_have_unit_length_at_every_size(gemini: Emulator) -> None:
    """Cut ones point the same way as the beginning of the full one; task types are taken, and ignored."""
    path = "/v1beta/models/gemini-embedding-2:batchEmbedContents"
    full = first(ask(gemini, "POST", path, texts("a", model="gemini-embedding-2")))
    reply = ask(
        gemini,
        "POST",
        path,
        texts("a", model="gemini-embedding-2", outputDimensionality=768, taskType="CLUSTERING"),
    )
    cut = first(reply)
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(cut, full[:768] / np.linalg.norm(full[:768]), atol=1e-6)


def test_task_and_title_change_vectors_of_the_first_model(gemini: Emulator) -> None:
    """Each task and each title has vectors of its own."""
    asked: list[dict[str, str]] = [
        {},
        {"taskType": "RETRIEVAL_QUERY"},
        {"taskType": "RETRIEVAL_DOCUMENT"},
        {"taskType": "RETRIEVAL_DOCUMENT", "title": "t"},
    ]
    found = [first(ask(gemini, "POST", MANY, texts("a", **options))).tobytes() for options in asked]
    assert len(set(found)) == len(found)
    assert found[3] == vector(MODEL, "a", "RETRIEVAL_DOCUMENT", title="t").tobytes()


def test_long_texts_are_cut_in_silence(gemini: Emulator) -> None:
    """What lies beyond 2,048 tokens changes nothing, and is not counted."""
    long = "x" * (2048 * 4)
    short, longer = (ask(gemini, "POST", MANY, texts(text)) for text in (long, long + "and more"))
    np.testing.assert_array_equal(first(short), first(longer))
    assert longer.json["usageMetadata"]["promptTokenCount"] == 2048
    assert count_tokens(long + "and more") > 2048


# --- keys and models -------------------------------------------------------------------------------------------------


def test_a_missing_key_is_refused_with_403_and_a_wrong_one_with_400(gemini: Emulator) -> None:
    """As the API does: a wrong key is an INVALID_ARGUMENT whose reason is API_KEY_INVALID."""
    missing = ask(gemini, "POST", MANY, texts("a"), key=False)
    assert (missing.status, missing.error["status"]) == (403, "PERMISSION_DENIED")
    wrong = ask(gemini, "POST", MANY, texts("a"), headers={"x-goog-api-key": "wrong-key"})
    assert (wrong.status, wrong.error["details"][0]["reason"]) == (400, "API_KEY_INVALID")
    assert ask(gemini, "POST", f"{MANY}?key=as-a-parameter", texts("a"), key=False).status == 200


def test_only_the_one_key_is_accepted_if_there_is_one() -> None:
    """With a key set, any other is wrong."""
    with Emulator("gemini", options=EmulatorOptions(key="right", latency=QUICK.latency)) as emulator:
        assert ask(emulator, "POST", MANY, texts("a")).status == 400
        assert ask(emulator, "POST", MANY, texts("a"), headers={"x-goog-api-key": "right"}).status == 200


@pytest.mark.parametrize("model", ["embedding-001", "text-embedding-3-small", "gemini-2.5-flash"])
def test_an_unknown_model_is_not_found(gemini: Emulator, model: str) -> None:
    """404 names the model, the API's version and the verb; models of others and for other things are unknown, too."""
    reply = ask(gemini, "POST", f"/v1/models/{model}:batchEmbedContents", texts("a", model=model))
    assert (reply.status, reply.error["status"]) == (404, "NOT_FOUND")
    assert f"models/{model} is not found for API version v1" in reply.error["message"]


def test_an_unknown_path_is_not_found(gemini: Emulator) -> None:
    """404 in the API's own form."""
    assert ask(gemini, "GET", "/v1beta/nothing").error["status"] == "NOT_FOUND"


# --- quotas ----------------------------------------------------------------------------------------------------------


def quota_of(reply: Reply) -> tuple[dict[str, Any], float]:
    """The violation and the delay of a 429."""
    assert (reply.status, reply.error["status"]) == (429, "RESOURCE_EXHAUSTED")
    _, failure, retry = reply.error["details"]
    return failure["violations"][0], float(retry["retryDelay"].removesuffix("s"))


def test_every_text_counts_against_the_minute() -> None:
    """On the free tier a call of 100 texts uses up the minute; the refusal says when there is room again."""
    options = EmulatorOptions(tier="free", latency=QUICK.latency)
    with Emulator("gemini", options=options) as emulator:
        assert ask(emulator, "POST", MANY, texts(*["a"] * 100)).status == 200
        violation, wait = quota_of(ask(emulator, "POST", MANY, texts(*["b"] * 50)))
        assert violation["quotaId"] == "EmbedContentRequestsPerMinutePerUserPerProjectPerModel-FreeTier"
        assert violation["quotaDimensions"] == {"model": "gemini-embedding-1.0", "location": "global"}
        assert violation["quotaValue"] == "100"
        assert wait == pytest.approx(30, abs=1)
        emulator.advance(wait)
        assert ask(emulator, "POST", MANY, texts(*["b"] * 50)).status == 200
        assert emulator.requests.refused["embed"] == 1
        assert emulator.requests.most_items() == 150


def test_tokens_count_against_the_minute() -> None:
    """A token quota has an id of its own."""
    with Emulator(
        "gemini", options=EmulatorOptions(quotas=Quotas(tokens=100), latency=QUICK.latency)
    ) as emulator:
        assert ask(emulator, "POST", MANY, texts("x" * 360)).status == 200
        violation, _ = quota_of(ask(emulator, "POST", MANY, texts("x" * 360)))
        assert violation["quotaId"] == "EmbedContentInputTokensPerModelPerMinute"


def test_the_quota_of_a_day_says_so_and_lasts_until_midnight() -> None:
    """PerDay in the quota's id, and a delay of hours."""
    quotas = Quotas(items_day=10)
    with Emulator("gemini", options=EmulatorOptions(quotas=quotas, latency=QUICK.latency)) as emulator:
        assert ask(emulator, "POST", MANY, texts(*["a"] * 10)).status == 200
        violation, wait = quota_of(ask(emulator, "POST", MANY, texts("b")))
        assert violation["quotaId"] == "EmbedContentRequestsPerDayPerProjectPerModel"
        assert wait > 80_000
        emulator.advance(86_400)
        assert ask(emulator, "POST", MANY, texts("b")).status == 200


def test_delays_are_told_in_real_seconds_if_that_is_wanted() -> None:
    """With `real_delays` a client that knows no virtual time waits no longer than it must."""
    options = EmulatorOptions(
        quotas=Quotas(items=60), time_scale=100, real_delays=True, latency=QUICK.latency
    )
    with Emulator("gemini", options=options) as emulator:
        ask(emulator, "POST", MANY, texts(*["a"] * 60))
        _, wait = quota_of(ask(emulator, "POST", MANY, texts(*["b"] * 60)))
        assert wait < 0.61


# --- files -----------------------------------------------------------------------------------------------------------


def start_upload(gemini: Emulator, length: int) -> str:
    headers = {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(length),
        "X-Goog-Upload-Header-Content-Type": "jsonl",
    }
    reply = ask(
        gemini,
        "POST",
        "/upload/v1/files",
        {"file": {"display_name": "x", "size_bytes": length}},
        headers=headers,
    )
    url = str(reply.headers["x-goog-upload-url"])
    assert url.startswith(gemini.url)
    return url.removeprefix(gemini.url)


def test_a_resumable_upload_takes_two_legs_and_pieces(gemini: Emulator) -> None:
    """The address of the second leg is on the same host; it needs no key; a piece that comes twice counts once."""
    data = gemini_lines("a", "b")
    path = start_upload(gemini, len(data))
    for _ in range(2):
        head = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "0"}
        reply = ask(gemini, "POST", path, data[:50], headers=head, key=False)
        assert reply.headers["x-goog-upload-status"] == "active"
    query = ask(gemini, "POST", path, b"", headers={"X-Goog-Upload-Command": "query"}, key=False)
    assert query.headers["x-goog-upload-size-received"] == "50"
    head = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "50"}
    reply = ask(gemini, "POST", path, data[50:], headers=head, key=False)
    assert reply.headers["x-goog-upload-status"] == "final"
    file = reply.json["file"]
    assert (file["sizeBytes"], file["state"], file["source"]) == (str(len(data)), "ACTIVE", "UPLOADED")
    assert b64decode(file["sha256Hash"]).decode() == hashlib.sha256(data).hexdigest()
    again = ask(gemini, "POST", path, data[50:], headers=head, key=False)
    assert again.json["file"]["name"] == file["name"]


def test_uploads_that_do_not_fit_are_refused(gemini: Emulator) -> None:
    """Beyond what was received, other than announced, larger than allowed: 400. Nobody knows the upload: 404."""
    path = start_upload(gemini, 10)
    late = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "5"}
    assert ask(gemini, "POST", path, b"x", headers=late).status == 400
    short = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    assert ask(gemini, "POST", path, b"x", headers=short).status == 400
    assert ask(gemini, "POST", "/upload/v1/files?upload_id=none", b"x", headers=short).status == 404
    with Emulator("gemini", options=EmulatorOptions(max_file_bytes=10, latency=QUICK.latency)) as small:
        reply = ask(small, "POST", "/upload/v1/files?uploadType=media", b"x" * 11)
        assert "too large" in reply.error["message"]


def test_a_multipart_upload_takes_one_leg(gemini: Emulator) -> None:
    """Metadata and content in one body."""
    data = gemini_lines("a")
    body = (
        b'--m\r\ncontent-type: application/json\r\n\r\n{"file":{"displayName":"d","mimeType":"jsonl"}}\r\n'
        b"--m\r\ncontent-type: text/plain\r\n\r\n" + data + b"\r\n--m--\r\n"
    )
    reply = ask(
        gemini,
        "POST",
        "/upload/v1beta/files?uploadType=multipart",
        body,
        headers={"content-type": "multipart/related; boundary=m"},
    )
    file = reply.json["file"]
    assert (file["displayName"], file["mimeType"], file["sizeBytes"]) == ("d", "jsonl", str(len(data)))


def test_files_are_read_listed_deleted_and_forgotten_after_two_days() -> None:
    """Uploaded files are there for 48 hours; they cannot be downloaded."""
    with Emulator("gemini", options=QUICK) as emulator:
        names = [gemini_upload(emulator, gemini_lines("a")) for _ in range(3)]
        page = ask(emulator, "GET", "/v1beta/files?pageSize=2").json
        rest = ask(emulator, "GET", f"/v1beta/files?pageSize=2&pageToken={page['nextPageToken']}").json
        assert [f["name"] for f in page["files"] + rest["files"]] == names[::-1]
        assert (
            ask(emulator, "GET", f"/v1beta/{names[0]}:download?alt=media").error["status"]
            == "FAILED_PRECONDITION"
        )
        assert ask(emulator, "DELETE", f"/v1beta/{names[0]}").json == {}
        assert ask(emulator, "GET", f"/v1beta/{names[0]}").status == 404
        emulator.advance(48 * 3600)
        assert ask(emulator, "GET", f"/v1beta/{names[1]}").status == 404


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_an_operation_tells_its_state_and_counts_as_strings(gemini: Emulator) -> None:
    """Pending, running, succeeded; 64-bit numbers are strings; the output stands in metadata and in response."""
    created = gemini_job(gemini, "a", "EMULATOR-POISON", "c", tag="t")
    path = job_name(gemini, created)
    assert created.json["done"] is False
    assert created.json["metadata"]["state"] == "BATCH_STATE_PENDING"
    assert created.json["metadata"]["displayName"] == "t"
    gemini.advance(60)
    running = ask(gemini, "GET", path).json
    assert running["metadata"]["state"] == "BATCH_STATE_RUNNING"
    assert int(running["metadata"]["batchStats"]["pendingRequestCount"]) > 0
    gemini.advance(41)
    done = ask(gemini, "GET", path).json
    assert done["done"] is True
    assert done["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert done["metadata"]["batchStats"] == {
        "requestCount": "3",
        "successfulRequestCount": "2",
        "failedRequestCount": "1",
        "pendingRequestCount": "0",
    }
    assert done["metadata"]["output"]["responsesFile"] == done["response"]["responsesFile"]
    assert done["metadata"]["endTime"] > done["metadata"]["createTime"]


@pytest.mark.parametrize("form", ["/v1beta/{}:download?alt=media", "/download/v1beta/{}:download?alt=media"])
def test_results_are_downloaded_under_both_paths(gemini: Emulator, form: str) -> None:
    """One line a row, in another order, with the key of its input, and tokens as a string."""
    values = [f"text {i}" for i in range(30)]
    path = job_name(gemini, gemini_job(gemini, *values))
    gemini.advance(101)
    name = ask(gemini, "GET", path).json["response"]["responsesFile"]
    lines = ask(gemini, "GET", form.format(name)).lines
    keys = [line["key"] for line in lines]
    assert sorted(keys) == sorted(f"k{i}" for i in range(30))
    assert keys != sorted(keys, key=lambda key: int(key[1:]))
    for line in lines:
        text = values[int(line["key"][1:])]
        np.testing.assert_array_equal(
            numbers(line["response"]["embedding"]["values"]), vector(MODEL, text, None, 128)
        )
        assert line["response"]["tokenCount"] == str(count_tokens(text))


def test_a_bad_row_is_an_error_line(gemini: Emulator) -> None:
    """gRPC's number for INVALID_ARGUMENT, and the message that a call would have had."""
    path = job_name(gemini, gemini_job(gemini, "a", "EMULATOR-POISON"))
    gemini.advance(101)
    name = ask(gemini, "GET", path).json["response"]["responsesFile"]
    lines = {line["key"]: line for line in ask(gemini, "GET", f"/v1/{name}:download?alt=media").lines}
    assert lines["k1"]["error"]["code"] == 3
    assert "response" not in lines["k1"]


def test_inline_results_carry_keys_and_lose_their_order_when_there_are_many() -> None:
    """Fewer than a thousand stay in order, more do not; `metadata.key` says which is which."""
    with Emulator("gemini", options=QUICK) as emulator:
        paths = [
            job_name(emulator, gemini_job(emulator, *map(str, range(n)), inline=True)) for n in (5, 1000)
        ]
        emulator.advance(101)
        few, many = (
            [
                each["metadata"]["key"]
                for each in ask(emulator, "GET", path).json["response"]["inlinedResponses"][
                    "inlinedResponses"
                ]
            ]
            for path in paths
        )
        assert few == [f"k{i}" for i in range(5)]
        assert many != [f"k{i}" for i in range(1000)]
        assert sorted(many) == sorted(f"k{i}" for i in range(1000))


def test_rows_without_keys_have_none_in_the_results(gemini: Emulator) -> None:
    """The SDK sends no keys with inline rows, and gets none back."""
    rows = [{"request": {"content": {"parts": [{"text": "a"}]}}}]
    body = {"batch": {"inputConfig": {"requests": {"requests": rows}}}}
    created = ask(gemini, "POST", f"/v1/models/{MODEL}:asyncBatchEmbedContent", body)
    gemini.advance(101)
    found = ask(gemini, "GET", job_name(gemini, created)).json["response"]["inlinedResponses"][
        "inlinedResponses"
    ]
    assert found[0]["metadata"] == {}


def test_jobs_that_make_no_sense_are_refused_or_fail(gemini: Emulator) -> None:
    """Two sources or none: 400. No such file: 404. A line that is no JSON, or no line at all: the job fails."""
    path = f"/v1beta/models/{MODEL}:asyncBatchEmbedContent"
    assert ask(gemini, "POST", path, {"batch": {}}).status == 400
    both = {"file_name": "files/x", "requests": {"requests": [{"request": {}}]}}
    assert ask(gemini, "POST", path, {"batch": {"inputConfig": both}}).status == 400
    missing = {"batch": {"inputConfig": {"fileName": "files/none"}}}
    assert ask(gemini, "POST", path, missing).status == 404
    assert ask(gemini, "POST", path, {"batch": {"foo": 1}}).status == 400
    for data, says in ((b'{"key": "k0"\n', "line 1"), (b"\n", "no requests")):
        body = {"batch": {"inputConfig": {"file_name": gemini_upload(gemini, data)}}}
        created = ask(gemini, "POST", path, body)
        gemini.advance(101)
        failed = ask(gemini, "GET", job_name(gemini, created)).json
        assert failed["done"] is True
        assert failed["metadata"]["state"] == "BATCH_STATE_FAILED"
        assert says in failed["error"]["message"]
        assert "response" not in failed


def test_jobs_are_listed_newest_first_by_pages() -> None:
    """`pageSize` and `pageToken` go through all jobs; a deleted one is not among them."""
    with Emulator("gemini", options=QUICK) as emulator:
        names = [gemini_job(emulator, "a", tag=f"t{i}").json["name"] for i in range(5)]
        page = ask(emulator, "GET", "/v1beta/batches?pageSize=3").json
        rest = ask(emulator, "GET", f"/v1beta/batches?pageSize=3&pageToken={page['nextPageToken']}").json
        assert [job["name"] for job in page["operations"] + rest["operations"]] == names[::-1]
        assert "nextPageToken" not in rest
        assert ask(emulator, "DELETE", f"/v1beta/{names[0]}").json == {}
        assert ask(emulator, "GET", f"/v1beta/{names[0]}").status == 404
        assert len(ask(emulator, "GET", "/v1beta/batches").json["operations"]) == 4


def test_a_deleted_job_goes_on_and_is_billed() -> None:
    """Deleting says that nobody wants the result, not that the work should end."""
    with Emulator("gemini", options=QUICK) as emulator:
        path = job_name(emulator, gemini_job(emulator, "a", tag="t"))
        ask(emulator, "DELETE", path)
        emulator.advance(101)
        assert emulator.billed("a") == 1
        assert [(job.state, job.deleted) for job in emulator.jobs("t")] == [("succeeded", True)]


def test_a_cancelled_job_has_nothing_and_costs_nothing() -> None:
    """Cancelling is answered with an empty object; a job that has ended cannot be cancelled."""
    with Emulator("gemini", options=QUICK) as emulator:
        path = job_name(emulator, gemini_job(emulator, "a"))
        emulator.advance(60)
        assert ask(emulator, "POST", f"{path}:cancel").json == {}
        emulator.advance(6)
        job = ask(emulator, "GET", path).json
        assert job["metadata"]["state"] == "BATCH_STATE_CANCELLED"
        assert "response" not in job
        assert emulator.billed("a") == 0
        assert ask(emulator, "POST", f"{path}:cancel").error["status"] == "FAILED_PRECONDITION"


def test_a_job_expires_after_two_days_with_nothing() -> None:
    """In stuck hours nothing moves; after 48 of them the job is given up, without results or bill."""
    options = EmulatorOptions(latency=QUICK.latency, jobs=JobTimes(regime="stuck"))
    with Emulator("gemini", options=options) as emulator:
        path = job_name(emulator, gemini_job(emulator, "a"))
        emulator.advance(47.9 * 3600)
        assert ask(emulator, "GET", path).json["metadata"]["state"] == "BATCH_STATE_PENDING"
        emulator.advance(0.2 * 3600)
        job = ask(emulator, "GET", path).json
        assert (job["done"], job["metadata"]["state"]) == (True, "BATCH_STATE_EXPIRED")
        assert "response" not in job
        assert emulator.billing().texts == 0


def test_a_full_queue_refuses_without_saying_how_long() -> None:
    """429 with a link and nothing else, for tokens enqueued and for jobs at once; room comes when jobs end."""
    quotas = Quotas(enqueued_tokens=10)
    with Emulator(
        "gemini", options=EmulatorOptions(quotas=quotas, latency=QUICK.latency, jobs=QUICK.jobs)
    ) as emulator:
        assert gemini_job(emulator, "x" * 32).status == 200
        full = gemini_job(emulator, "x" * 32)
        assert full.status == 429
        assert [detail["@type"].rsplit(".", 1)[-1] for detail in full.error["details"]] == ["Help"]
        assert full.headers["retry-after"] is None
        emulator.advance(101)
        assert gemini_job(emulator, "x" * 32).status == 200
        emulator.set_quotas(Quotas(concurrent_jobs=1))
        assert gemini_job(emulator, "x").status == 429


def test_the_file_may_go_once_the_job_is_made(gemini: Emulator) -> None:
    """A job keeps its rows when its input file is deleted."""
    name = gemini_upload(gemini, gemini_lines("kept"))
    body = {"batch": {"inputConfig": {"file_name": name}, "displayName": "d"}}
    created = ask(gemini, "POST", f"/v1beta/models/{MODEL}:asyncBatchEmbedContent", body)
    ask(gemini, "DELETE", f"/v1beta/{name}")
    gemini.advance(101)
    output = ask(gemini, "GET", job_name(gemini, created)).json["response"]["responsesFile"]
    assert len(ask(gemini, "GET", f"/v1beta/{output}:download?alt=media").lines) == 1


# --- generation ------------------------------------------------------------------------------------------------------


def prompt(text: str, **options: object) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **options}


def test_streams_are_events_with_sse_and_an_array_without(gemini: Emulator) -> None:
    """The same chunks in both forms; the last one says why it ends."""
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    events = ask(gemini, "POST", f"{path}?alt=sse", prompt("hello"))
    assert events.headers["content-type"] == "text/event-stream"
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in events.body.split(b"\r\n\r\n") if part]
    assert chunks == ask(gemini, "POST", path, prompt("hello")).json
    reasons = [chunk["candidates"][0].get("finishReason") for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["STOP"]


def test_generation_keeps_to_the_limit_that_is_asked_for(gemini: Emulator) -> None:
    """A short limit ends the answer with MAX_TOKENS, and output is billed."""
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    reply = ask(gemini, "POST", path, prompt("a long one", generationConfig={"maxOutputTokens": 5})).json
    assert reply["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert 0 < reply["usageMetadata"]["candidatesTokenCount"] <= 5
    assert gemini.billing().entries[-1].output_tokens == reply["usageMetadata"]["candidatesTokenCount"]


@pytest.mark.parametrize(
    "body", [{}, {"contents": []}, prompt(""), prompt("EMULATOR-POISON"), prompt("a", foo=1)]
)
def test_bad_prompts_are_refused(gemini: Emulator, body: dict[str, Any]) -> None:
    """400 for no contents, an empty part, a bad input and an unknown field."""
    assert ask(gemini, "POST", "/v1beta/models/gemini-2.5-flash:generateContent", body).status == 400


def test_generation_in_a_job_answers_by_key(gemini: Emulator) -> None:
    """A batch file of prompts, with `fileName` in camelCase."""
    lines = b"".join(
        json.dumps({"key": f"k{i}", "request": prompt(text)}).encode() + b"\n"
        for i, text in enumerate(["one", "EMULATOR-POISON"])
    )
    body = {
        "batch": {
            "inputConfig": {"fileName": gemini_upload(gemini, lines)},
            "displayName": "g",
            "priority": "3",
        }
    }
    created = ask(gemini, "POST", "/v1beta/models/gemini-2.5-flash:batchGenerateContent", body)
    gemini.advance(101)
    job = ask(gemini, "GET", job_name(gemini, created)).json
    assert job["metadata"]["priority"] == "3"
    output = job["response"]["responsesFile"]
    found = {line["key"]: line for line in ask(gemini, "GET", f"/v1beta/{output}:download?alt=media").lines}
    single = ask(gemini, "POST", "/v1beta/models/gemini-2.5-flash:generateContent", prompt("one")).json
    assert found["k0"]["response"]["candidates"] == single["candidates"]
    assert found["k1"]["error"]["code"] == 3
