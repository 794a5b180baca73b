"""Reading the tokeniser of a model folder into a `tokenizers.Tokenizer`, set up as sentence-transformers would.

`tokenizing` uses the result; this file knows where folders keep tokenisers and which options override what is in
them. Stored padding and truncation are dropped: limits come from the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from embatch.errors import CorruptModelError, UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.backends.jsonfile import JsonFile
    from embatch.backends.layout import Layout

_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "spm.model")
_WORDPIECE_MODELS = frozenset({"bert", "distilbert"})
# Their options in tokenizer_config.json win over what tokenizer.json holds.
_BERT_CLASSES = frozenset({"Bert", "DistilBert", "MPNet", "Electra"})


def load_tokenizer(layout: Layout) -> Tokenizer:
    """The tokeniser of `layout`, without padding and truncation.

    Raises:
        CorruptModelError: no tokeniser, or a broken one.
        UnsupportedModelError: only a sentencepiece model, or other files that need transformers.
    """
    folder = layout.transformer
    if (folder / "tokenizer.json").is_file():
        tokenizer = _read(folder / "tokenizer.json")
        _override(tokenizer, layout.tokenizer_config)
    elif (folder / "vocab.txt").is_file() and layout.model_type in _WORDPIECE_MODELS:
        tokenizer = _from_vocabulary(folder / "vocab.txt", layout.tokenizer_config)
    else:
        raise _no_tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if layout.lower_case:
        _lower(tokenizer)
    return tokenizer


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModelError(f"{path} is no readable tokeniser: {error}") from error


def _override(tokenizer: Tokenizer, options: JsonFile) -> None:
    """Let the options of BERT's kin win over the stored normaliser, as transformers does."""
    normalizer = tokenizer.normalizer
    kind = options.text("tokenizer_class", "").removesuffix("Fast").removesuffix("Tokenizer")
    if kind not in _BERT_CLASSES or not isinstance(normalizer, normalizers.BertNormalizer):
        return
    normalizer.lowercase = options.flag("do_lower_case", default=normalizer.lowercase)
    normalizer.handle_chinese_chars = options.flag(
        "tokenize_chinese_chars", default=normalizer.handle_chinese_chars
    )
    if options.has("strip_accents"):
        normalizer.strip_accents = options.flag("strip_accents", default=True)
    tokenizer.normalizer = normalizer


def _from_vocabulary(path: Path, options: JsonFile) -> Tokenizer:
    """A BERT tokeniser from its word pieces, one a line."""
    unknown, first, last = (_token(options, f"{name}_token", name) for name in ("unk", "cls", "sep"))
    try:
        tokenizer = Tokenizer(models.WordPiece.from_file(str(path), unk_token=unknown))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModelError(f"{path} is no readable vocabulary: {error}") from error
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (unknown, first, last) if token not in vocabulary]
    if missing:
        raise CorruptModelError(f"{path} lacks the tokens {', '.join(missing)}")
    special = [unknown, first, last, *(_token(options, f"{name}_token", name) for name in ("pad", "mask"))]
    tokenizer.add_special_tokens([token for token in special if token in vocabulary])
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=options.flag("tokenize_chinese_chars", default=True),
        strip_accents=options.flag("strip_accents", default=True) if options.has("strip_accents") else None,
        lowercase=options.flag("do_lower_case", default=True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((last, vocabulary[last]), (first, vocabulary[first]))
    return tokenizer


def _token(options: JsonFile, key: str, name: str) -> str:
    """A special token, which configurations hold as a string or as an object with its content."""
    value = options.fields.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else f"[{name.upper()}]"


def _lower(tokenizer: Tokenizer) -> None:
    """Lower-case before the tokeniser's own normaliser, unless that does it already."""
    own = tokenizer.normalizer
    if isinstance(own, normalizers.Lowercase) or (
        isinstance(own, normalizers.BertNormalizer) and own.lowercase
    ):
        return
    steps = [normalizers.Lowercase()] if own is None else [normalizers.Lowercase(), own]
    tokenizer.normalizer = normalizers.Sequence(steps)


def _no_tokenizer(folder: Path) -> CorruptModelError | UnsupportedModelError:
    found = [name for name in (*_SENTENCEPIECE, "vocab.json", "vocab.txt") if (folder / name).is_file()]
    if found:
        return UnsupportedModelError(
            f"{folder} has its tokeniser only as {found[0]}; the openvino backend reads tokenizer.json"
        )
    return CorruptModelError(f"{folder} has no tokenizer.json")
