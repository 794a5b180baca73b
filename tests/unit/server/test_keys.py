"""API keys: who is let in, with what limits, and where keys come from."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from embatch.errors import SourceFormatError, SourceNotFoundError, SourceUnreadableError
from embatch.frontends.server.auth import KeyRing, load_keys
from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.settings import ApiKey

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.serve

SECRET = "sk-0123456789abcdef"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str = SECRET) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"Bearer {secret}".encode())]


def ring(clock: Clock | None = None, **limits: Any) -> KeyRing:
    keys = [ApiKey(name="team", secret=SECRET, **limits), ApiKey(name="other", secret="sk-other-0123456789")]
    return KeyRing(keys, clock=clock or Clock())


def refused(keys: KeyRing, headers: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        keys.enter(headers)
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        [(b"authorization", b"bearer  " + SECRET.encode())],
        [(b"api-key", SECRET.encode())],
        [(b"x-api-key", SECRET.encode())],
        [(b"authorization", b"Basic " + base64.b64encode(b"anybody:" + SECRET.encode()))],
    ],
)
def test_a_key_is_known_in_every_header_that_clients_use(headers: list[tuple[bytes, bytes]]) -> None:
    """OpenAI's header, Azure's, and what a browser sends after asking for a password."""
    key = ring().identify(headers)
    assert key is not None
    assert (key.name, key.secret) == ("team", "")


def test_headers_of_the_framework_do_as_well() -> None:
    """Routes may hand over a request's headers as they have them."""
    from starlette.datastructures import Headers

    key = ring().identify(Headers({"Authorization": f"Bearer {SECRET}"}))
    assert key is not None
    assert key.name == "team"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer("sk-unknown-123456789"),
        bearer(SECRET[:-1]),
        bearer(""),
        [(b"authorization", b"Basic ****")],
        [(b"authorization", b"Digest " + SECRET.encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
    ],
)
def test_anything_else_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """401 in OpenAI's words, with a challenge, and without what was offered."""
    error = refused(ring(), headers)
    assert (error.status, error.code, error.type) == (401, "invalid_api_key", "authentication_error")
    assert error.headers["WWW-Authenticate"].startswith("Bearer")
    assert SECRET[:-1] not in str(error)


def test_a_browser_is_asked_for_a_password() -> None:
    """Whoever wants a page gets the challenge that browsers show people."""
    error = refused(ring(), [(b"accept", b"text/html,*/*")])
    assert error.headers["WWW-Authenticate"].startswith("Basic")


def test_without_keys_everybody_is_let_in() -> None:
    """An empty ring asks for nothing."""
    assert KeyRing().identify([]) is None
    assert KeyRing().enter([]) is None


def test_requests_by_the_minute_are_counted_for_each_key() -> None:
    """The one beyond the limit is told when to come back, and may then; other keys are not touched."""
    clock = Clock()
    keys = ring(clock, requests_per_minute=2)
    for _ in range(2):
        keys.enter(bearer())
    error = refused(keys, bearer())
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "requests_per_minute", "30")
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert keys.enter(bearer("sk-other-0123456789")) is not None
    clock.now = 30.0
    assert keys.enter(bearer()) is not None


def test_requests_at_once_are_bounded() -> None:
    """A request that ends makes room for the next."""
    keys = ring(parallel=1)
    first = keys.enter(bearer())
    assert first is not None
    assert refused(keys, bearer()).code == "rate_limit_exceeded"
    first.leave()
    assert keys.enter(bearer()) is not None


def test_tokens_by_the_minute_are_settled_by_what_was_computed() -> None:
    """An estimate is taken before, the difference given back after; too much is refused."""
    clock = Clock()
    keys = ring(clock, tokens_per_minute=100)
    first, second = keys.enter(bearer()), keys.enter(bearer())
    assert first is not None
    assert second is not None
    first.charge(80)
    with pytest.raises(ApiError) as caught:
        second.charge(30)
    assert (caught.value.code, caught.value.headers["Retry-After"]) == ("tokens_per_minute", "6")
    second.settle(0)
    first.settle(60)
    assert dict(first.headers())["x-ratelimit-remaining-tokens"] == "40"
    second.charge(30)


def test_a_file_gives_keys_with_limits(tmp_path: Path) -> None:
    """YAML and JSON, with secrets from the file or from the environment."""
    entries = [
        {"name": "team", "secret": SECRET, "requests_per_minute": 5, "parallel": 2, "dollars_per_day": 0.5},
        {"name": "jobs", "secret_env": "JOBS_KEY", "tokens_per_minute": 100},
    ]
    expected = (
        ApiKey(name="team", secret=SECRET, requests_per_minute=5, parallel=2, dollars_per_day=0.5),
        ApiKey(name="jobs", secret="from-the-environment", tokens_per_minute=100),
    )
    for name, content in (("k.json", entries), ("k.yaml", {"keys": entries})):
        (tmp_path / name).write_text(json.dumps(content))
        assert load_keys(tmp_path / name, {"JOBS_KEY": "from-the-environment"}) == expected
    (tmp_path / "k.yaml").write_text(f"keys:\n  - name: team\n    secret: {SECRET}\n")
    assert [key.name for key in load_keys(tmp_path / "k.yaml", {})] == ["team"]


def test_the_environment_alone_gives_one_key() -> None:
    """`EMBATCH_SERVE_KEY` is a key without limits; without it there is none."""
    assert load_keys(None, {}) == ()
    assert load_keys(None, {"EMBATCH_SERVE_KEY": SECRET}) == (ApiKey(name="default", secret=SECRET),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "neither YAML nor JSON"),
        ("a: 1", "no list"),
        ("[]", "no list"),
        ("[1]", "API key 1 is no mapping"),
        (f"[{{secret: {SECRET}}}]", "API key 1 has no name"),
        ("[{name: a}]", "'a' needs either secret or secret_env"),
        (f"[{{name: a, secret: {SECRET}, secret_env: B}}]", "either"),
        ("[{name: a, secret_env: NOT_SET}]", "NOT_SET"),
        ("[{name: a, secret: 12345678901234567}]", "no string"),
        ("[{name: a, secret: short}]", "16 characters"),
        (f"[{{name: a, secret: {SECRET}, parallel: 0}}]", "parallel must be a positive whole number"),
        (f"[{{name: a, secret: {SECRET}, parallel: 1.5}}]", "parallel"),
        (f"[{{name: a, secret: {SECRET}, dollars_per_day: true}}]", "dollars_per_day"),
        (f"[{{name: a, secret: {SECRET}, dollars_per_day: .inf}}]", "dollars_per_day"),
        (f"[{{name: a, secret: {SECRET}, rpm: 3}}]", "nobody knows: rpm"),
        (f"[{{name: a, secret: {SECRET}}}, {{name: a, secret: {SECRET}2}}]", "same name"),
        (f"[{{name: a, secret: {SECRET}}}, {{name: b, secret: {SECRET}}}]", "same secret"),
    ],
)
def test_a_file_that_is_wrong_is_named_and_not_quoted(tmp_path: Path, content: str, said: str) -> None:
    """The error says which key and which field, and never what the secret is."""
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    with pytest.raises(SourceFormatError, match=said) as caught:
        load_keys(path, {})
    assert SECRET not in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are no text."""
    with pytest.raises(SourceNotFoundError):
        load_keys(tmp_path / "none.yaml", {})
    with pytest.raises(SourceUnreadableError):
        load_keys(tmp_path, {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceFormatError, match="UTF-8"):
        load_keys(tmp_path / "bytes.yaml", {})
