"""Opening a provider by its name: keys, base URLs, clients, and what is missing."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

from embatch.errors import MissingExtraError, ProviderError, UsageError
from embatch.providers.registry import is_remote, open_provider
from embatch.remote import ErrorKind, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "topsecret-0123456789"
VARIABLES = (
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_GENAI_USE_VERTEXAI",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "EMBATCH_API_KEY",
    "EMBATCH_PROVIDER_FACTS",
)
MODELS = {
    "gemini": "gemini:gemini-embedding-001",
    "openai": "openai:text-embedding-3-small",
    "compatible": "compatible:bge-m3",
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def opened() -> Any:
    """`opened(model, …)` opens a provider that is closed after the test."""
    pytest.importorskip("openai")
    pytest.importorskip("google.genai")
    made: list[Provider] = []

    def make(model: str, **arguments: Any) -> Provider:
        made.append(open_provider(model, **arguments))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


@pytest.mark.parametrize(
    ("model", "remote"),
    [
        ("gemini:gemini-embedding-001", True),
        ("openai:x", True),
        ("compatible:BAAI/bge-m3", True),
        ("openai:", False),
        ("minilm", False),
        ("sentence-transformers/all-MiniLM-L6-v2", False),
        ("C:/models/gemini", False),
        ("mistral:x", False),
    ],
)
def test_names_of_providers_models(model: str, remote: bool) -> None:
    """A provider, a colon and a name; a path or an alias is none."""
    assert is_remote(model) is remote


def test_other_names_are_refused() -> None:
    """The way to write it is in the hint."""
    with pytest.raises(UsageError) as error:
        open_provider("minilm")
    assert "compatible" in error.value.hint


@pytest.mark.parametrize(
    ("model", "module", "extra"),
    [
        (MODELS["gemini"], "google.genai", "embatch[gemini]"),
        (MODELS["openai"], "openai", "embatch[openai]"),
        (MODELS["compatible"], "openai", "embatch[openai]"),
    ],
)
def test_a_missing_sdk_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: str, module: str, extra: str
) -> None:
    """The command that installs the extra is in the hint."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as error:
        open_provider(model, base_url="http://127.0.0.1:1/v1", api_key=KEY)
    assert f'pip install "{extra}"' in error.value.hint


@pytest.mark.remote
@pytest.mark.parametrize(("name", "variable"), [("gemini", "GEMINI_API_KEY"), ("openai", "OPENAI_API_KEY")])
def test_without_a_key_nothing_opens(opened: Callable[..., Provider], name: str, variable: str) -> None:
    """The error comes when opening, and names the variable to set."""
    with pytest.raises(ProviderError) as error:
        opened(MODELS[name])
    assert error.value.kind is ErrorKind.AUTH
    assert variable in error.value.hint


@pytest.mark.remote
@pytest.mark.parametrize(
    ("name", "variable"),
    [("gemini", "GEMINI_API_KEY"), ("gemini", "GOOGLE_API_KEY"), ("openai", "OPENAI_API_KEY")],
)
def test_keys_from_the_environment(
    opened: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    """The SDK's own variables are read; the same key given as an argument is the same account."""
    monkeypatch.setenv(variable, KEY)
    provider = opened(MODELS[name])
    assert isinstance(provider, Provider)
    assert provider.name == name
    assert provider.account == opened(MODELS[name], api_key=KEY).account


@pytest.mark.remote
@pytest.mark.parametrize("key", ["with space", "line\nbreak", "schlüssel", "tab\there"])
@pytest.mark.parametrize("name", list(MODELS))
def test_keys_that_no_header_can_carry_are_refused(
    opened: Callable[..., Provider], name: str, key: str
) -> None:
    """Before a library fails on it with the key in its message."""
    with pytest.raises(ProviderError) as error:
        opened(MODELS[name], api_key=key, base_url="http://127.0.0.1:1/v1")
    assert error.value.kind is ErrorKind.AUTH
    assert key not in str(error.value)


@pytest.mark.remote
@pytest.mark.parametrize("name", list(MODELS))
def test_accounts_tell_keys_and_addresses_apart_and_no_key(
    opened: Callable[..., Provider], name: str
) -> None:
    """8 hex digits: the same for the same base URL and key, others for others; the key shows nowhere."""
    here, there = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
    one = opened(MODELS[name], api_key=KEY, base_url=here)
    same = opened(MODELS[name], api_key=KEY, base_url=here)
    other_key = opened(MODELS[name], api_key=KEY + "x", base_url=here)
    other_place = opened(MODELS[name], api_key=KEY, base_url=there)
    assert one.account == same.account
    assert len({one.account, other_key.account, other_place.account}) == 3
    assert len(one.account) == 8
    assert int(one.account, 16) >= 0
    assert KEY not in repr(one) + str(one) + repr(one.facts) + one.account


@pytest.mark.remote
def test_base_urls_from_the_environment(
    opened: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's variable counts where no argument is given, and the argument before it."""
    here, there = "http://127.0.0.1:1", "http://127.0.0.1:2"
    for name, variable in (("gemini", "GOOGLE_GEMINI_BASE_URL"), ("openai", "OPENAI_BASE_URL")):
        given = opened(MODELS[name], api_key=KEY, base_url=here).account
        monkeypatch.setenv(variable, here)
        assert opened(MODELS[name], api_key=KEY).account == given
        assert opened(MODELS[name], api_key=KEY, base_url=there).account != given


@pytest.mark.remote
def test_a_compatible_server_needs_an_address_and_no_key(opened: Callable[..., Provider]) -> None:
    """Without a base URL there is nowhere to go; without a key there is."""
    with pytest.raises(UsageError, match="base URL"):
        opened(MODELS["compatible"])
    assert opened(MODELS["compatible"], base_url="http://127.0.0.1:1/v1").facts.job is None


@pytest.mark.remote
def test_an_unknown_model_opens_with_a_warning(
    opened: Callable[..., Provider], caplog: pytest.LogCaptureFixture
) -> None:
    """It may be new: its limits are guessed, and a line says so."""
    with caplog.at_level(logging.WARNING, "embatch"):
        provider = opened("openai:text-embedding-9", api_key=KEY)
    assert provider.facts.dimensions == 0
    assert "text-embedding-9" in caplog.text
    caplog.clear()
    opened("compatible:whatever", base_url="http://127.0.0.1:1/v1")
    assert not caplog.text


@pytest.mark.remote
def test_a_client_brings_its_own_address_and_key(opened: Callable[..., Provider]) -> None:
    """Both at once is refused, and so is a client of another provider."""
    import openai

    with openai.OpenAI(api_key=KEY) as client:
        with pytest.raises(UsageError, match="brings its own"):
            opened(MODELS["openai"], client=client, api_key="x")
        with pytest.raises(UsageError, match="Client"):
            opened(MODELS["gemini"], client=client)
        with pytest.raises(UsageError, match="OpenAI"):
            opened(MODELS["openai"], client=object())
        provider = opened(MODELS["openai"], client=client)
        provider.close()
        assert not client.is_closed()


@pytest.mark.remote
def test_azure_has_no_embedding_jobs_and_quotas_of_its_own(opened: Callable[..., Provider]) -> None:
    """A deployment's limits are not OpenAI's."""
    import openai

    with openai.AzureOpenAI(
        api_key=KEY, azure_endpoint="http://127.0.0.1:1", api_version="2024-10-21"
    ) as client:
        facts = opened(MODELS["openai"], client=client).facts
    assert facts.job is None
    assert facts.rates.requests is None


@pytest.mark.remote
def test_vertex_has_no_embedding_jobs(opened: Callable[..., Provider]) -> None:
    """A client of Vertex AI makes calls of up to 250 texts; jobs are refused with the way out."""
    from google import genai

    client = genai.Client(vertexai=True, api_key=KEY)
    provider = opened(MODELS["gemini"], client=client)
    assert (provider.facts.job, provider.facts.call.items) == (None, 250)
    with pytest.raises(ProviderError) as error:
        provider.find("tag")
    assert "individual" in error.value.hint
    client.close()
