"""The harness's side of load clients: starts them as processes, alone or several at once, and reads their reports."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.serving.corpus import LEAST_COSINE
from benchmarks.serving.load import Plan, to_json
from benchmarks.serving.tally import OK, latencies, merged
from benchmarks.worker import REPOSITORY, WorkerError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from benchmarks.serving.corpus import Corpus
    from benchmarks.serving.servers import Server

_GRACE_S = 120.0  # beyond a plan's own time, before its client is ended


def plan_for(server: Server, rows: Corpus, **more: Any) -> Plan:
    """What clients of this server do: ask for these texts, and compare every answer; the rest as `Plan` has it."""
    return Plan(
        port=server.port,
        path=server.kind.path,
        texts=rows.path,
        reference=rows.reference,
        least_cosine=LEAST_COSINE,
        **more,
    )


class Load:
    """One client at work: started by construction, and ended by `wait`."""

    def __init__(self, plan: Plan) -> None:
        self._most_s = plan.seconds + plan.timeout_s + _GRACE_S
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.load"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        to = cast("IO[str]", self._process.stdin)
        to.write(to_json(plan))
        to.close()
        self._process.stdin = None  # `communicate` has nothing more to send

    def wait(self) -> dict[str, Any]:
        """Its report.

        Raises:
            WorkerError: it failed, or did not end in its time.
        """
        try:
            out, words = self._process.communicate(timeout=self._most_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise WorkerError("a load client did not end in its time") from error
        if self._process.returncode != 0:
            raise WorkerError(f"a load client failed: {(words.strip().splitlines() or ['no output'])[-1]}")
        report: dict[str, Any] = json.loads(out)
        return report

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()


def load(plan: Plan) -> dict[str, Any]:
    """One client's report."""
    return Load(plan).wait()


def loads(plans: list[Plan], work: Path) -> dict[str, Any]:
    """Several clients at the same time, and their reports as one.

    Raises:
        WorkerError: one of them failed; the others were ended.
    """
    outs = [work / f"client-{number}.npz" for number in range(len(plans))]
    clients = [Load(replace(plan, out=str(out))) for plan, out in zip(plans, outs, strict=True)]
    try:
        reports = [client.wait() for client in clients]
    except WorkerError:
        for client in clients:
            client.kill()
        raise
    answers = [answers_of(out) for out in outs]
    took = np.concatenate([one["took"] for one in answers]) * 1000
    good = np.concatenate([one["statuses"] for one in answers]) == OK
    refused = latencies(took[~good].tolist())
    return {
        **merged(reports),
        **latencies(took[good].tolist()),
        "refused_p50_ms": refused["p50_ms"],
        "refused_max_ms": refused["max_ms"],
        "most_open": sum(one["most_open"] for one in reports),
        "last_answer": max(one["last_answer"] for one in reports),
        "started": min(one["started"] for one in reports),
    }


def answers_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What a client saved of each answer: `asked` and `took` in seconds, `statuses`."""
    with np.load(path) as file:
        return {name: file[name] for name in ("asked", "took", "statuses")}
