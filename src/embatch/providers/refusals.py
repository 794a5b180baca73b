"""From a provider's refusal to a `ProviderError`: its words cleaned, its delay read, its kind told by rules.

What the providers have in common; each adapter adds the table for its own SDK. Sans I/O: the time is an argument.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from embatch.errors import EmbatchError, ProviderError
from embatch.remote import ErrorKind, LimitHints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_MOST_WORDS = 500  # characters of the provider's own words in a message
_HIDDEN = "[hidden]"
_SECRETS = re.compile(
    r"\bAIza[\w-]{16,}|\bsk-[\w*-]{6,}|\bya29\.[\w.-]+|(?<=Bearer )\S+|(?<=[?&]key=)[^&\s]+|(?<=://)[^/@\s]+(?=@)"
)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SAID_DELAY = re.compile(r"(?:try again|retry) in ((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)", re.IGNORECASE)
_LONGEST_RESET_S = 7 * 86_400.0  # more is a point in time, not a duration

HINTS = {
    ErrorKind.AUTH: "Check the key (compatible servers: EMBATCH_API_KEY), and that it may use this model from here.",
    ErrorKind.RATE_MINUTE: "Run the command again in a minute: what was paid for is kept.",
    ErrorKind.RATE_DAY: "Run the same command again tomorrow, or raise the quota: what was paid for is kept.",
    ErrorKind.QUOTA_MONEY: "Add credit or raise the spend cap at the provider, then run the same command again.",
    ErrorKind.ENQUEUED_FULL: "Wait until the provider's running jobs end, or use strategy='individual'.",
    ErrorKind.NOT_FOUND: "Check the model's name and the base URL.",
    ErrorKind.CONNECTION: "Check the network and the base URL, then run the same command again.",
}

_TRANSPORT: dict[str, ErrorKind] = {
    "TimeoutException": ErrorKind.TIMEOUT,
    "UnsupportedProtocol": ErrorKind.NOT_FOUND,  # a base URL without http://
    "InvalidURL": ErrorKind.NOT_FOUND,
    "LocalProtocolError": ErrorKind.AUTH,  # a header that cannot be sent: the key
    "DecodingError": ErrorKind.PROTOCOL,
    "TooManyRedirects": ErrorKind.PROTOCOL,
    "HTTPStatusError": ErrorKind.PROTOCOL,
    "CookieConflict": ErrorKind.PROTOCOL,
    "StreamError": ErrorKind.PROTOCOL,
    "HTTPError": ErrorKind.CONNECTION,  # the rest: network, proxy, a server that breaks off
}
# Root package -> class -> kind. httpx2 is what both SDKs use; the others stand in for it in some environments.
TABLE: dict[str, dict[str, ErrorKind]] = {
    "httpx2": _TRANSPORT,
    "httpx": _TRANSPORT,
    "aiohttp": {
        "ServerTimeoutError": ErrorKind.TIMEOUT,
        "InvalidURL": ErrorKind.NOT_FOUND,
        "ClientResponseError": ErrorKind.PROTOCOL,
        "ClientPayloadError": ErrorKind.CONNECTION,
        "ClientError": ErrorKind.CONNECTION,
    },
    "requests": {
        "Timeout": ErrorKind.TIMEOUT,
        "InvalidURL": ErrorKind.NOT_FOUND,
        "JSONDecodeError": ErrorKind.PROTOCOL,
        "RequestException": ErrorKind.CONNECTION,
    },
    "google.auth": {
        "TransportError": ErrorKind.CONNECTION,
        "TimeoutError": ErrorKind.TIMEOUT,
        "GoogleAuthError": ErrorKind.AUTH,
    },
    "pydantic": {"ValidationError": ErrorKind.PROTOCOL},
    "pydantic_core": {"ValidationError": ErrorKind.PROTOCOL},
    "json": {"JSONDecodeError": ErrorKind.PROTOCOL},
    "builtins": {
        "TimeoutError": ErrorKind.TIMEOUT,
        "OSError": ErrorKind.CONNECTION,
        "UnicodeError": ErrorKind.PROTOCOL,
    },
}

_TOO_MANY_ITEMS = re.compile(
    r"at most \d+ requests|too many inputs|array too long|array_above_max_length|maximum allowed batch size"
    r"|range is from 1 |batch size \d+ (?:exceeds|>)",
    re.IGNORECASE,
)
_TOO_MANY_TOKENS = re.compile(
    r"max(?:imum)?:? [\d,]+ tokens per request|max_tokens_per_request|payload size|request too large"
    r"|larger than the \d+ maximum|entity too large|too many tokens|input token count|maximum number of tokens",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context length|context_length_exceeded|must have less than \d+ tokens|too large to process"
    r"|string_above_max_length|string too long|input is too long",
    re.IGNORECASE,
)


def size_kind(words: str, *, items: int) -> ErrorKind | None:
    """Which limit of size a refusal is about; None if it is about none.

    Args:
        words: the provider's message and codes.
        items: texts in what was refused; of one text alone, only its own length can be too much.
    """
    if _TOO_LONG.search(words):
        return ErrorKind.INPUT_TOO_LONG
    if _TOO_MANY_TOKENS.search(words):
        return ErrorKind.TOO_MANY_TOKENS if items > 1 else ErrorKind.INPUT_TOO_LONG
    if _TOO_MANY_ITEMS.search(words):
        return ErrorKind.TOO_MANY_ITEMS if items > 1 else ErrorKind.BAD_INPUT
    return None


_STATUS = {
    401: ErrorKind.AUTH,
    402: ErrorKind.QUOTA_MONEY,
    403: ErrorKind.AUTH,
    404: ErrorKind.NOT_FOUND,
    405: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.OVERLOADED,
    425: ErrorKind.OVERLOADED,
    429: ErrorKind.RATE_MINUTE,
    499: ErrorKind.TIMEOUT,
    501: ErrorKind.NOT_FOUND,
    504: ErrorKind.TIMEOUT,
}


def status_kind(status: int | None, *, items: int) -> ErrorKind:
    """What an HTTP status means when the words beside it say nothing more."""
    if status is None:
        return ErrorKind.PROTOCOL
    if status in _STATUS:
        return _STATUS[status]
    if status == 413:
        return ErrorKind.TOO_MANY_TOKENS if items > 1 else ErrorKind.INPUT_TOO_LONG
    if 400 <= status < 500:
        return ErrorKind.BAD_INPUT
    return ErrorKind.OVERLOADED if 500 <= status < 600 else ErrorKind.PROTOCOL


def table_kind(
    error: type[BaseException], *tables: Mapping[str, Mapping[str, ErrorKind]]
) -> ErrorKind | None:
    """The kind of the class `error`, or of the nearest one above it that a table names; None if none is."""
    for cls in error.__mro__:
        module = cls.__module__
        for table in tables or (TABLE,):
            for package, kinds in table.items():
                if (module == package or module.startswith(f"{package}.")) and cls.__name__ in kinds:
                    return kinds[cls.__name__]
    return None


def duration_s(text: str) -> float | None:
    """Seconds of `20ms`, `1s`, `6m0s`, `14.04s`, or a bare number of seconds; None for anything else."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    hours, minutes, seconds, thousandths = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + thousandths / 1000


def retry_after_s(
    headers: Mapping[str, str], words: str = "", delays: Iterable[str] = (), *, now: datetime | None = None
) -> float | None:
    """The delay that a provider asked for, in seconds: the longest that it names, in headers before words.

    Args:
        headers: of the answer, with lower-case names.
        words: the message, which is read only if nothing else says a delay.
        delays: durations from the body, such as a RetryInfo's `retryDelay`.
        now: to count a date in `Retry-After` from; None takes the clock.
    """
    found = [seconds for delay in delays if (seconds := duration_s(delay)) is not None]
    if _NUMBER.fullmatch(thousandths := headers.get("retry-after-ms", "").strip()):
        found.append(float(thousandths) / 1000)
    if after := headers.get("retry-after", "").strip():
        found.extend(_after(after, now or datetime.now(UTC)))
    if not found and (match := _SAID_DELAY.search(words)):
        found = [seconds for seconds in (duration_s(match[1]),) if seconds is not None]
    return max(found, default=None)


def _after(value: str, now: datetime) -> list[float]:
    """A `Retry-After`: seconds, or an HTTP date. Nothing if it is neither."""
    if _NUMBER.fullmatch(value):
        return [float(value)]
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return []
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return [max(0.0, (date - now).total_seconds())]


def limit_hints(headers: Mapping[str, str]) -> LimitHints | None:
    """What `x-ratelimit-*` headers (names in lower case) say about quotas; None if they say nothing."""

    def count(name: str) -> int | None:
        value = headers.get(f"x-ratelimit-{name}", "").strip()
        return int(float(value)) if _NUMBER.fullmatch(value) else None

    def reset(name: str) -> float | None:
        seconds = duration_s(headers.get(f"x-ratelimit-reset-{name}", ""))
        return None if seconds is None or seconds > _LONGEST_RESET_S else seconds

    hints = LimitHints(
        requests_limit=count("limit-requests"),
        requests_remaining=count("remaining-requests"),
        requests_reset_s=reset("requests"),
        tokens_limit=count("limit-tokens"),
        tokens_remaining=count("remaining-tokens"),
        tokens_reset_s=reset("tokens"),
    )
    return None if hints == LimitHints() else hints


def clean(words: str, secrets: Iterable[str] = ()) -> str:
    """A provider's words for a message: no key or token, one line, not too long; of a web page only its name."""
    for secret in secrets:
        if secret:
            words = words.replace(secret, _HIDDEN)
    words = " ".join(_SECRETS.sub(_HIDDEN, words).split())
    if words[:1] == "<":
        title = re.search(r"<title>(.*?)</title>", words, re.IGNORECASE)
        words = f"a web page: {title[1]}" if title else "a web page"
    return words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS - 1] + "…"


def tells(error: BaseException, secrets: Iterable[str]) -> bool:
    """Whether an exception's own text would give a key away, so that it must not be chained to ours."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 16:
        texts.append(f"{cause} {cause!r}")
        cause = cause.__cause__ or cause.__context__
    return any(secret and secret in text for secret in secrets for text in texts)


@contextmanager
def in_our_words(mapped: Callable[[Exception], ProviderError], secrets: Iterable[str] = ()) -> Iterator[None]:
    """Whatever a foreign library raises within comes out as `mapped` says; what is ours already passes.

    Everything is caught: an SDK also raises what is no error of the API, such as ValueError for an empty answer.
    """
    try:
        yield
    except EmbatchError:
        raise
    except Exception as error:  # noqa: BLE001  # see the docstring
        raise mapped(error) from (None if tells(error, secrets) else error)


def refusal(
    who: str,
    words: str,
    *,
    kind: ErrorKind,
    code: str | None = None,
    retry_after_s: float | None = None,
    secrets: Iterable[str] = (),
) -> ProviderError:
    """The error that embatch raises or hands out in an item's place.

    Args:
        who: the provider and what it was asked, such as `gemini: calling gemini-embedding-001`.
        words: what the provider said; cleaned here.
        kind: what it means.
        code: the provider's own code.
        retry_after_s: the delay that it asked for.
        secrets: what must not be told.
    """
    said = clean(words, secrets) or kind.value.replace("_", " ")
    shown = f" ({code})" if code else ""
    return ProviderError(
        f"{who}{shown}: {said}", kind=kind, retry_after_s=retry_after_s, code=code, hint=HINTS.get(kind)
    )
