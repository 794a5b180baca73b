"""What is on the bill of a run: counted by the provider, or reckoned where it says nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.fake_provider import FakeProvider

from embatch.engine.lanes.clock import Clock
from embatch.errors import ProviderError
from embatch.frontends.view import lane_lines
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.engine.lanes.conftest import OpenLanes

    from embatch.remote import CallAnswer

pytestmark = pytest.mark.timeout(60)


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


def test_a_call_without_an_answer_is_on_the_bill_as_an_estimate(lanes: OpenLanes) -> None:
    """What timed out may have been billed: its tokens are reckoned, and the report and its summary say so."""
    left = [2]

    def time_out(_: Sequence[str]) -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("no answer", kind=ErrorKind.TIMEOUT)

    def counted(some: Sequence[str], answer: CallAnswer) -> CallAnswer:
        return replace(answer, tokens=2 * len(some))

    provider = FakeProvider(before_call=time_out, answer=counted)
    report = lanes(provider, clock=Clock(100)).embed(texts(10)).report.lanes
    assert report is not None
    assert report.calls_failed == 2
    assert report.estimated_tokens > 0
    assert report.call_tokens == report.estimated_tokens + 20
    assert report.call_dollars == pytest.approx(report.call_tokens * 2e-6)
    lines = lane_lines(report, "a model")
    assert any(f"{report.estimated_tokens} of the tokens are estimated" in line for line in lines)
    assert f"about {report.call_tokens} tokens, about $" in lines[1]
