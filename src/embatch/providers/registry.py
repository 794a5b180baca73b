"""From a name such as `gemini:gemini-embedding-001` to an open provider: the one place that knows all of them.

SDKs are imported when a provider is opened, so that choosing costs nothing. Keys come from an argument, the SDK's own
environment variables or a client that the user brings, and go to the provider only.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embatch.errors import MissingExtraError, ProviderError, UsageError
from embatch.providers.facts import facts_for, is_known
from embatch.providers.refusals import clean
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.providers.facts import Variant
    from embatch.remote import ModelFacts, Provider

__all__ = ["PROVIDERS", "facts_for", "is_remote", "open_provider"]

PROVIDERS = ("gemini", "openai", "compatible")

_KEYS = {
    "gemini": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),  # in the SDK's own order
    "openai": ("OPENAI_API_KEY",),
    "compatible": ("EMBATCH_API_KEY",),
}
_URLS = {
    "gemini": "GOOGLE_GEMINI_BASE_URL",
    "openai": "OPENAI_BASE_URL",
    "compatible": "OPENAI_BASE_URL",
}
_EXTRAS = {"gemini": ("google.genai", "gemini"), "openai": ("openai", "openai")}
_EXTRAS["compatible"] = _EXTRAS["openai"]
_NO_KEY = "none"  # the SDK insists on one
_log = logging.getLogger("embatch")


def is_remote(model: str) -> bool:
    """Whether a name is that of a provider's model: `gemini:NAME`, `openai:NAME` or `compatible:NAME`."""
    provider, colon, name = model.partition(":")
    return bool(colon and name) and provider in PROVIDERS


def open_provider(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    client: object | None = None,
    facts_file: Path | None = None,
    tier: str | None = None,
) -> Provider:
    """Open a provider's model. Whoever opens it closes it; a client that was brought stays open.

    Args:
        model: `gemini:NAME`, `openai:NAME` or `compatible:NAME`. A name that is not known is tried all the same, with
            the provider's default facts.
        base_url: where the API is; None takes the SDK's own environment variables, then the provider itself.
        api_key: None takes GOOGLE_API_KEY or GEMINI_API_KEY, OPENAI_API_KEY, or EMBATCH_API_KEY for a compatible
            server, which needs none. OPENAI_API_KEY goes to a compatible server only if OPENAI_BASE_URL names it.
        client: a `google.genai.Client` (also of Vertex AI), `openai.OpenAI` or `openai.AzureOpenAI`, used as it is but
            for its retries, which embatch makes itself.
        facts_file: facts that override the shipped ones; see `facts.toml`.
        tier: of the account at the provider, which decides its quotas.

    Raises:
        UsageError: no such provider, or choices that do not go together.
        MissingExtraError: the provider's SDK is not installed.
        ProviderError: AUTH, when there is no key.
    """
    if not is_remote(model):
        raise UsageError(
            f"{model!r} names no provider's model",
            hint=f"Write one of {', '.join(PROVIDERS)}, a colon, and its name.",
        )
    if client is not None and (base_url is not None or api_key is not None):
        raise UsageError("a client brings its own base URL and key: give either it or them")
    for argument, given in (("base_url", base_url), ("api_key", api_key)):
        if given is not None and not isinstance(given, str):
            raise UsageError(f"{argument} must be a str, not {type(given).__name__}")
    name = model.partition(":")[0]
    if base_url is not None:
        _check_url("the base URL", base_url)
    elif client is None and (url := os.environ.get(_URLS[name])):
        _check_url(_URLS[name], url)
    facts = facts_for(model, facts_file=facts_file, tier=tier, variant=_variant(client))
    if name != "compatible" and not is_known(model, facts_file=facts_file):
        _log.warning(
            "%s is not among the models that embatch knows: its limits are guessed, its price is not known. "
            "Check the name, or describe the model in a file of facts.",
            model,
        )
    _sdk(name)
    if name == "gemini":
        return _gemini(facts, base_url, api_key, client)
    return _openai(name, facts, base_url, api_key, client)


def _gemini(facts: ModelFacts, base_url: str | None, api_key: str | None, client: Any) -> Provider:
    from google import genai
    from google.genai import types

    from embatch.providers.gemini.provider import GeminiProvider

    owned = client is None
    if owned:
        key = _key("gemini", api_key)
        client = genai.Client(
            api_key=key,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=base_url, retry_options=types.HttpRetryOptions(attempts=1)
            ),
        )
    elif not isinstance(client, genai.Client):
        raise UsageError(f"a client for gemini must be a google.genai.Client, not {type(client).__name__}")
    api = client._api_client  # noqa: SLF001  # the client tells its address and key in no public way
    where = str(api._http_options.base_url)  # noqa: SLF001  # as above
    key = str(getattr(api, "api_key", None) or "")
    project = f"{getattr(api, 'project', None)}/{getattr(api, 'location', None)}" if client.vertexai else ""
    return GeminiProvider(
        client, facts, account=_account(where, project, key), secrets=_secrets(key), owned=owned
    )


def _openai(name: str, facts: ModelFacts, base_url: str | None, api_key: str | None, client: Any) -> Provider:
    import openai

    from embatch.providers.openai.provider import OpenAIProvider

    owned = client is None
    if owned:
        client = _openai_client(openai, name, base_url, api_key)
    elif not isinstance(client, openai.OpenAI):
        raise UsageError(f"a client for {name} must be an openai.OpenAI, not {type(client).__name__}")
    key = str(client.api_key or "")
    # The SDK lets a request go without a key only if that is said with each one.
    keyless = {"Authorization": openai.Omit()} if owned and key == _NO_KEY else None
    project = f"{client.organization or ''}/{client.project or ''}"
    account = _account(str(client.base_url), project.strip("/"), key)
    return OpenAIProvider(client, facts, account=account, secrets=_secrets(key), owned=owned, headers=keyless)


def _openai_client(openai: Any, name: str, base_url: str | None, api_key: str | None) -> Any:
    if name == "openai":
        return openai.OpenAI(api_key=_key(name, api_key), base_url=base_url, max_retries=0)
    from_environment = os.environ.get("OPENAI_BASE_URL")
    where = base_url or from_environment
    if not where:
        raise UsageError(
            "a compatible server needs its base URL, such as http://localhost:8000/v1",
            hint="Pass base_url (--base-url), or set OPENAI_BASE_URL.",
        )
    key = api_key or os.environ.get("EMBATCH_API_KEY")
    if not key and not base_url:
        key = os.environ.get("OPENAI_API_KEY")
    # What belongs to an account at OpenAI must not reach another server.
    headers = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
    if key:
        _check_key(name, key)
    return openai.OpenAI(api_key=key or _NO_KEY, base_url=where, max_retries=0, default_headers=headers)


def _key(name: str, api_key: str | None) -> str:
    variables = _KEYS[name]
    key = (api_key or next((os.environ[v] for v in variables if os.environ.get(v)), "")).strip()
    if not key:
        raise ProviderError(
            f"{name}: no API key",
            kind=ErrorKind.AUTH,
            hint=f"Set {' or '.join(reversed(variables))}, pass api_key, or bring a configured client.",
        )
    _check_key(name, key)
    return key


def _check_key(name: str, key: str) -> None:
    """Refuse what no header can carry, before a library says so with the key in its message."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ProviderError(
            f"{name}: the API key has characters that no key has, such as spaces or line breaks",
            kind=ErrorKind.AUTH,
            hint="Copy it again.",
        )


def _check_url(what: str, url: str) -> None:
    """Refuse what is no address of a server, before anything waits for one."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        good = False
    if not good or not url.isprintable() or " " in url:
        raise UsageError(
            f"{what} is no address of a server: {clean(url)!r}",
            hint="It begins with http:// or https:// and a host, such as http://localhost:8000/v1.",
        )


def _sdk(name: str) -> None:
    module, extra = _EXTRAS[name]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs the library {module}, which is not installed",
            hint=f'Install it: pip install "embatch[{extra}]"',
        ) from error


def _variant(client: Any) -> Variant:
    if client is None:
        return ""
    if getattr(client, "vertexai", False):
        return "vertex"
    return "azure" if type(client).__name__.startswith("Azure") else ""


def _account(*parts: str) -> str:
    """8 hex digits for what shares a quota; of a key, nothing can be read from them."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _secrets(key: str) -> tuple[str, ...]:
    return (key,) if len(key) > 4 and key != _NO_KEY else ()
