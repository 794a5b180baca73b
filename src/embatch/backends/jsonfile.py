"""One JSON object of a model folder, with typed reads that name the file and the key when they fail.

Model folders come from strangers: any field may be missing, null or of another type. Every backend reads its
configuration through this, so that a broken folder ends as one clear error and never as a traceback. It knows
nothing of what the fields mean.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from embatch.errors import CorruptModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class JsonFile:
    """The fields of one file. A missing or null field takes the default; without a default it is an error."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        self.path = path
        self.fields = fields

    @classmethod
    def read(cls, path: Path) -> Self:
        """The object in `path`.

        Raises:
            CorruptModelError: the file is missing, unreadable, no JSON, or no JSON object.
        """
        value = read_json(path)
        if not isinstance(value, dict):
            raise CorruptModelError(f"{path} holds {type(value).__name__}, not a JSON object")
        return cls(path, value)

    @classmethod
    def read_optional(cls, path: Path) -> Self:
        """The object in `path`, or one without fields where there is no such file."""
        return cls.read(path) if path.is_file() else cls(path, {})

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; `1e30`, the usual way to write "no limit", is one too."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise self._wrong(key, "a whole number", value)
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number", value)
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def table(self, key: str) -> JsonFile:
        """A nested object; one without fields where the key is missing."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return JsonFile(self.path, value)

    def _get(self, key: str, default: object) -> Any:
        value = self.fields.get(key)
        if value is not None:
            return value
        if default is None:
            raise CorruptModelError(f"{self.path} has no field {key!r}")
        return default

    def _wrong(self, key: str, wanted: str, value: object) -> CorruptModelError:
        return CorruptModelError(f"{self.path}: field {key!r} must be {wanted}, not {value!r}")


def read_json(path: Path) -> Any:
    """The value in `path`.

    Raises:
        CorruptModelError: the file is missing, unreadable, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CorruptModelError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptModelError(f"{path} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise CorruptModelError(f"{path} is no valid JSON: {error}") from error
