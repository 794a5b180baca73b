"""Settings files: embatch's own and the plugin block in mkdocs.yml, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from embatch.errors import UsageError
from embatch.gemini import BatchingSettings, Settings, load_settings

MKDOCS = """
site_name: A blog
markdown_extensions:
  - pymdownx.emoji:
      emoji_index: !!python/name:os.getcwd
      emoji_generator: !!python/object/apply:os.system ["touch ran"]
extra:
  token: !ENV [TOKEN, none]
  home: !relative $config_dir
plugins:
  - search
  - egregora:
      model:
        embedding: models/gemini-embedding-001
      timezone: UTC
      batching:
        # Smart batching settings
        strategy: auto  # auto | batch | individual
        batch_threshold: 10  # Min items to trigger batch
        max_parallel_individual: 5  # Concurrent individual calls
        prefer_individual_for:
          - rag_query  # Single query embeddings
          - quick_enrichment  # < 5 items
"""


def write(text: str, name: str = "embatch.yaml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_block_of_the_document_is_read_from_mkdocs() -> None:
    """Strategy, threshold, parallel calls, purposes and the model; custom tags elsewhere neither harm nor run."""
    settings = load_settings(write(MKDOCS, "mkdocs.yml"))
    assert settings.batching == BatchingSettings(
        strategy="auto",
        batch_threshold=10,
        max_parallel_individual=5,
        prefer_individual_for=("rag_query", "quick_enrichment"),
    )
    assert settings.model == "models/gemini-embedding-001"
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "site_name: x\n",
        "plugins: [search]\n",
        "plugins: [egregora]\n",
        "plugins:\n  - egregora:\n",
        "plugins:\n  egregora: {}\n",
        "",
    ],
)
def test_an_mkdocs_file_without_the_block_sets_nothing(text: str) -> None:
    """Other people's configuration is no mistake."""
    settings = load_settings(write(text, "mkdocs.yml"))
    assert settings.batching == BatchingSettings()
    assert settings.defaults() == {}


def test_plugins_may_be_a_mapping() -> None:
    """MkDocs allows both forms."""
    write("plugins:\n  egregora:\n    batching: {strategy: individual}\n", "mkdocs.yml")
    assert load_settings().strategy == "individual"


def test_embatchs_own_file_has_both_blocks() -> None:
    """`lanes:` gives the command line's defaults, durations in words included."""
    write(
        "batching: {strategy: batch, batch_threshold: auto}\n"
        "lanes: {strategy: hybrid, deadline: 30m, budget: 2, hour_worth: 0.5, base_url: 'http://x',"
        " model: 'gemini:m'}\n"
    )
    settings = load_settings()
    assert (settings.batching.strategy, settings.batching.batch_threshold) == ("batch", "auto")
    assert settings.defaults() == {
        "strategy": "hybrid",
        "deadline": 1800.0,
        "budget": 2.0,
        "hour_worth": 0.5,
        "base_url": "http://x",
    }
    assert settings.model == "gemini:m"
    assert settings.file == Path("embatch.yaml")


def test_the_strategy_of_batching_is_the_default_where_lanes_say_nothing() -> None:
    """So that the flag overrides the file, and the file the default."""
    write("batching: {strategy: individual}\n")
    assert load_settings().defaults() == {"strategy": "individual"}
    write("batching: {batch_threshold: 3}\n")
    assert load_settings().defaults() == {}


def test_the_own_file_comes_before_mkdocs_and_no_file_is_fine() -> None:
    """In the working folder."""
    assert load_settings() == Settings()
    write(MKDOCS, "mkdocs.yml")
    assert load_settings().file == Path("mkdocs.yml")
    write("batching: {batch_threshold: 7}\n")
    assert BatchingSettings.load().batch_threshold == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batching: {strategy: fast}", r"'batching.strategy' must be one of auto, .*not 'fast'"),
        ("batching: {batch_threshold: 0}", r"'batching.batch_threshold' must be a whole number"),
        ("batching: {batch_threshold: yes}", r"'batching.batch_threshold' .* not True"),
        ("batching: {batch_threshold: 1.5}", r"'batching.batch_threshold' .* not 1.5"),
        ("batching: {max_parallel_individual: many}", r"max_parallel_individual' must be a whole number"),
        ("batching: {prefer_individual_for: rag_query}", r"prefer_individual_for' must be a list of names"),
        ("batching: {treshold: 5}", r"nothing is called 'batching.treshold'"),
        ("batching: [auto]", r"'batching' must hold keys and values"),
        ("lanes: {deadline: soon}", r"'lanes.deadline' must be a duration"),
        ("lanes: {deadline: -5}", r"'lanes.deadline' must be a duration"),
        ("lanes: {budget: -1}", r"'lanes.budget' must be a number of dollars"),
        ("lanes: {budget: .nan}", r"'lanes.budget' must be"),
        ("lanes: {speed: 1, colour: red}", r"nothing is called 'lanes.colour', 'lanes.speed'"),
        ("lines: {}", r"nothing is called 'lines'"),
        ("- a\n- b", r"must hold keys and values"),
        ("batching: {1: 2}", r"'batching' must hold keys and values"),
        ("batching: {strategy: !ENV STRATEGY}", r"'batching.strategy' .* a value under the tag !ENV"),
        ("batching: {strategy: !!python/name:os.sep }", r"under the tag !!python/name:os.sep"),
        ("batching: {strategy: [", r"is no YAML"),
        ("batching: &a [*a]", r"'batching' must hold"),
    ],
)
def test_mistakes_are_told_with_file_key_and_what_is_allowed(text: str, said: str) -> None:
    """Nothing is guessed and nothing is ignored."""
    with pytest.raises(UsageError, match=said) as caught:
        load_settings(write(text))
    assert "embatch.yaml" in str(caught.value)
    assert caught.value.hint


def test_mistakes_in_mkdocs_name_the_plugins_key() -> None:
    """The path of keys is the one in that file."""
    write("plugins:\n  - egregora:\n      batching: {strategy: quick}\n", "mkdocs.yml")
    with pytest.raises(UsageError, match=r"mkdocs.yml: 'plugins.egregora.batching.strategy'"):
        load_settings()


def test_a_file_that_cannot_be_read_is_named() -> None:
    """Missing, a folder, or not UTF-8."""
    for path in (Path("missing.yaml"), Path()):
        with pytest.raises(UsageError, match="cannot be read"):
            load_settings(path)
    Path("latin.yaml").write_bytes(b"batching: {strategy: \xe9}")
    with pytest.raises(UsageError, match="is no YAML"):
        load_settings("latin.yaml")
