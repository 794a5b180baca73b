"""The providers' side of the wire, on loopback: for tests, demonstrations and rehearsals.

Imports nothing of ours but itself, and starlette and uvicorn only when an emulator is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embatch.emulator.catalog import Price
    from embatch.emulator.client import EmulatorClient
    from embatch.emulator.control import EmulatedJob
    from embatch.emulator.emulator import Emulator
    from embatch.emulator.faults import FAULTS, Fault
    from embatch.emulator.ledger import Billing
    from embatch.emulator.options import EmulatorOptions, JobTimes, Latency, Quotas, RowFaults

_WHERE = {
    "Billing": "ledger",
    "EmulatedJob": "control",
    "Emulator": "emulator",
    "EmulatorClient": "client",
    "EmulatorOptions": "options",
    "FAULTS": "faults",
    "Fault": "faults",
    "JobTimes": "options",
    "Latency": "options",
    "Price": "catalog",
    "Quotas": "options",
    "RowFaults": "options",
}

__all__ = [
    "FAULTS",
    "Billing",
    "EmulatedJob",
    "Emulator",
    "EmulatorClient",
    "EmulatorOptions",
    "Fault",
    "JobTimes",
    "Latency",
    "Price",
    "Quotas",
    "RowFaults",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embatch.emulator.{_WHERE[name]}"), name)
