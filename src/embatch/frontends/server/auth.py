"""Who asks, and how much they may: API keys with limits of their own.

The ring keeps digests, never the keys. A request enters with its headers, is refused with 401 or 429, or gets a pass
that it gives back when it has ended. Reading keys from files is `key_file`'s matter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import secrets
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.key_file import load_keys
from embatch.frontends.server.limits import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from embatch.frontends.server.settings import ApiKey

    RawHeaders = Iterable[tuple[bytes, bytes]]

__all__ = ["KeyRing", "Pass", "load_keys"]

_NAMES = (b"authorization", b"api-key", b"x-api-key")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="embatch"'}
_BROWSER_CHALLENGE = {"WWW-Authenticate": 'Basic realm="embatch: any user name, the API key as password"'}


class KeyRing:
    """The keys of a server. Without any, everybody may ask for everything. Belongs to one event loop.

    Args:
        keys: who may ask.
        clock: seconds; monotonic.
    """

    def __init__(self, keys: Iterable[ApiKey] = (), *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # Looking up a digest takes no time that tells of keys: with a salt that nobody knows, what is offered and its
        # digest have nothing to do with each other.
        self._salt = secrets.token_bytes(32)
        now = clock()
        self._keys = {
            self._digest(key.secret.encode()): (replace(key, secret=""), Allowance(key, now)) for key in keys
        }

    def __len__(self) -> int:
        return len(self._keys)

    def identify(self, headers: Mapping[str, str] | RawHeaders) -> ApiKey | None:
        """Whose key a request bears; None where none is needed. Counts nothing.

        Args:
            headers: the request's: starlette's, or ASGI's pairs of bytes.

        Raises:
            ApiError: 401, there is no key, or it is not known.
        """
        if not self._keys:
            return None
        raw: RawHeaders = getattr(headers, "raw", headers)  # type: ignore[arg-type]  # a mapping has `raw`
        return self._find(raw)[0]

    def enter(self, headers: RawHeaders) -> Pass | None:
        """Let a request in and count it; None where no key is needed. Whoever gets a pass leaves with it.

        Raises:
            ApiError: 401, there is no key, or it is not known; 429, it has no requests left.
        """
        if not self._keys:
            return None
        key, allowance = self._find(headers)
        now = self._clock()
        if allowance.parallel is not None and allowance.under_way >= allowance.parallel:
            message = f"{allowance.parallel} requests of key {key.name!r} are under way, and no more may be"
            raise _too_many(message, 1.0, allowance, now)
        requests = allowance.requests
        if requests is not None:
            wait_s = requests.wait_s(1, now)
            if wait_s:
                message = f"key {key.name!r} may ask {key.requests_per_minute} times a minute"
                raise _too_many(message, wait_s, allowance, now, code="requests_per_minute")
            requests.take(1, now)
        allowance.under_way += 1
        return Pass(key, allowance, self._clock)

    def _find(self, headers: RawHeaders) -> tuple[ApiKey, Allowance]:
        given = {name: value for name, value in headers if name in _NAMES}
        offered = _offered(given)
        if offered is None:
            raise _not_known("No API key was given. Send it as 'Authorization: Bearer KEY'.", headers)
        found = self._keys.get(self._digest(offered))
        if found is None:
            raise _not_known("The API key is not known here.", headers)
        return found

    def _digest(self, secret: bytes) -> bytes:
        return hmac.digest(self._salt, secret, hashlib.sha256)


class Pass:
    """A request of a key that is under way."""

    __slots__ = ("_allowance", "_charged", "_clock", "key")

    def __init__(self, key: ApiKey, allowance: Allowance, clock: Callable[[], float]) -> None:
        self.key = key
        self._allowance = allowance
        self._clock = clock
        self._charged = 0

    def charge(self, tokens: int) -> None:
        """Take so many tokens from the key's minute: an estimate before the work.

        Raises:
            ApiError: 429, there are not so many left.
        """
        bucket = self._allowance.tokens
        if bucket is None:
            return
        now = self._clock()
        wait_s = bucket.wait_s(tokens, now)
        if wait_s:
            message = f"key {self.key.name!r} may have {self.key.tokens_per_minute} tokens computed a minute"
            raise _too_many(message, wait_s, self._allowance, now, code="tokens_per_minute")
        bucket.take(tokens, now)
        self._charged += tokens

    def settle(self, tokens: int) -> None:
        """What it really took; 0 for a request that came to nothing."""
        if self._allowance.tokens is not None:
            self._allowance.tokens.take(tokens - self._charged, self._clock())
            self._charged = tokens

    def headers(self) -> list[tuple[str, str]]:
        """What is left, in `x-ratelimit-…` headers; empty without limits by the minute."""
        return self._allowance.headers(self._clock())

    def leave(self) -> None:
        """The request has ended, however it did."""
        self._allowance.under_way -= 1


def _offered(given: Mapping[bytes, bytes]) -> bytes | None:
    """The secret in a request's headers; None if there is none."""
    scheme, _, value = given.get(b"authorization", b"").partition(b" ")
    value = value.strip()
    if value and scheme.lower() == b"bearer":
        return value
    if value and scheme.lower() == b"basic":  # what a browser asks people for
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2] or None
        except binascii.Error:
            return None
    return given.get(b"api-key") or given.get(b"x-api-key") or None


def _not_known(message: str, headers: RawHeaders) -> ApiError:
    browser = any(name == b"accept" and b"text/html" in value for name, value in headers)
    return ApiError(
        401,
        message,
        type="authentication_error",
        code="invalid_api_key",
        headers=_BROWSER_CHALLENGE if browser else _CHALLENGE,
    )


def _too_many(
    message: str, wait_s: float, allowance: Allowance, now: float, *, code: str = "rate_limit_exceeded"
) -> ApiError:
    shown = max(1, math.ceil(wait_s))
    return ApiError(
        429,
        f"Rate limit reached: {message}. Ask again in {shown} s.",
        type="rate_limit_error",
        code=code,
        headers={"Retry-After": str(shown), **dict(allowance.headers(now))},
    )
