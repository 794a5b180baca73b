"""The way in behind an emulator in another process: the methods of `Emulator`, over its endpoint `/_emulator/…`."""

from __future__ import annotations

import dataclasses
import http.client
import json
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embatch.emulator.control import EmulatedJob
from embatch.emulator.ledger import Billing, Entry, Total
from embatch.emulator.requests import Accepted, Requests

if TYPE_CHECKING:
    from embatch.emulator.faults import Fault
    from embatch.emulator.options import Quotas, RegimeName

_TIMEOUT_S = 30.0


class EmulatorClient:
    """Speaks to an emulator's endpoint.

    Args:
        url: the emulator's, with or without `/v1`.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.netloc:
            raise ValueError(f"an emulator's address looks like http://127.0.0.1:8080, not {url!r}")
        self.root = f"http://{parts.netloc}"
        self._host = parts.netloc

    def now(self) -> float:
        """Virtual seconds."""
        return float(self._get("clock")["now"])

    def advance(self, seconds: float) -> float:
        """Move the virtual clock on. Gives the new time."""
        return float(self._post("advance", {"seconds": seconds})["now"])

    def fault(self, fault: Fault) -> None:
        """Put a fault at the end of the script.

        Raises:
            ValueError: this provider never does that.
        """
        self._post("fault", dataclasses.asdict(fault))

    def clear_faults(self) -> None:
        """Nothing of what was scripted goes wrong any more."""
        self._post("clear_faults", {})

    def set_quotas(self, quotas: Quotas) -> None:
        """Other limits from now on."""
        self._post("quota", dataclasses.asdict(quotas))

    def change_quotas(self, changes: dict[str, Any]) -> None:
        """Some other limits, by name.

        Raises:
            ValueError: there is no such quota.
        """
        self._post("quota", changes)

    def set_regime(self, regime: RegimeName | None) -> None:
        """From now on all jobs fare so; None: as the seed has it.

        Raises:
            ValueError: there is no such regime.
        """
        self._post("regime", {"regime": regime})

    def billing(self, *, entries: bool = True) -> Billing:
        """The ledger as it stands; without `entries`, totals only."""
        found = self._get("ledger" if entries else "totals")
        rows = [Entry(*entry) for entry in found["entries"]]
        return Billing(rows, [Total(*total) for total in found["totals"]], found["counts"])

    def billed(self, text: str) -> int:
        """How often a text was billed."""
        return int(self._post("billed", {"text": text})["count"])

    def jobs(self, tag: str | None = None) -> list[EmulatedJob]:
        """All jobs ever made, oldest first; with `tag`, those in whose tag it occurs."""
        jobs = [EmulatedJob(**job) for job in self._get("jobs")["jobs"]]
        return [job for job in jobs if tag is None or tag in job.tag]

    @property
    def requests(self) -> Requests:
        """What was asked so far."""
        found = self._get("requests")
        return Requests(
            counts=Counter(found["counts"]),
            refused=Counter(found["refused"]),
            statuses=Counter({int(status): count for status, count in found["statuses"].items()}),
            accepted=[Accepted(*each) for each in found["accepted"]],
        )

    def _get(self, name: str) -> Any:
        return self._ask("GET", name, None)

    def _post(self, name: str, values: dict[str, Any]) -> Any:
        return self._ask("POST", name, json.dumps(values).encode())

    def _ask(self, method: str, name: str, data: bytes | None) -> Any:
        connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
        try:
            connection.request(method, f"/_emulator/{name}", data, {"content-type": "application/json"})
            reply = connection.getresponse()
            found = json.loads(reply.read())
        finally:
            connection.close()
        if reply.status >= 400:
            raise ValueError(found["error"])
        return found
