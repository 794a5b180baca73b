"""API keys from a file or the environment.

A file is YAML or JSON: a list of keys, or a mapping with the one field `keys`.

    keys:
      - name: search team             # in metrics and logs; needed, and different for each
        secret_env: SEARCH_TEAM_KEY   # the environment variable that holds the key;
        # secret: sk-…                # or the key itself, in a file that others cannot read
        requests_per_minute: 600      # limits; what is left out is not limited
        tokens_per_minute: 1000000
        parallel: 32                  # requests under way at once
      - name: nightly jobs
        secret_env: NIGHTLY_KEY
        dollars_per_day: 5            # over a provider's model

Without a file, the variable `EMBATCH_SERVE_KEY` may hold one key, which is called `default` and has no limits. A key
has at least 16 characters, none of them white space.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from embatch.errors import SourceFormatError, SourceNotFoundError, SourceUnreadableError
from embatch.frontends.server.settings import ApiKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VARIABLE = "EMBATCH_SERVE_KEY"
SHORTEST_SECRET = 16

_WHOLE = ("requests_per_minute", "tokens_per_minute", "parallel")
_FIELDS = {field.name for field in fields(ApiKey)} | {"secret_env"}
_HINT = "Give each key a name and a secret (or secret_env), and limits that are positive numbers."


def load_keys(path: Path | None, environ: Mapping[str, str] = os.environ) -> tuple[ApiKey, ...]:
    """The keys of a file and of the environment; none if there are neither.

    Args:
        path: YAML or JSON, as the module says; None looks at the environment alone.
        environ: where `secret_env` and `EMBATCH_SERVE_KEY` are looked up.

    Raises:
        SourceNotFoundError, SourceUnreadableError: the file is not there, or cannot be read.
        SourceFormatError: it does not hold keys, or a variable that it names is not set.
    """
    keys = [] if path is None else [_key(each, place, environ) for place, each in enumerate(_entries(path))]
    if environ.get(VARIABLE):
        keys.append(ApiKey(name="default", secret=_checked(environ[VARIABLE], f"the variable {VARIABLE}")))
    for what, values in (("name", [key.name for key in keys]), ("secret", [key.secret for key in keys])):
        if len(set(values)) < len(values):
            raise SourceFormatError(f"two API keys have the same {what}", hint=_HINT)
    return tuple(keys)


def _entries(path: Path) -> list[Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceNotFoundError(f"there is no file of API keys at {path}") from None
    except OSError as error:
        raise SourceUnreadableError(f"the API keys in {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SourceFormatError(f"{path} is not UTF-8 text", hint=_HINT) from None
    try:
        found = yaml.safe_load(text)  # JSON is YAML
    except yaml.YAMLError as error:
        # Its own words quote the file, and with it secrets.
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise SourceFormatError(f"{path} is neither YAML nor JSON{where}", hint=_HINT) from None
    if isinstance(found, dict) and set(found) == {"keys"}:
        found = found["keys"]
    if not isinstance(found, list) or not found:
        raise SourceFormatError(f"{path} holds no list of API keys", hint=_HINT)
    return found


def _key(entry: Any, place: int, environ: Mapping[str, str]) -> ApiKey:
    where = f"API key {place + 1}"
    if not isinstance(entry, dict):
        raise SourceFormatError(f"{where} is no mapping", hint=_HINT)
    unknown = sorted(str(name) for name in set(entry) - _FIELDS)
    if unknown:
        raise SourceFormatError(f"{where} has fields that nobody knows: {', '.join(unknown)}", hint=_HINT)
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise SourceFormatError(f"{where} has no name", hint=_HINT)
    where = f"API key {name!r}"
    limits = {field: _limit(entry, field, where) for field in (*_WHOLE, "dollars_per_day")}
    return ApiKey(name=name, secret=_secret(entry, where, environ), **limits)


def _secret(entry: Mapping[str, Any], where: str, environ: Mapping[str, str]) -> str:
    variable = entry.get("secret_env")
    if (variable is None) == (entry.get("secret") is None):
        raise SourceFormatError(f"{where} needs either secret or secret_env", hint=_HINT)
    if variable is None:
        return _checked(entry["secret"], where)
    if not isinstance(variable, str) or not environ.get(variable):
        raise SourceFormatError(f"{where}: the environment variable {variable!r} is not set", hint=_HINT)
    return _checked(environ[variable], where)


def _checked(secret: Any, where: str) -> str:
    if not isinstance(secret, str):
        raise SourceFormatError(f"{where}: the secret is no string", hint="Put it in quotes.")
    if len(secret) < SHORTEST_SECRET or any(sign.isspace() for sign in secret):
        message = f"{where}: the secret must have at least {SHORTEST_SECRET} characters and no white space"
        raise SourceFormatError(message, hint="Make one with `openssl rand -hex 24`.")
    return secret


def _limit(entry: Mapping[str, Any], field: str, where: str) -> Any:
    value = entry.get(field)
    if value is None:
        return None
    kinds = (int,) if field in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        kind = "whole number" if field in _WHOLE else "number"
        raise SourceFormatError(f"{where}: {field} must be a positive {kind}, not {value!r}", hint=_HINT)
    return value
