"""What is left out of a command, settings and messages before they are kept: keys, passwords, and texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HIDDEN = "[hidden]"
_SECRET = re.compile(
    r"\bAIza[\w-]{16,}|\bsk-[\w*-]{6,}|\bya29\.[\w.-]+|\bhf_\w{8,}|(?<=Bearer )\S+"
    r"|(?<=[?&]key=)[^&\s]+|(?<=[?&]password=)[^&\s]+|(?<=[?&]token=)[^&\s]+|(?<=://)[^/@\s]+(?=@)"
)
_SECRET_NAME = re.compile(r"key|token|secret|password|credential|auth", re.IGNORECASE)
_NO_SECRET = re.compile(r"tokens|keys?[_-]?(file|per)", re.IGNORECASE)  # numbers, and where a file lies
_TEXTS = {"prompt", "system", "calibration"}


def scrubbed(text: str) -> str:
    """A text without what looks like a key or a password."""
    return _SECRET.sub(HIDDEN, text)


def hides(name: str) -> bool:
    """Whether the value of an option or setting of this name is kept by nobody."""
    plain = name.lstrip("-").replace("-", "_")
    return plain in _TEXTS or (bool(_SECRET_NAME.search(plain)) and not _NO_SECRET.search(plain))


def scrubbed_command(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with `[hidden]` for the values of options that hold keys or texts."""
    kept: list[str] = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide:
            kept.append(HIDDEN)
            hide = False
        elif argument.startswith("--") and hides(name):
            kept.append(f"{name}={HIDDEN}" if equals else name)
            hide = not equals
        else:
            kept.append(scrubbed(argument))
    return kept


def scrubbed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, likewise."""
    return {
        name: HIDDEN if hides(name) else scrubbed(value) if isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }
