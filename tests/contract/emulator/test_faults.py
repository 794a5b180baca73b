"""Every scripted fault does what its name says, alone, and does no harm beyond it in pairs with every other."""

from __future__ import annotations

import http.client
import itertools
import json
import math
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.emulator.conftest import QUICK
from tests.contract.emulator.http import ask, gemini_job, job_name, openai_job, texts

from embatch.emulator import FAULTS, Emulator, Fault
from embatch.emulator.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.emulator.http import Reply

    from embatch.emulator.catalog import ProviderName

pytestmark = pytest.mark.remote

BROKEN = (ConnectionError, http.client.HTTPException)
GEMINI = "/v1beta/models/gemini-embedding-001:batchEmbedContents"


@pytest.fixture(scope="module")
def both(gemini: Emulator, openai: Emulator) -> dict[str, Emulator]:
    return {"gemini": gemini, "openai": openai}


@pytest.fixture(params=["gemini", "openai"])
def emulator(request: pytest.FixtureRequest, both: dict[str, Emulator]) -> Iterator[Emulator]:
    """Each provider in turn, with nothing scripted at the end."""
    yield both[request.param]
    both[request.param].clear_faults()
    both[request.param].advance(200)  # jobs that were left come to their end


def embed(emulator: Emulator, *values: str, **openai: Any) -> Reply:
    if emulator.provider == "gemini":
        return ask(emulator, "POST", GEMINI, texts(*(values or ("a", "b")), outputDimensionality=128))
    body = {"model": "text-embedding-3-small", "input": list(values or ("a", "b")), "dimensions": 8, **openai}
    return ask(emulator, "POST", "/v1/embeddings", body)


def vectors(emulator: Emulator, reply: Reply) -> list[Any]:
    """The vectors of an answer, as lists."""
    if emulator.provider == "gemini":
        return [each["values"] for each in reply.json["embeddings"]]
    return [each["embedding"] for each in reply.json["data"]]


def make_job(emulator: Emulator, *values: str, tag: str = "", inline: bool = False) -> Reply:
    """A job over texts, a few if none are given."""
    values = values or tuple(f"row {i}" for i in range(20))
    if emulator.provider == "gemini":
        return gemini_job(emulator, *values, tag=tag, inline=inline)
    return openai_job(emulator, *values, tag=tag)


def state(emulator: Emulator, path: str) -> str:
    """What a job says that it is, in one word."""
    job = ask(emulator, "GET", path).json
    if emulator.provider == "gemini":
        return str(job["metadata"]["state"]).removeprefix("BATCH_STATE_").lower()
    status = str(job["status"])
    return {"completed": "succeeded"}.get(status, status)


def raw_output(emulator: Emulator, path: str) -> bytes:
    """All result files of a job."""
    job = ask(emulator, "GET", path).json
    if emulator.provider == "gemini":
        name = job.get("response", {}).get("responsesFile")
        return ask(emulator, "GET", f"/v1beta/{name}:download?alt=media").body if name else b""
    names = [job["output_file_id"], job["error_file_id"]]
    return b"".join(ask(emulator, "GET", f"/v1/files/{name}/content").body for name in names if name)


def rows(emulator: Emulator, path: str) -> list[Any]:
    return [json.loads(line) for line in raw_output(emulator, path).splitlines()]


def key(row: dict[str, Any]) -> str | None:
    """A row's key, as the place of its text."""
    found = row.get("key", row.get("custom_id"))
    return None if found is None else str(found)[1:]


def code(row: dict[str, Any]) -> int:
    """200, or what is wrong with a row: gRPC's number or an HTTP status."""
    error = row.get("error") or (row.get("response") or {}).get("error")
    if error:
        return int(error["code"])
    return int(row["response"].get("status_code", 200))


# --- the list and the script -----------------------------------------------------------------------------------------


def test_every_kind_is_described() -> None:
    """Each has operations, providers and a sentence, so that tests can run them all."""
    assert len(FAULTS) > 45
    for name, kind in FAULTS.items():
        assert kind.name == name
        assert kind.says
        assert kind.operations
        assert set(kind.providers) <= {"gemini", "openai"}
        assert kind.providers


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "no_such"},
        {"kind": "short_list", "where": "poll_job"},
        {"kind": "stall", "delay": -1.0},
        {"kind": "stall", "times": 0},
        {"kind": "stall", "every": 0},
        {"kind": "stall", "probability": -0.5},
    ],
)
def test_faults_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    """An unknown kind, one that the operation cannot have, a number out of range."""
    with pytest.raises(ValueError, match=r"no fault|can have|at least"):
        Fault(**values)


def test_a_fault_of_the_other_provider_is_refused(both: dict[str, Emulator]) -> None:
    """Gemini has no credit to run out of, and OpenAI no metadata to be stale."""
    for provider, kind in (("gemini", "insufficient_quota"), ("openai", "stale_running")):
        with pytest.raises(ValueError, match="is nothing that"):
            both[provider].fault(Fault(kind=kind))


def test_faults_come_as_often_as_is_said(emulator: Emulator) -> None:
    """Once, so many times, each so-many-th request, or only where a text occurs."""
    emulator.fault(Fault(kind="overloaded", where="embed"))
    assert [embed(emulator).status for _ in range(2)] == [503, 200]
    emulator.fault(Fault(kind="overloaded", where="embed", times=2))
    assert [embed(emulator).status for _ in range(3)] == [503, 503, 200]
    emulator.fault(Fault(kind="overloaded", where="embed", every=3))
    assert [embed(emulator).status for _ in range(6)] == [200, 200, 503] * 2
    emulator.clear_faults()
    emulator.fault(Fault(kind="overloaded", where="embed", match="this"))
    assert [embed(emulator, text).status for text in ("other", "with this in it", "this")] == [200, 503, 200]
    emulator.fault(Fault(kind="overloaded", where="embed", probability=0.5))
    found = {embed(emulator).status for _ in range(40)}
    assert found == {200, 503}


def test_a_tag_is_what_a_jobs_fault_is_looked_for_by(emulator: Emulator) -> None:
    """Polling the job with this tag meets the fault; polling another does not."""
    one, other = (job_name(emulator, make_job(emulator, tag=tag)) for tag in ("tag-one", "tag-other"))
    emulator.fault(Fault(kind="internal", where="poll_job", match="tag-other"))
    assert ask(emulator, "GET", one).status == 200
    assert ask(emulator, "GET", other).status == 500


def test_an_upload_is_looked_through_for_a_text(emulator: Emulator) -> None:
    """A text in the file's lines is enough."""
    emulator.fault(Fault(kind="overloaded", where="upload", match="needle"))
    assert make_job(emulator, "hay").status == 200
    with pytest.raises(KeyError):  # a refusal has no file in it
        make_job(emulator, "a needle in it")


# --- before anything is done -----------------------------------------------------------------------------------------

REFUSALS = {
    "rate_limit": 429,
    "rate_limit_bare": 429,
    "rate_limit_day": 429,
    "rate_limit_date": 429,
    "rate_limit_long": 429,
    "overloaded": 503,
    "internal": 500,
    "bad_gateway": 502,
    "gateway_timeout": 504,
    "request_timeout": 408,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "status": 418,
    "insufficient_quota": 429,
    "billing": 400,
}


def test_all_refusals_are_known_here() -> None:
    """A new kind needs a line in the table above."""
    assert {kind.name for kind in FAULTS.values() if kind.stage == "refuse"} == {
        *REFUSALS,
        "reset_before",
        "enqueued_full",
    }


@pytest.mark.parametrize(
    ("provider", "kind"), [(provider, kind) for kind in REFUSALS for provider in FAULTS[kind].providers]
)
def test_refusals_have_their_status_and_bill_nothing(
    both: dict[str, Emulator], provider: str, kind: str
) -> None:
    """The status of each, with a body in the provider's form; what was refused is not billed."""
    emulator = both[provider]
    before = emulator.billing(entries=False).texts
    emulator.fault(Fault(kind=kind, where="embed", status=418 if kind == "status" else None))
    reply = embed(emulator)
    assert reply.status == REFUSALS[kind]
    if kind == "bad_gateway":
        assert reply.headers["content-type"].startswith("text/html")
        assert b"<html" in reply.body.lower()
    else:
        assert reply.error["message"]
    assert emulator.billing(entries=False).texts == before
    assert embed(emulator).status == 200


def test_delays_stand_where_each_kind_says(emulator: Emulator) -> None:
    """In the body or a header, as seconds or a date, longer than two minutes, or not at all."""
    emulator.fault(Fault(kind="rate_limit_bare", where="embed"))
    bare = embed(emulator)
    assert bare.headers["retry-after"] is None
    assert b"retryDelay" not in bare.body
    emulator.fault(Fault(kind="rate_limit_date", where="embed", delay=20))
    dated = embed(emulator).headers
    moments = [parsedate_to_datetime(dated[name]) for name in ("retry-after", "date")]
    assert 18 <= (moments[0] - moments[1]).total_seconds() <= 21
    emulator.fault(Fault(kind="rate_limit_long", where="embed"))
    assert int(embed(emulator).headers["retry-after"]) == 600
    emulator.fault(Fault(kind="rate_limit", where="embed", delay=7))
    said = embed(emulator)
    if emulator.provider == "gemini":
        assert said.error["details"][-1]["retryDelay"] == "7s"
    else:
        assert said.headers["retry-after"] == "7"


def test_a_day_is_told_from_a_minute(emulator: Emulator) -> None:
    """By the quota's id, or by the words of the message."""
    emulator.fault(Fault(kind="rate_limit_day", where="embed"))
    reply = embed(emulator)
    if emulator.provider == "gemini":
        assert "PerDay" in reply.error["details"][1]["violations"][0]["quotaId"]
    else:
        assert "requests per day (RPD)" in reply.error["message"]


def test_a_reset_before_bills_nothing_and_one_after_does(emulator: Emulator) -> None:
    """Both look the same to the client."""
    for kind, billed in (("reset_before", 0), ("reset_after", 2)):
        before = emulator.billing(entries=False).texts
        emulator.fault(Fault(kind=kind, where="embed"))
        with pytest.raises(BROKEN):
            embed(emulator)
        assert emulator.billing(entries=False).texts == before + billed
    assert emulator.requests.statuses[0] >= 1


# --- in the answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("short_list", 1), ("long_list", 3), ("empty_data", 0)])
def test_lists_of_another_length(emulator: Emulator, kind: str, count: int) -> None:
    """One too few, one too many, none."""
    emulator.fault(Fault(kind=kind, where="embed"))
    assert len(vectors(emulator, embed(emulator))) == count


def test_numbers_that_are_none(emulator: Emulator) -> None:
    """NaN and null stand in for the first number; the last may be missing."""
    emulator.fault(Fault(kind="nan", where="embed"))
    assert math.isnan(vectors(emulator, embed(emulator))[0][0])
    emulator.fault(Fault(kind="null_value", where="embed"))
    assert vectors(emulator, embed(emulator))[0][0] is None
    right = len(vectors(emulator, embed(emulator))[0])
    emulator.fault(Fault(kind="wrong_dimension", where="embed"))
    assert [len(each) for each in vectors(emulator, embed(emulator))] == [right - 1, right]


def test_base64_can_be_wrong_too(openai: Emulator) -> None:
    """NaN in the bytes, null in the string's place, four bytes short."""
    import base64
    import struct

    openai.fault(Fault(kind="nan", where="embed"))
    packed = vectors(openai, embed(openai, encoding_format="base64"))[0]
    assert math.isnan(struct.unpack("<f", base64.b64decode(packed)[:4])[0])
    openai.fault(Fault(kind="null_value", where="embed"))
    assert vectors(openai, embed(openai, encoding_format="base64"))[0] is None
    openai.fault(Fault(kind="wrong_dimension", where="embed"))
    assert len(base64.b64decode(vectors(openai, embed(openai, encoding_format="base64"))[0])) == 7 * 4


def test_usage_may_be_missing(emulator: Emulator) -> None:
    """No token counts at all."""
    emulator.fault(Fault(kind="no_usage", where="embed"))
    assert not embed(emulator).json.keys() & {"usage", "usageMetadata"}


def test_indices_are_right_in_a_shuffled_answer_and_wrong_in_the_other(openai: Emulator) -> None:
    """Out of order, but each with its own index; or all with the same."""
    names = ["a", "b", "c"]
    openai.fault(Fault(kind="shuffled", where="embed"))
    data = embed(openai, *names).json["data"]
    assert [each["index"] for each in data] != [0, 1, 2]
    for each in data:
        expected = vector("text-embedding-3-small", names[each["index"]], None, 8)
        assert each["embedding"] == pytest.approx(expected.tolist(), abs=1e-7)
    openai.fault(Fault(kind="same_index", where="embed"))
    assert [each["index"] for each in embed(openai, *names).json["data"]] == [0, 0, 0]


def generate(emulator: Emulator, *, stream: bool = False) -> Reply:
    if emulator.provider == "gemini":
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return ask(
            emulator,
            "POST",
            f"/v1beta/models/gemini-2.5-flash:{verb}",
            {"contents": [{"parts": [{"text": "hi"}]}]},
        )
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return ask(emulator, "POST", "/v1/chat/completions", body)


def test_generated_answers_may_be_empty_or_break_off(emulator: Emulator) -> None:
    """No candidates or choices; an error as one of a stream's events."""
    emulator.fault(Fault(kind="empty_answer", where="generate"))
    found = generate(emulator).json
    assert found.get("candidates", found.get("choices")) == []
    emulator.fault(Fault(kind="empty_answer", where="stream"))
    assert b"amber" not in generate(emulator, stream=True).body
    emulator.fault(Fault(kind="stream_error", where="stream"))
    events = generate(emulator, stream=True).body.split(b"data: ")
    assert events[-1].startswith(b'{"error":')
    assert len(events) > 3


# --- on the way ------------------------------------------------------------------------------------------------------


def test_a_body_may_be_cut_slow_late_or_mislabelled(emulator: Emulator) -> None:
    """Cut: the connection ends too early. Slow and late: in virtual time. Mislabelled: the right body as HTML."""
    whole = embed(emulator).body
    emulator.fault(Fault(kind="cut_body", where="embed"))
    with pytest.raises(http.client.IncompleteRead) as broken:
        embed(emulator)
    assert broken.value.partial == whole[: len(whole) // 2]
    for kind in ("slow_body", "stall"):
        emulator.fault(Fault(kind=kind, where="embed", delay=0.02))
        before = emulator.now()
        assert embed(emulator).body == whole
        assert emulator.now() - before >= 0.02
    emulator.fault(Fault(kind="wrong_content_type", where="embed"))
    reply = embed(emulator)
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.body == whole


def test_a_cut_download_is_cut_too(emulator: Emulator) -> None:
    """Bodies that are made while they are sent can be cut as well."""
    path = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    assert rows(emulator, path)
    emulator.fault(Fault(kind="cut_body", where="download"))
    with pytest.raises(BROKEN):
        raw_output(emulator, path)


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["create_lost", "reset_after"])
def test_a_job_may_exist_though_its_creation_looked_broken(emulator: Emulator, kind: str) -> None:
    """The reply is lost, and the list has the job under its tag."""
    tag = f"lost-{kind}"
    emulator.fault(Fault(kind=kind, where="create_job"))
    with pytest.raises(BROKEN):
        make_job(emulator, tag=tag)
    (job,) = emulator.jobs(tag)
    listed = ask(emulator, "GET", "/v1beta/batches" if emulator.provider == "gemini" else "/v1/batches")
    assert tag.encode() in listed.body
    assert job.items == 20


def test_a_full_queue_refuses_the_job(emulator: Emulator) -> None:
    """429 that says no delay, and no job is made."""
    emulator.fault(Fault(kind="enqueued_full"))
    reply = make_job(emulator, tag="refused")
    assert reply.status == 429
    assert reply.headers["retry-after"] is None
    assert b"RetryInfo" not in reply.body
    assert emulator.jobs("refused") == []


@pytest.mark.parametrize("kind", ["enqueued_late", "job_fails"])
def test_a_job_may_fail_as_a_whole(emulator: Emulator, kind: str) -> None:
    """With a reason, without results, without a bill."""
    before = emulator.billing(entries=False).texts
    emulator.fault(Fault(kind=kind))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    assert state(emulator, path) == "failed"
    job = ask(emulator, "GET", path).json
    reason = job["error"] if emulator.provider == "gemini" else job["errors"]["data"][0]
    expected = {"gemini": (8, 13), "openai": ("token_limit_exceeded", "server_error")}[emulator.provider]
    assert reason["code"] == expected[kind == "job_fails"]
    assert raw_output(emulator, path) == b""
    assert emulator.billing(entries=False).texts == before


def test_a_job_may_be_stuck_until_it_expires(emulator: Emulator) -> None:
    """It never leaves its queue, however long one waits."""
    emulator.fault(Fault(kind="job_stuck"))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(20 * 3600)
    assert state(emulator, path) in {"pending", "in_progress"}
    emulator.advance(29 * 3600)
    assert state(emulator, path) == "expired"


def test_a_job_may_expire_half_way(emulator: Emulator) -> None:
    """After the delay that is said; OpenAI keeps the half that was done, Gemini nothing."""
    emulator.fault(Fault(kind="job_expires", delay=1000))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(999)
    assert state(emulator, path) in {"running", "in_progress"}
    emulator.advance(2)
    assert state(emulator, path) == "expired"
    good = [row for row in rows(emulator, path) if row["response"]]
    assert len(good) == (0 if emulator.provider == "gemini" else 10)


def test_a_job_may_succeed_without_a_good_row(emulator: Emulator) -> None:
    """Every row is an error; none is billed."""
    before = emulator.billing(entries=False).texts
    emulator.fault(Fault(kind="all_rows_bad"))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    assert state(emulator, path) == "succeeded"
    assert {code(row) for row in rows(emulator, path)} == {13 if emulator.provider == "gemini" else 500}
    assert emulator.billing(entries=False).texts == before


def test_a_job_may_succeed_without_output(emulator: Emulator) -> None:
    """It says that it succeeded, and names no file."""
    emulator.fault(Fault(kind="no_output"))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    assert state(emulator, path) == "succeeded"
    assert raw_output(emulator, path) == b""


def test_some_rows_may_fail_for_now(emulator: Emulator) -> None:
    """503 in some rows, the first among them, and in both forms at Gemini; the others are good, and billed."""
    before = emulator.billing(entries=False).texts
    emulator.fault(Fault(kind="row_transient"))
    path = job_name(emulator, make_job(emulator, *map(str, range(200))))
    emulator.advance(101)
    found = {key(row): code(row) for row in rows(emulator, path)}
    bad = 14 if emulator.provider == "gemini" else 503
    assert found["0"] == bad
    assert 2 <= sum(value == bad for value in found.values()) <= 60
    assert emulator.billing(entries=False).texts - before == sum(value == 200 for value in found.values())


@pytest.mark.parametrize("kind", ["row_nan", "row_dimension"])
def test_the_first_rows_vector_may_be_wrong(emulator: Emulator, kind: str) -> None:
    """A job's vectors are no safer than a call's."""
    emulator.fault(Fault(kind=kind))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    response = next(row for row in rows(emulator, path) if key(row) == "0")["response"]
    is_gemini = emulator.provider == "gemini"
    values = response["embedding"]["values"] if is_gemini else response["body"]["data"][0]["embedding"]
    if kind == "row_nan":
        assert math.isnan(values[0])
    else:
        assert len(values) == (127 if is_gemini else 7)


def test_rows_may_be_missing_doubled_or_without_keys(emulator: Emulator) -> None:
    """What comes back must be counted and joined by key; keys themselves may be null."""
    paths = {}
    for kind in ("rows_missing", "duplicate_keys", "null_keys"):
        emulator.fault(Fault(kind=kind))
        paths[kind] = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    everything = {str(i) for i in range(20)}
    missing = [key(row) for row in rows(emulator, paths["rows_missing"])]
    assert len(missing) == len(set(missing)) == 18
    doubled = [key(row) for row in rows(emulator, paths["duplicate_keys"])]
    assert len(doubled) == 20
    assert len(set(doubled)) == 19
    assert {*missing, *doubled} <= everything
    assert [key(row) for row in rows(emulator, paths["null_keys"])] == [None] * 20


def test_an_output_may_break_off(emulator: Emulator) -> None:
    """The last line is cut in the middle, and is no JSON."""
    emulator.fault(Fault(kind="truncated_jsonl"))
    path = job_name(emulator, make_job(emulator))
    emulator.advance(101)
    *whole, cut = raw_output(emulator, path).splitlines()
    assert len(whole) == 19
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        json.loads(cut)


def test_a_new_job_may_be_missing_from_the_list(emulator: Emulator) -> None:
    """For as long as is said; it can be polled all the same."""
    emulator.fault(Fault(kind="list_lag", delay=300))
    path = job_name(emulator, make_job(emulator, tag="hidden-for-a-while"))
    listing = "/v1beta/batches" if emulator.provider == "gemini" else "/v1/batches"
    assert b"hidden-for-a-while" not in ask(emulator, "GET", listing).body
    assert ask(emulator, "GET", path).status == 200
    emulator.advance(300)
    assert b"hidden-for-a-while" in ask(emulator, "GET", listing).body


def test_a_job_may_complete_though_it_was_cancelled(emulator: Emulator) -> None:
    """Cancelling is accepted, and the job succeeds with all its rows, on the bill."""
    path = job_name(emulator, make_job(emulator))
    emulator.advance(50)
    emulator.fault(Fault(kind="cancel_race"))
    verb = ":cancel" if emulator.provider == "gemini" else "/cancel"
    assert ask(emulator, "POST", path + verb).status == 200
    emulator.advance(10)
    assert state(emulator, path) == "succeeded"
    assert len(rows(emulator, path)) == 20


def test_metadata_may_be_stale(gemini: Emulator) -> None:
    """done beside RUNNING, an error beside SUCCEEDED, the state at the top level."""
    paths = {}
    for kind in ("stale_running", "stale_succeeded", "state_on_top"):
        gemini.fault(Fault(kind=kind))
        paths[kind] = job_name(gemini, make_job(gemini))
    gemini.advance(101)
    found = {kind: ask(gemini, "GET", path).json for kind, path in paths.items()}
    running = found["stale_running"]
    assert (running["done"], running["metadata"]["state"]) == (True, "BATCH_STATE_RUNNING")
    assert running["response"]["responsesFile"]
    succeeded = found["stale_succeeded"]
    assert (succeeded["error"]["code"], succeeded["metadata"]["state"]) == (13, "BATCH_STATE_SUCCEEDED")
    assert "response" not in succeeded
    top = found["state_on_top"]
    assert (top["state"], "state" in top["metadata"]) == ("BATCH_STATE_SUCCEEDED", False)


def test_details_of_rows_may_be_objects(gemini: Emulator) -> None:
    """As `google.rpc.Status` has them, inline and in files."""
    paths = []
    for inline in (True, False):
        gemini.fault(Fault(kind="error_details"))
        paths.append(job_name(gemini, make_job(gemini, "a", "EMULATOR-POISON", inline=inline)))
    gemini.advance(101)
    inlined = ask(gemini, "GET", paths[0]).json["response"]["inlinedResponses"]["inlinedResponses"]
    for found in (inlined, rows(gemini, paths[1])):
        assert [type(row["error"]["details"][0]) for row in found if "error" in row] == [dict]


# --- alone and in pairs, all of them ---------------------------------------------------------------------------------


def play(emulator: Emulator) -> None:
    """Do one of everything. Whatever is scripted may break it."""
    acts: list[Callable[[], Reply]] = [
        lambda: embed(emulator),
        lambda: generate(emulator),
        lambda: generate(emulator, stream=True),
        lambda: _job_and_results(emulator),
    ]
    for act in acts:
        try:
            reply = act()
        except (*BROKEN, KeyError, ValueError):  # a refused or spoilt upload has no name in it
            continue
        assert reply.status in {200, *REFUSALS.values()}


def _job_and_results(emulator: Emulator) -> Reply:
    created = make_job(emulator, "a", "b", "c")
    path = job_name(emulator, created)
    verb = ":cancel" if emulator.provider == "gemini" else "/cancel"
    if len(emulator.jobs()) % 3 == 0:
        ask(emulator, "POST", path + verb)
    emulator.advance(90_000)
    raw_output(emulator, path)
    return ask(emulator, "GET", "/v1beta/batches" if emulator.provider == "gemini" else "/v1/batches")


def pairs(provider: ProviderName) -> list[tuple[str, str]]:
    """Every kind with itself and with every other that this provider knows."""
    kinds = [name for name, kind in FAULTS.items() if provider in kind.providers]
    return list(itertools.combinations_with_replacement(kinds, 2))


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_in_pairs_they_leave_the_emulator_whole(
    provider: ProviderName, part: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever two faults come together, the emulator itself never fails, and a clean call works afterwards.

    Of some three thousand pairs an eighth is tried, half of them where a fault would strike first, half elsewhere.
    """
    with Emulator(provider, options=QUICK) as emulator:
        for one, other in pairs(provider)[part::16]:
            for kind in (one, other):
                emulator.fault(
                    Fault(
                        kind=kind,
                        where=FAULTS[kind].operations[part % len(FAULTS[kind].operations)],
                        delay=0.0,
                    )
                )
            play(emulator)
            emulator.clear_faults()
        assert [record.getMessage() for record in caplog.records if record.name.startswith("embatch")] == []
        text = f"clean {provider} {part}"
        assert embed(emulator, text).status == 200
        assert emulator.billed(text) == 1
