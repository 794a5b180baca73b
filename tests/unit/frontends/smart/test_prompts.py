"""Prompts through the clients: answers in order, lanes, groups, pieces, failures, and going on after a timeout."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.fake_provider import facts

from embatch.errors import (
    EmptyTextError,
    ItemProviderError,
    NotTextError,
    ProviderError,
    StillRunningError,
    UsageError,
)
from embatch.gemini import BatchPromptRequest, GeminiBatchClient
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.fake_provider import FakeProvider

    from embatch.remote import GenerateWork

    Make = Callable[..., Any]


def prompts(count: int) -> list[BatchPromptRequest]:
    return [BatchPromptRequest(f"why {i}", tag=str(i)) for i in range(count)]


@pytest.mark.parametrize("count", [3, 12])
def test_answers_come_in_the_order_of_the_prompts(make: Make, chat: FakeProvider, count: int) -> None:
    """By calls or by a job, equal prompts asked once."""
    results = make(model="chat").generate_content([*prompts(count), "why 1"])
    assert [r.text for r in results] == [f"answer to why {i}" for i in [*range(count), 1]]
    assert [r.tag for r in results] == [*map(str, range(count)), None]
    assert all(r.error is None and r.output_tokens == 5 for r in results)
    assert max(chat.billed().values()) == 1
    assert (len(chat.calls), len(chat.jobs)) == ((3, 0) if count == 3 else (0, 1))


def test_one_prompt_may_be_given_as_it_is(make: Make) -> None:
    """The answer is a list of one all the same."""
    (result,) = make(model="chat").generate_content("why")
    assert result.text == "answer to why"


def test_lanes_can_be_forced_for_prompts(make: Make, chat: FakeProvider) -> None:
    """As for vectors."""
    client = make(model="chat")
    client.generate_content("why", force_batch=True)
    client.generate_content(prompts(15), force_individual=True)
    assert (len(chat.calls), len(chat.jobs)) == (15, 1)
    with pytest.raises(ValueError, match="force_batch"):
        client.generate_content("x", force_batch=True, force_individual=True)


def test_a_bad_prompt_fails_alone(make: Make, chat: FakeProvider) -> None:
    """Blocked, empty, or no text."""

    def before_call(sent: Sequence[str]) -> None:
        if sent == ["poison"]:
            raise ProviderError("blocked", kind=ErrorKind.BAD_INPUT)

    chat.before_call = before_call
    bad: list[Any] = ["poison", "", BatchPromptRequest(None)]  # type: ignore[arg-type]  # the point
    results = make(model="chat").generate_content(["fine", *bad, "good"])
    assert [r.text for r in results] == ["answer to fine", None, None, None, "answer to good"]
    assert [type(r.exception) for r in results[1:4]] == [ItemProviderError, EmptyTextError, NotTextError]
    assert results[1].error == "blocked"


def test_prompts_that_differ_in_settings_are_grouped(make: Make, chat: FakeProvider) -> None:
    """One run for each temperature, system and model, answers in one order."""
    mixed = [
        BatchPromptRequest("a", temperature=0.0),
        BatchPromptRequest("b", system="Be brief"),
        BatchPromptRequest("c", model="chat-2", max_output_tokens=5),
        BatchPromptRequest("d", temperature=0.0),
    ]
    results = make(model="chat").generate_content(mixed)
    assert [r.text for r in results] == [f"answer to {text}" for text in "abcd"]


def test_settings_that_make_no_sense_are_refused(make: Make, chat: FakeProvider) -> None:
    """Before anything is sent, as is a model that makes vectors."""
    client = make(model="chat")
    for wrong, said in (
        (BatchPromptRequest("x", temperature=9.0), "temperature"),
        (BatchPromptRequest("x", max_output_tokens=0), "max_output_tokens"),
        (BatchPromptRequest("x", model="fake"), "makes vectors"),
        (7, "prompt 0 is of type int"),
    ):
        with pytest.raises(UsageError, match=said):
            client.generate_content([wrong])
    assert chat.calls == []
    assert client.generate_content([]) == []


def test_after_a_timeout_the_same_prompts_find_their_answers(make: Make, chat: FakeProvider) -> None:
    """No second job is submitted."""
    chat.polls_until_done = 10**9
    with pytest.raises(StillRunningError, match="jobs/1"):
        make(5.0, 1500.0, kind=GeminiBatchClient, model="chat").generate_content(prompts(4))
    chat.polls_until_done = 0
    results = make(5.0, 90_000.0, kind=GeminiBatchClient, model="chat").generate_content(prompts(4))
    assert [r.text for r in results] == [f"answer to why {i}" for i in range(4)]
    assert len(chat.jobs) == 1


def test_a_wrong_key_is_raised_for_prompts(make: Make, chat: FakeProvider) -> None:
    """Nothing at all could be had."""

    def before_call(sent: Sequence[str]) -> None:
        raise ProviderError("no key", kind=ErrorKind.AUTH)

    chat.before_call = before_call
    with pytest.raises(ProviderError, match="no key"):
        make(model="chat").generate_content(["a", "b"])


def test_unknown_models_answer_one_prompt_a_call(make: Make, chat: FakeProvider) -> None:
    """What a provider's defaults say of packing is for vectors."""
    chat.facts = facts(dimensions=0, model="chat")
    assert chat.facts.call.items == 10
    make(model="chat").generate_content(["a", "b", "c"])
    assert sorted(chat.calls) == [["a"], ["b"], ["c"]]


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_one_answer_comes_in_pieces(make: Make, chat: FakeProvider) -> None:
    """They make up the answer, and are counted as one call."""
    client = make(model="chat")
    assert list(client.generate_content_stream("why")) == ["answer", "to", "why"]
    assert (client.metrics.total_requests, client.metrics.individual_calls) == (1, 1)


def test_pieces_come_before_the_answer_is_whole(make: Make, chat: FakeProvider) -> None:
    """The first is there while the second is still being made, and a reader who leaves ends it."""
    asked: list[str] = []

    def endless(text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        for number in range(10**9):
            asked.append(text)
            yield f"piece {number}"

    chat.stream = endless  # type: ignore[method-assign]  # a double
    client = make(model="chat")
    pieces = client.generate_content_stream("why")
    assert [next(pieces), next(pieces)] == ["piece 0", "piece 1"]
    pieces.close()
    assert next(iter(client.generate_content_stream("what"))) == "piece 0"


def test_a_batch_client_gives_the_answer_in_one_piece(make: Make, chat: FakeProvider) -> None:
    """Jobs have no pieces."""
    client = make(kind=GeminiBatchClient, model="chat")
    assert list(client.generate_content_stream("why")) == ["answer to why"]
    assert len(chat.jobs) == 1


def test_a_refusal_before_the_first_piece_is_waited_out(make: Make, chat: FakeProvider) -> None:
    """Through the lanes like any other call: tried again, once the provider takes calls."""
    tries = 0

    def twice(text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ProviderError("busy", kind=ErrorKind.OVERLOADED)
        yield "fine"

    chat.stream = twice  # type: ignore[method-assign]  # a double
    assert list(make(model="chat").generate_content_stream("why")) == ["fine"]
    assert tries == 3


def test_an_answer_that_breaks_off_says_so_and_is_not_begun_again(make: Make, chat: FakeProvider) -> None:
    """What was read stays true."""

    def broken(text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        yield "half"
        raise ProviderError("cut off", kind=ErrorKind.CONNECTION)

    chat.stream = broken  # type: ignore[method-assign]  # a double
    pieces = make(model="chat").generate_content_stream("why")
    assert next(pieces) == "half"
    with pytest.raises(ProviderError, match="cut off"):
        next(pieces)


def test_a_prompt_that_is_refused_is_an_error_of_its_own(make: Make, chat: FakeProvider) -> None:
    """Also one that is no text at all."""

    def blocked(text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        if text:
            raise ProviderError("blocked", kind=ErrorKind.BAD_INPUT)
        yield text

    chat.stream = blocked  # type: ignore[method-assign]  # a double
    client = make(model="chat")
    with pytest.raises(ItemProviderError, match="blocked"):
        list(client.generate_content_stream("why"))
    with pytest.raises(EmptyTextError):
        list(client.generate_content_stream(" "))


def test_async_forms_of_prompts(make: Make, chat: FakeProvider) -> None:
    """Answers and pieces, with the loop free."""
    client = make(model="chat")

    async def main() -> tuple[str | None, list[str]]:
        (result,) = await client.agenerate_content("a")
        return result.text, [piece async for piece in client.agenerate_content_stream("b")]

    assert asyncio.run(main()) == ("answer to a", ["answer", "to", "b"])
