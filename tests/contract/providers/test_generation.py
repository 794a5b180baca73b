"""What every provider's generated answers keep to: one text a call, counted, or in pieces as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.contract.providers.conftest import KINDS

from embatch.emulator import Fault
from embatch.errors import ProviderError, UsageError
from embatch.remote import Generated, GenerateWork

if TYPE_CHECKING:
    from tests.contract.providers.conftest import Place

pytestmark = pytest.mark.remote
every = pytest.mark.parametrize("place", KINDS, indirect=True)


@every
def test_generation_takes_one_text(place: Place) -> None:
    """One answer with its counts; several texts are a mistake of the caller."""
    asked = GenerateWork(model=place.generating_model, system="be brief", max_output_tokens=50)
    answer = place.generating.call(["say something"], asked, timeout_s=10)
    (result,) = answer.results
    assert isinstance(result, Generated)
    assert result.text
    assert result.input_tokens == answer.tokens
    assert result.output_tokens
    with pytest.raises(UsageError):
        place.generating.call(["a", "b"], asked, timeout_s=10)


@every
def test_streams_say_the_same_as_calls(place: Place) -> None:
    """In pieces."""
    asked = GenerateWork(model=place.generating_model)
    (whole,) = place.generating.call(["tell a story"], asked, timeout_s=10).results
    pieces = list(place.generating.stream("tell a story", asked, timeout_s=10))
    assert isinstance(whole, Generated)
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1


@every
@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("stream_error", {"overloaded"}),
        ("cut_body", {"connection", "protocol"}),
        ("rate_limit", {"rate_minute"}),
        ("reset_before", {"connection"}),
    ],
)
def test_streams_that_break(place: Place, fault: str, kinds: set[str]) -> None:
    """An error before or in the middle is raised, with its kind; no end is faked."""
    place.emulator.fault(Fault(kind=fault, where="stream"))
    with pytest.raises(ProviderError) as error:
        list(
            place.generating.stream("tell a story", GenerateWork(model=place.generating_model), timeout_s=10)
        )
    assert error.value.kind in kinds


@every
def test_a_stream_may_be_left(place: Place) -> None:
    """Whoever stops reading closes the connection; the provider goes on serving."""
    asked = GenerateWork(model=place.generating_model)
    pieces = place.generating.stream("tell a story", asked, timeout_s=10)
    assert next(iter(pieces))
    pieces.close()  # type: ignore[attr-defined]  # a generator
    assert place.generating.call(["again"], asked, timeout_s=10).results
