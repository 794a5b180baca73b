"""Money of a day: by the provider's own ledger no bound is gone over, however often the process is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.waiters import Asked

from embatch.errors import GoalError, UsageError
from embatch.serving import Answer
from embatch.storage.spending import Purse

if TYPE_CHECKING:
    from tests.integration.gateway.conftest import Place

pytestmark = pytest.mark.remote
TEXT = "some words that are about as long as what people ask for, number {}"


def test_the_days_bound_is_kept_by_the_providers_own_ledger(place: Place, tmp_path: Path) -> None:
    """Most of it is used; who comes too late hears the limit; the purse and the provider agree on the bill."""
    purse = Purse(tmp_path / "spending.sqlite", per_day=40e-6)
    gateway = place.open(purse=purse)
    for start in range(0, 400, 40):
        asked = [Asked(gateway, TEXT.format(i)) for i in range(start, start + 40)]
        outcomes = [one.result for one in asked]
    assert all(isinstance(outcome, GoalError) for outcome in outcomes)
    assert "$0.0000" in str(outcomes[0])
    bill = place.emulator.billing().dollars
    assert 20e-6 < bill <= 40e-6
    assert sum(purse.spent_today().values()) == pytest.approx(bill)
    assert gateway.snapshot().dollars == pytest.approx(bill)
    purse.close()


def test_whoever_has_spent_their_share_stops_nobody_else(place: Place, tmp_path: Path) -> None:
    """Payers in one pile: each has a bound of its own; a text that both want is sent for the one who can pay."""
    purse = Purse(tmp_path / "spending.sqlite", payers={"ann": 2e-6, "bob": 1.0})
    gateway = place.open(purse=purse, parallel=1)
    while isinstance(Asked(gateway, "text " * 20, payer="ann").result, Answer):
        pass
    assert purse.spent_today()["ann"] <= 2e-6
    asked = [Asked(gateway, f"{name} {i}", payer=name) for i in range(30) for name in ("ann", "bob")]
    for i, one in enumerate(asked):
        if i % 2:
            assert one.answer.failures == ()
    refused = [one for one in asked[::2] if isinstance(one.result, GoalError)]
    assert refused
    assert all("'ann'" in str(one.result) for one in refused)
    assert sum(purse.spent_today().values()) == pytest.approx(place.emulator.billing().dollars)
    assert purse.spent_today()["ann"] <= 2e-6
    purse.close()


def test_a_bound_needs_prices(place: Place, tmp_path: Path) -> None:
    """Of a model whose prices are not known nothing can be promised: that is said when it is opened."""
    from embatch.frontends.gateway import Gateway
    from embatch.frontends.remote import RemoteModel
    from embatch.frontends.remote_host import RemoteHost
    from embatch.providers.registry import open_provider

    model = RemoteModel(
        open_provider("compatible:text-embedding-3-small", base_url=place.emulator.url, api_key="k")
    )
    host = RemoteHost(model, dimensions=None, overlong="truncate")
    purse = Purse(tmp_path / "spending.sqlite", per_day=1.0)
    with pytest.raises(UsageError, match="no price is known"):
        Gateway(host, purse=purse)
    Gateway(host, purse=Purse(tmp_path / "other.sqlite")).close()
    model.close()
    purse.close()


@pytest.mark.kill
def test_killed_processes_together_stay_within_the_bound(place: Place, tmp_path: Path) -> None:
    """SIGKILL at any moment: what was on its way counts as spent, so that the next process spends less."""
    path, bound = tmp_path / "spending.sqlite", 60e-6
    for run in range(3):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.gateway.spender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert child.stdin is not None
        assert child.stdout is not None
        order = {"url": place.emulator.url, "path": str(path), "bound": bound, "run": run}
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
        lines = 0
        while child.stdout.readline() == "answered\n":
            lines += 1
            if lines > 2 * run:
                child.send_signal(signal.SIGKILL)
        child.stdin.close()
        child.stdout.close()
        child.wait(timeout=60)
    assert 0.1 * bound < place.emulator.billing().dollars <= bound
    purse = Purse(path, per_day=bound)
    assert sum(purse.spent_today().values()) >= place.emulator.billing().dollars * (1 - 1e-9)
    purse.close()
