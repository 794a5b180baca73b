"""Remote runs killed at every boundary, and at random: nothing is lost, and no job is paid twice.

Every kill is a SIGKILL of a process of its own; see `lanes_child`. About a hundred kills are what a test run does;
`EMBATCH_KILLS=600` goes through every boundary there is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from tests.acceptance.lanes_child import (
    BROKE,
    CALL_ITEMS,
    PARALLEL,
    POISON,
    PRICE,
    SHY,
    expected_key,
    tokens_of,
)
from tests.fake_provider import vector

from embatch.remote import STRATEGIES, StrategyName

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = [pytest.mark.kill, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("EMBATCH_KILLS", "100"))
"""Of all tests here together, roughly."""
KILLED = -signal.SIGKILL
TEXTS = [*(f"text {n}" for n in range(34)), f"{POISON} a", *(f"{SHY} {n}" for n in range(4)), "text 3"]
_ZYGOTES = 2
_MOST_RUNS = 60


class Zygote:
    """A process that forks for each order, so that a run starts in milliseconds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.lanes_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def order(self, folder: Path, strategy: str, **how: float) -> dict[str, Any]:
        """Carry one run out; `code` says how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "strategy": strategy, **how}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(timeout=60)


@dataclass
class Crew:
    """Zygotes that work side by side, and how many processes they killed."""

    zygotes: SimpleQueue[Zygote] = field(default_factory=SimpleQueue)
    kills: Counter[str] = field(default_factory=Counter)

    def run(self, folder: Path, strategy: str, **how: float) -> int:
        """One run in one process: 0 if it came to its end, `KILLED` if it was killed, `BROKE` at a budget's end."""
        zygote = self.zygotes.get()
        try:
            code = int(zygote.order(folder, strategy, **how)["code"])
        finally:
            self.zygotes.put(zygote)
        problem = folder / "error.txt"
        expected = {0, KILLED, BROKE} if "budget" in how else {0, KILLED}
        assert code in expected, problem.read_text(encoding="utf-8") if problem.exists() else code
        self.kills[strategy] += code == KILLED
        return code

    def finish(self, folder: Path, strategy: str) -> None:
        """The same command again, as whoever gives it whose process was killed, were it at its very end."""
        assert self.run(folder, strategy) == 0

    def __enter__(self) -> Self:
        for _ in range(_ZYGOTES):
            self.zygotes.put(Zygote())
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(_ZYGOTES):
            self.zygotes.get().close()


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Two processes to fork from, for all tests here."""
    with Crew() as crew:
        yield crew
    print(f"killed: {dict(crew.kills)}")  # noqa: T201  # what the test was worth


def new_folder(tmp_path: Path, name: str) -> Path:
    """A folder with texts to embed."""
    folder = tmp_path / name
    folder.mkdir()
    lines = [json.dumps({"id": f"key {n}", "text": text}) for n, text in enumerate(TEXTS)]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def whole(folder: Path) -> bool:
    """Whether the output is there, and nothing of the run is left to go on with."""
    return (folder / "out.jsonl").exists() and not (folder / ".embatch" / "out.jsonl.run").exists()


# --- the verdict -----------------------------------------------------------------------------------------------------


def judge(folder: Path) -> None:
    """Check output and bill of a run that was killed any number of times, and then came to its end."""
    check_output(folder)
    with closing(sqlite3.connect(folder / "judge.sqlite")) as connection:
        check_jobs(connection)
        check_calls(connection)


def check_output(folder: Path) -> None:
    """Each text has its own vector, in the order of the input; the refused one is named."""
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    good = [(f"key {n}", text) for n, text in enumerate(TEXTS) if not text.startswith(POISON)]
    assert [row["key"] for row in rows] == [key for key, _ in good]
    found = np.array([row["vector"] for row in rows], np.float32)
    np.testing.assert_allclose(found, np.stack([vector(text) for _, text in good]), atol=1e-6)
    errors = (folder / "out.jsonl.errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in errors] == ["key 34"]


def check_jobs(connection: sqlite3.Connection) -> None:
    """A text is in a second job, or in a call, only if the jobs before gave no result for it."""
    seen: dict[str, list[int]] = defaultdict(list)
    for key, gives in connection.execute("SELECT key, gives FROM job_rows ORDER BY job"):
        seen[key].append(gives)
    for key, gave in seen.items():
        assert not any(gave[:-1]), f"{key} was in a job again that had given its result"
    unfinished = connection.execute("SELECT count(*) FROM jobs WHERE polls < 3").fetchone()[0]
    assert not unfinished, "a paid job was never asked for its results"


def check_calls(connection: sqlite3.Connection) -> None:
    """A text is sent again only if its call was in flight when a process was killed: few at a time, and by name."""
    in_flight: Counter[str] = Counter()
    for run in range(1, last_run(connection)):
        texts = lost(connection, run)
        assert len(texts) <= PARALLEL * CALL_ITEMS
        in_flight.update(texts)
    in_jobs = {text for (text,) in connection.execute("SELECT text FROM job_rows WHERE gives = 1")}
    for text, count in connection.execute("SELECT text, count(*) FROM called GROUP BY text"):
        paid = count + (text in in_jobs)
        assert paid <= 1 + in_flight[text], f"{text!r} was paid for {paid} times"
    for digest, count in connection.execute("SELECT digest, count(*) FROM kept GROUP BY digest"):
        collected = {expected_key(text) for text in in_jobs}  # rows may be collected again after a kill
        assert count == 1 or digest in collected, f"{digest} was stored {count} times"


def last_run(connection: sqlite3.Connection) -> int:
    """The number of the run that came to its end."""
    return int(connection.execute("SELECT max(number) FROM runs").fetchone()[0])


def lost(connection: sqlite3.Connection, run: int) -> set[str]:
    """Texts of calls that a process sent, and whose vectors it had not kept when it was killed."""
    called = {text for (text,) in connection.execute("SELECT text FROM called WHERE run = ?", (run,))}
    kept = {digest for (digest,) in connection.execute("SELECT digest FROM kept WHERE run = ?", (run,))}
    return {text for text in called if expected_key(text) not in kept}


# --- the tests -------------------------------------------------------------------------------------------------------


def killed_at(crew: Crew, folder: Path, strategy: str, boundaries: Sequence[int]) -> bool:
    """Kill one run after the other at these boundaries, then let it finish; whether the first one was killed."""
    codes = [crew.run(folder, strategy, kill_at=at) for at in boundaries]
    crew.finish(folder, strategy)
    judge(folder)
    return codes[0] == KILLED


def boundaries_of(crew: Crew, folder: Path, strategy: str) -> int:
    """How many boundaries an undisturbed run passes, roughly: threads may change their number."""
    assert crew.run(folder, strategy) == 0
    judge(folder)
    assert [path.name for path in (folder / ".embatch").iterdir()] == ["out.jsonl.done"]
    with closing(sqlite3.connect(folder / "judge.sqlite")) as connection:
        return int(connection.execute("SELECT passed FROM runs").fetchone()[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_at_any_boundary_loses_nothing(crew: Crew, tmp_path: Path, strategy: StrategyName) -> None:
    """Killed before or after any change of ledger, journal or provider, the same command ends with the same rows."""
    count = boundaries_of(crew, new_folder(tmp_path, "undisturbed"), strategy)
    step = max(1, round(0.75 * len(STRATEGIES) * count / KILLS))
    first = random.Random(f"{strategy} {KILLS}").randrange(step)

    def one(at: int) -> bool:
        return killed_at(crew, new_folder(tmp_path, f"at-{at}"), strategy, [at])

    with ThreadPoolExecutor(_ZYGOTES) as pool:
        done = list(pool.map(one, range(1 + first, count + 20, step)))
    assert sum(done) >= 0.8 * count / step  # those beyond the end are not killed
    assert step > 1 or not done[-1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_kills_again_and_again_lose_nothing(crew: Crew, tmp_path: Path, strategy: StrategyName) -> None:
    """Killed at boundary after boundary of the same run, and at random moments, it still ends with the same rows."""
    rng = random.Random(strategy)
    target = crew.kills[strategy] + max(4, KILLS // 16)
    number = 0
    while crew.kills[strategy] < target:
        number += 1
        folder = new_folder(tmp_path, f"again-{number}")
        for _ in range(_MOST_RUNS):
            if whole(folder):
                break
            if number % 2:
                crew.run(folder, strategy, kill_at=rng.randrange(1, 60))
            else:
                crew.run(folder, strategy, kill_after_s=rng.uniform(0.0, 0.12))
        crew.finish(folder, strategy)
        judge(folder)


NEED = PRICE * sum(tokens_of(text) for text in {*TEXTS} if not text.startswith(POISON))
"""Dollars for all texts by calls."""


def billed(folder: Path) -> float:
    """Dollars, as the provider reckons."""
    with closing(sqlite3.connect(folder / "judge.sqlite")) as connection:
        called = [text for (text,) in connection.execute("SELECT text FROM called")]
        given = [text for (text,) in connection.execute("SELECT text FROM job_rows WHERE gives = 1")]
    return PRICE * (sum(map(tokens_of, called)) + sum(map(tokens_of, given)) / 2)


@pytest.mark.parametrize("strategy", ["individual", "hybrid"])
def test_a_budget_outlives_kills(crew: Crew, tmp_path: Path, strategy: StrategyName) -> None:
    """However often a run is killed, all of its processes together never pay more than the budget."""
    rng = random.Random(f"budget {strategy}")
    ends: Counter[int] = Counter()
    shares: list[float] = []
    for number in range(max(4, KILLS // 16)):
        folder = new_folder(tmp_path, f"budget-{number}")
        budget = NEED * rng.uniform(1.0, 1.6)
        code = KILLED
        for _ in range(_MOST_RUNS):
            code = crew.run(folder, strategy, budget=budget, kill_at=rng.randrange(15, 45))
            assert billed(folder) <= budget
            if code != KILLED:
                break
        ends[code] += 1
        if code == BROKE:
            shares.append(billed(folder) / budget)
            assert crew.run(folder, strategy) == 0  # whoever gives more money gets the rest
    assert ends[BROKE]
    assert np.mean(shares) >= 0.3  # what was held for calls in flight is not all of it
