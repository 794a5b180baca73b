"""The endpoint `/_emulator/…`: the clock, the script and the ledger over HTTP, for emulators in other processes.

GET clock, ledger, totals, requests, jobs, faults; POST advance, fault, clear_faults, quota, regime, billed.
JSON in and out.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import as_json
from embatch.emulator.faults import FAULTS, Fault
from embatch.emulator.options import plain

if TYPE_CHECKING:
    from embatch.emulator.answers import Answer
    from embatch.emulator.control import Control


class Admin:
    """Answers requests to the endpoint.

    Args:
        control: what they are carried out by.
    """

    def __init__(self, control: Control) -> None:
        self._control = control

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Carry out one request. 400 says what was wrong with it, 404 that there is no such thing."""
        name = path.rsplit("/", 1)[-1]
        handler = getattr(self, f"_{method.lower()}_{name}", None)
        if handler is None:
            return as_json({"error": f"there is no {method} {path}"}, status=404)
        try:
            values = json.loads(body) if body.strip() else {}
            if not isinstance(values, dict):
                raise ValueError("the body must be a JSON object")  # noqa: TRY301, TRY004  # answered just below
            return as_json(handler(values))
        except (ValueError, TypeError) as error:
            return as_json({"error": str(error)}, status=400)

    def _get_clock(self, _: dict[str, Any]) -> Any:
        return {"now": self._control.now()}

    def _get_totals(self, _: dict[str, Any]) -> Any:
        return {"entries": [], "totals": self._control.billing(entries=False).totals, "counts": {}}

    def _get_ledger(self, _: dict[str, Any]) -> Any:
        billing = self._control.billing()
        return {"entries": billing.entries, "totals": billing.totals, "counts": billing.counts}

    def _get_requests(self, _: dict[str, Any]) -> Any:
        seen = self._control.requests  # `asdict` would make counters of pairs out of its counters
        counters = {name: dict(getattr(seen, name)) for name in ("counts", "refused", "statuses")}
        return {**counters, "accepted": [list(each) for each in seen.accepted]}

    def _get_jobs(self, _: dict[str, Any]) -> Any:
        return {"jobs": [job._asdict() for job in self._control.jobs()]}

    def _get_faults(self, _: dict[str, Any]) -> Any:
        return {name: dataclasses.asdict(kind) for name, kind in FAULTS.items()}

    def _post_billed(self, values: dict[str, Any]) -> Any:
        return {"count": self._control.billed(str(_needed(values, "text")))}

    def _post_advance(self, values: dict[str, Any]) -> Any:
        return {"now": self._control.advance(float(values.get("seconds", 0.0)))}

    def _post_fault(self, values: dict[str, Any]) -> Any:
        self._control.fault(plain(Fault, values, "fault"))
        return {}

    def _post_clear_faults(self, _: dict[str, Any]) -> Any:
        self._control.clear_faults()
        return {}

    def _post_quota(self, values: dict[str, Any]) -> Any:
        self._control.change_quotas(values)
        return {}

    def _post_regime(self, values: dict[str, Any]) -> Any:
        self._control.set_regime(values.get("regime"))
        return {}


def _needed(values: dict[str, Any], name: str) -> Any:
    if name not in values:
        raise ValueError(f"the body needs {name!r}")
    return values[name]
