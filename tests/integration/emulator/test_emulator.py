"""The emulator as a whole: virtual time, restarts, scenarios, and the way in from another process."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.emulator.conftest import QUICK
from tests.contract.emulator.http import (
    ask,
    gemini_job,
    gemini_lines,
    gemini_upload,
    job_name,
    openai_job,
    texts,
)

import embatch.emulator
from embatch.emulator import (
    FAULTS,
    Emulator,
    EmulatorClient,
    EmulatorOptions,
    Fault,
    JobTimes,
    Latency,
    Quotas,
    RowFaults,
)
from embatch.emulator.clock import Clock
from embatch.emulator.options import options_from
from embatch.emulator.scenario import TimedEvent, read_scenario

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.remote

PATH = "/v1beta/models/gemini-embedding-001:batchEmbedContents"


def embed(emulator: Emulator, *values: str) -> int:
    """The status of a call over these texts."""
    return ask(emulator, "POST", PATH, texts(*values, outputDimensionality=128)).status


# --- virtual time ----------------------------------------------------------------------------------------------------


def test_calls_take_virtual_time() -> None:
    """At a thousand virtual seconds a second, a call of some seconds is over in some milliseconds."""
    latency = Latency(median_s=5.0, sigma=0.0, stall_probability=0.0, burst_every_s=0.0)
    with Emulator("gemini", options=EmulatorOptions(latency=latency, time_scale=1000.0)) as emulator:
        before = emulator.now()
        assert embed(emulator, "a") == 200
        assert emulator.now() - before >= 5.0


def test_a_jump_in_time_wakes_those_who_wait() -> None:
    """A call that would take an hour is answered when the hour is skipped."""
    latency = Latency(median_s=3600.0, sigma=0.0, stall_probability=0.0, burst_every_s=0.0)
    with Emulator("gemini", options=EmulatorOptions(latency=latency)) as emulator:
        statuses: list[int] = []
        waiting = threading.Thread(target=lambda: statuses.append(embed(emulator, "a")))
        waiting.start()
        while not emulator.billing(entries=False).texts:
            waiting.join(0.001)
        assert waiting.is_alive()
        emulator.advance(3700)
        waiting.join(10)
        assert statuses == [200]


def test_stopping_ends_those_who_wait() -> None:
    """Nobody hangs when an emulator stops; stopping twice is allowed."""
    latency = Latency(median_s=3600.0, sigma=0.0, stall_probability=0.0, burst_every_s=0.0)
    emulator = Emulator("gemini", options=EmulatorOptions(latency=latency)).start()
    ended: list[object] = []

    def call() -> None:
        try:
            ended.append(embed(emulator, "a"))
        except OSError as error:
            ended.append(error)

    waiting = threading.Thread(target=call)
    waiting.start()
    while not emulator.billing(entries=False).texts:
        waiting.join(0.001)
    emulator.stop()
    emulator.stop()
    waiting.join(10)
    assert len(ended) == 1


def test_time_goes_forward_only() -> None:
    """A negative jump is refused."""
    clock = Clock(1.0, 10.0)
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(-1)
    assert clock.now() >= 10


def test_overload_is_a_503_that_is_not_billed() -> None:
    """In a burst calls are refused, and nothing of them is paid."""
    latency = Latency(
        median_s=0.0, item_s=0.0, stall_probability=0.0, burst_every_s=1.0, burst_s=1.0, burst_probability=1.0
    )
    with Emulator("gemini", options=EmulatorOptions(latency=latency)) as emulator:
        assert embed(emulator, "a") == 503
        assert emulator.billing().texts == 0


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_jobs_files_and_the_ledger_survive_a_restart(provider: Any, tmp_path: Path) -> None:
    """A job goes on where it was, its results are the same, what was billed stays, and time does not go back."""
    options = EmulatorOptions(state=tmp_path, latency=Latency.none(), jobs=JobTimes.fixed(100.0))
    make = gemini_job if provider == "gemini" else openai_job
    with Emulator(provider, options=options) as emulator:
        path = job_name(emulator, make(emulator, "a", "b", tag="t"))
        emulator.advance(60)
        (job,) = emulator.jobs()
        assert job.state == "running"
        then = emulator.now()
    with Emulator(provider, options=options) as emulator:
        assert emulator.now() >= then
        (again,) = emulator.jobs()
        assert (again.id, again.tag, again.state) == (job.id, "t", "running")
        emulator.advance(100)
        assert emulator.jobs()[0].state == "succeeded"
        before = ask(emulator, "GET", path).json
        assert (emulator.billed("a"), emulator.billed("b")) == (1, 1)
        other = make(emulator, "c")
        assert job_name(emulator, other) != path
    with Emulator(provider, options=options) as emulator:
        after = ask(emulator, "GET", path).json
        name = after["response"]["responsesFile"] if provider == "gemini" else after["output_file_id"]
        results = f"/v1/{name}:download?alt=media" if provider == "gemini" else f"/v1/files/{name}/content"
        assert len(ask(emulator, "GET", results).lines) == 2
        for each in (before, after):  # the address of a file is the host's
            each.pop("metadata", None)
        assert before == after
        assert emulator.billing().texts == 2


def test_an_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was received of it is kept."""
    options = EmulatorOptions(state=tmp_path, latency=Latency.none())
    data = gemini_lines("a", "b")
    head = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    with Emulator("gemini", options=options) as emulator:
        reply = ask(emulator, "POST", "/upload/v1/files", {"file": {}}, headers=head)
        path = reply.headers["x-goog-upload-url"].removeprefix(emulator.url)
        ask(
            emulator,
            "POST",
            path,
            data[:9],
            headers={"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "0"},
        )
    with Emulator("gemini", options=options) as emulator:
        last = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "9"}
        assert ask(emulator, "POST", path, data[9:], headers=last).json["file"]["sizeBytes"] == str(len(data))


def test_a_forced_regime_survives_a_restart(tmp_path: Path) -> None:
    """Stuck hours go on until they are lifted."""
    options = EmulatorOptions(state=tmp_path, latency=Latency.none(), jobs=JobTimes.fixed(10.0))
    with Emulator("gemini", options=options) as emulator:
        emulator.set_regime("stuck")
    with Emulator("gemini", options=options) as emulator:
        gemini_job(emulator, "a")
        emulator.advance(1000)
        assert emulator.jobs()[0].state != "succeeded"
        emulator.set_regime(None)
        emulator.advance(11)
        assert emulator.jobs()[0].state == "succeeded"


# --- options ---------------------------------------------------------------------------------------------------------


def test_row_faults_and_bills_for_nothing_are_options() -> None:
    """Some rows of each job fail by themselves; Gemini may bill what it does not give out."""
    options = EmulatorOptions(
        latency=Latency.none(), jobs=JobTimes.fixed(100.0), rows=RowFaults(transient=0.5), bill_cancelled=True
    )
    with Emulator("gemini", options=options) as emulator:
        gemini_job(emulator, *map(str, range(100)))
        emulator.advance(101)
        (job,) = emulator.jobs()
        assert 20 < job.bad < 80
        assert job.good + job.bad == 100
        before = emulator.billing().texts
        assert before == job.good
        path = job_name(emulator, gemini_job(emulator, *map(str, range(100))))
        emulator.advance(60)
        ask(emulator, "POST", f"{path}:cancel")
        emulator.advance(10)
        assert before < emulator.billing().texts < before + 60


def test_the_storage_of_a_project_is_limited() -> None:
    """Beyond it uploads are refused, until a file is deleted."""
    data = gemini_lines("a")
    options = EmulatorOptions(latency=Latency.none(), max_storage_bytes=len(data) + 10)
    with Emulator("gemini", options=options) as emulator:
        name = gemini_upload(emulator, data)
        refused = ask(emulator, "POST", "/upload/v1/files?uploadType=media", data)
        assert (refused.status, "storage" in refused.error["message"]) == (429, True)
        ask(emulator, "DELETE", f"/v1/{name}")
        assert gemini_upload(emulator, data)


def test_an_emulator_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    """No such provider, a tier that it has not, a taken port, a state that is no folder or in use."""
    with pytest.raises(ValueError, match="no provider 'mistral'"):
        Emulator("mistral")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ValueError, match="no published quotas"):
        Emulator("gemini", options=EmulatorOptions(tier="5"))
    with (
        Emulator("gemini", options=EmulatorOptions(state=tmp_path / "state")),
        pytest.raises(OSError, match="locked"),
    ):
        Emulator("gemini", options=EmulatorOptions(state=tmp_path / "state"))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            Emulator("gemini", port=taken.getsockname()[1])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|directory"):
        Emulator("gemini", options=EmulatorOptions(state=tmp_path / "file"))


def test_the_rooms_names_are_loaded_when_they_are_used() -> None:
    """Each public name is there, and no other."""
    for name in embatch.emulator.__all__:
        assert getattr(embatch.emulator, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        embatch.emulator.nothing  # noqa: B018  # the attribute is the test


# --- scenarios -------------------------------------------------------------------------------------------------------

SCENARIO = """
seed: 7
tier: 1
latency: none
jobs: 100
prices: {gemini-embedding-001: {individual: 1.0, batch: 0.5}}
quotas: {items: 50}
events:
  - {at: 2000, regime: stuck}
  - {at: 1000, quota: {items: 5}}
  - {at: 3000, fault: {kind: overloaded, where: embed}}
  - {at: 5000, regime: good}
"""


def test_a_scenario_has_options_and_events(tmp_path: Path) -> None:
    """Options as in a file; events at their virtual second, in order of time."""
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    scenario = read_scenario(path)
    options = scenario.settings(seed=8, quotas={"tokens": 9})
    assert (options.seed, options.tier, options.jobs.fixed_s) == (8, "1", 100.0)
    assert (options.quotas.items, options.quotas.tokens) == (50, 9)
    assert options.prices["gemini-embedding-001"].individual == 1.0
    with Emulator("gemini", options=scenario.settings(), events=scenario.events) as emulator:
        assert embed(emulator, *["a"] * 50) == 200
        emulator.advance(1100)
        assert [embed(emulator, *["a"] * count) for count in (6, 5)] == [429, 200]
        gemini_job(emulator, "b")
        emulator.advance(850)
        assert emulator.jobs()[0].state == "succeeded"
        emulator.advance(100)
        gemini_job(emulator, "b")
        emulator.advance(1000)
        assert emulator.jobs()[1].state == "validating"
        assert [embed(emulator, "a") for _ in range(2)] == [503, 200]
        emulator.advance(3000)
        job = emulator.jobs()[1]
        assert job.ended == pytest.approx(5100, abs=5)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "no_such: 1",
        "quotas: {no_such: 1}",
        "quotas: 7",
        "jobs: {regime: sunny}",
        "events: 7",
        "events: [{at: 1}]",
        "events: [{at: 1, regime: sunny}]",
        "events: [{at: 1, quota: {no_such: 1}}]",
        "events: [{at: 1, fault: {kind: no_such}}]",
        "events: [{at: 1, regime: good, quota: {items: 1}}]",
        "a: [",
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    """When it is read, with the name of what is wrong."""
    path = tmp_path / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"."):
        read_scenario(path)


def test_json_is_a_scenario_too(tmp_path: Path) -> None:
    """Lists stand for pairs; a job's time may be given in full."""
    path = tmp_path / "scenario.json"
    path.write_text(
        json.dumps({"jobs": {"rows_s": [1, 2]}, "latency": {"control_s": [0, 0]}}), encoding="utf-8"
    )
    assert read_scenario(path).settings().jobs.rows_s == (1, 2)
    assert options_from({"latency": "none"}).latency == Latency.none()


def test_what_happened_before_a_restart_does_not_happen_again(tmp_path: Path) -> None:
    """Quotas are set again, regimes and faults are not."""
    events = [
        TimedEvent(at=10, quota={"items": 5}),
        TimedEvent(at=10, fault=Fault(kind="overloaded", where="embed")),
    ]
    options = EmulatorOptions(state=tmp_path, latency=Latency.none())
    with Emulator("gemini", options=options, events=events) as emulator:
        emulator.advance(20)
        assert embed(emulator, "a") == 503
    with Emulator("gemini", options=options, events=events) as emulator:
        assert [embed(emulator, *["a"] * count) for count in (6, 5)] == [429, 200]


# --- from another process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_the_client_sees_what_the_emulator_sees(provider: Any) -> None:
    """All of the way in, over HTTP: the same answers to the same questions."""
    with Emulator(provider, options=QUICK) as emulator:
        client = EmulatorClient(emulator.url)
        (gemini_job if provider == "gemini" else openai_job)(emulator, "a", "b", tag="t")
        before = client.now()
        assert client.advance(101) >= before + 101
        assert client.jobs() == emulator.jobs()
        assert client.jobs("t") == emulator.jobs("t")
        assert client.jobs("nothing like it") == []
        assert client.billing() == emulator.billing()
        assert client.billing(entries=False) == emulator.billing(entries=False)
        assert (client.billed("a"), client.billed("z")) == (1, 0)
        assert client.requests == emulator.requests
        assert client.requests.total >= 2
        client.set_regime("stuck")
        client.set_regime(None)


def test_the_client_scripts_and_limits() -> None:
    """Faults come, are cleared, and quotas hold; what makes no sense is refused as it would be in the process."""
    with Emulator("gemini", options=QUICK) as emulator:
        client = EmulatorClient(emulator.root)
        client.fault(Fault(kind="overloaded", where="embed"))
        assert [embed(emulator, "a") for _ in range(2)] == [503, 200]
        client.fault(Fault(kind="overloaded", where="embed"))
        client.clear_faults()
        assert embed(emulator, "a") == 200
        client.set_quotas(Quotas(items=1))
        assert embed(emulator, "a", "b") == 429
        client.change_quotas({"items": 2})
        emulator.advance(60)
        assert embed(emulator, "a", "b") == 200
        for wrong in (
            lambda: client.fault(Fault(kind="insufficient_quota")),
            lambda: client.change_quotas({"no_such": 1}),
            lambda: client.set_regime("sunny"),  # type: ignore[arg-type]  # that is the test
            lambda: client.advance(-1),
            lambda: EmulatorClient("127.0.0.1:80"),
        ):
            with pytest.raises(ValueError, match=r"."):
                wrong()


def test_the_endpoint_says_what_it_does_not_know() -> None:
    """404 for other paths, 400 for a body that is none; all faults are listed."""
    with Emulator("gemini", options=QUICK) as emulator:
        assert ask(emulator, "GET", "/_emulator/nothing").status == 404
        assert ask(emulator, "POST", "/_emulator/advance", b"[]").status == 400
        assert ask(emulator, "POST", "/_emulator/billed", {}).status == 400
        assert set(ask(emulator, "GET", "/_emulator/faults").json) == set(FAULTS)
