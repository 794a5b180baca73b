"""Text that the emulator generates: derived from the prompt, so that a swapped or lost answer shows."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from embatch.emulator.tokens import count_tokens, utf8

_WORDS = [
    start + end
    for start in ("am", "bri", "ca", "del", "fen", "gro", "hol", "mar")
    for end in ("ber", "dal", "lin", "sto", "ven")
]
_LEAST, _MOST = 8, 40


class Generated(NamedTuple):
    """An answer."""

    text: str
    tokens: int
    is_whole: bool
    """False if it stopped at the limit that was asked for."""

    @property
    def pieces(self) -> list[str]:
        """The text in the pieces that a stream gives it out in."""
        return re.findall(r"\S+\s*", self.text)


def generated(prompt: str, max_output_tokens: int | None = None) -> Generated:
    """The answer to a prompt: always the same, of 8 to 40 words, with a beginning that names the prompt's digest."""
    digest = hashlib.shake_128(utf8(prompt)).digest(_MOST + 5)
    count = _LEAST + digest[0] % (_MOST - _LEAST + 1)
    words = [f"[{digest[1:5].hex()}]", *(_WORDS[byte % len(_WORDS)] for byte in digest[5 : 5 + count])]
    is_whole = True
    if max_output_tokens is not None:
        while len(words) > 1 and count_tokens(" ".join(words)) > max_output_tokens:
            words.pop()
            is_whole = False
    text = " ".join(words)
    return Generated(text, count_tokens(text), is_whole)
