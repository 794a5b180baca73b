"""What a record must never hold: keys, passwords, texts; and how many events it holds at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.storage.run_records import Thinner
from embatch.storage.scrubbing import HIDDEN, scrubbed_command, scrubbed_settings


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (["embed", "a.txt", "--api-key", "abc"], ["embed", "a.txt", "--api-key", HIDDEN]),
        (["serve", "--keys=abc"], ["serve", f"--keys={HIDDEN}"]),
        (["generate", "--system", "Be kind.", "q.txt"], ["generate", "--system", HIDDEN, "q.txt"]),
        (["embed", "--budget-tokens", "512"], ["embed", "--budget-tokens", "512"]),
        (["index", "--index", "postgresql://me:word@host/db"], ["index", "--index", f"postgresql://{HIDDEN}@host/db"]),
        (["embed", "--base-url", "https://h/v1?key=abc"], ["embed", "--base-url", f"https://h/v1?key={HIDDEN}"]),
        (["embed", "--id-column", "sk-aaaaaaaaaa"], ["embed", "--id-column", HIDDEN]),
    ],
)  # fmt: skip
def test_commands_keep_neither_keys_nor_texts(command: list[str], kept: list[str]) -> None:
    """Values of options that hold keys or texts are hidden, and so is what looks like a key anywhere."""
    assert scrubbed_command(command) == kept


def test_settings_keep_no_secrets() -> None:
    """Settings are hidden by their names and by what they look like; what was not given is left out."""
    told = {"api_key": "abc", "model": "m", "base_url": "http://u:p@h", "chunk_tokens": 512, "task": None}
    assert scrubbed_settings(told) == {
        "api_key": HIDDEN,
        "model": "m",
        "base_url": f"http://{HIDDEN}@h",
        "chunk_tokens": 512,
    }


@given(st.integers(0, 40_000))
def test_thinning_accounts_for_every_event(number: int) -> None:
    """What is kept stands for all events but the last few, and the first thousand are all kept."""
    thinner = Thinner()
    stands = [thinner.take() for _ in range(number)]
    assert stands[:1000] == [1] * min(number, 1000)
    assert number - thinner.step < sum(stands) <= number


def test_a_record_stays_small_whatever_the_run() -> None:
    """A million events leave a few thousand, those of the end among them."""
    thinner = Thinner()
    kept = [i for i in range(1_000_000) if thinner.take()]
    assert len(kept) < 9000
    assert sum(i >= 500_000 for i in kept) >= 100
