"""Code to index and to search: two functions that are found by what they do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RETRY = '''
def wait_for_server(delay_s):
    """Sleep as long as the server asked for, before the request is sent again."""
    for attempt in range(10):
        sleep(delay_s * attempt)
        if answered(attempt):
            return attempt
    raise TimeoutError(delay_s)
'''
COLOURS = '''
def mix_colours(red, green, blue):
    """One number for three channels, eight bits each."""
    checked = [min(255, max(0, channel)) for channel in (red, green, blue)]
    total = 0
    for channel in checked:
        total = total * 256 + channel
    return total
'''
TOOLS = f"{RETRY}\n{COLOURS}"
"""Both, as one file has them."""


def age(root: Path) -> None:
    """Make all files old enough that their time can be trusted."""
    for path in root.rglob("*"):
        if path.is_file() and ".embatch" not in path.parts:
            os.utime(path, (1_700_000_000, 1_700_000_000))
