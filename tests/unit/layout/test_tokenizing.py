"""Token ids as sentence-transformers would have them, cut early and split exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embatch.backends.layout import read_layout
from embatch.backends.tokenizing import TextTokenizer
from embatch.errors import CorruptModelError, UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeFolder = Callable[..., Path]

MAX_TOKENS = 20
SIDES = ["right", "left"]
WORDS = [
    "the",
    "boundary",
    "layer",
    "flow",
    "qqq",
    "The",
    "東京",
    "ß",
    "é",
    ",",
    ".",
    "[SEP]",
    "</s>",
    "x" * 130,
    "🙂",
]
BLANKS = [" ", "  ", "\n", "\n\n", "\t", "", "\u00a0", "\u3000", "\x1c"]
TEXTS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(BLANKS)), max_size=120).map(
    lambda parts: "".join(word + blank for word, blank in parts)
)
MANY = st.builds(
    lambda texts, copies: texts * copies, st.lists(TEXTS, max_size=4), st.sampled_from([1, 1, 40])
)
"""Few texts stay in the thread that tokenises them, many are shared among threads."""
SHARED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def open_tokenizer(
    model_folder: MakeFolder, tokenizer: str, side: str = "right", changes: dict[str, Any] | None = None
) -> TextTokenizer:
    """A tokeniser with a limit of 20 tokens."""
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"truncation_side": side, "model_max_length": MAX_TOKENS},
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS},
        **(changes or {}),
    }
    return TextTokenizer(read_layout(model_folder(files)))


def plain(tokenizer: str, side: str = "right") -> Tokenizer:
    """The same through the library alone, which tokenises all of a text and then cuts."""
    plain_tokenizer = Tokenizer.from_str(tokenizer)
    plain_tokenizer.no_padding()
    plain_tokenizer.enable_truncation(MAX_TOKENS, direction=side)
    return plain_tokenizer


@pytest.mark.parametrize("side", SIDES)
@SHARED
@given(texts=MANY, prompt=st.sampled_from(["", "query: ", "the flow " * 2]))
def test_ids_are_those_of_the_whole_text(
    model_folder: MakeFolder, tokenizer_json: str, side: str, texts: list[str], prompt: str
) -> None:
    """However early a text is cut, its ids, length and flag are those of tokenising all of it."""
    ours = open_tokenizer(model_folder, tokenizer_json, side).tokenize(texts, prompt=prompt)
    theirs = plain(tokenizer_json, side).encode_batch([prompt + text for text in texts])
    assert [payload.tolist() for payload in _arrays(ours.payloads)] == [encoding.ids for encoding in theirs]
    assert ours.lengths.tolist() == [len(encoding) for encoding in theirs]
    assert ours.truncated.tolist() == [bool(encoding.overflowing) for encoding in theirs]
    assert all(payload.dtype == np.int32 for payload in _arrays(ours.payloads))


@SHARED
@given(text=TEXTS, prompt=st.sampled_from(["", "query: "]))
def test_pieces_join_to_the_text_and_fit(
    model_folder: MakeFolder, tokenizer_json: str, text: str, prompt: str
) -> None:
    """Pieces are consecutive and complete, and each is within the limit with the prompt."""
    tokenizer = open_tokenizer(model_folder, tokenizer_json)
    pieces = tokenizer.split(text, prompt=prompt)
    assert "".join(pieces) == text
    assert tokenizer.count(pieces, prompt=prompt).max(initial=0) <= MAX_TOKENS
    assert not tokenizer.tokenize(pieces, prompt=prompt).truncated.any()


@SHARED
@given(texts=MANY)
def test_counts_are_of_the_whole_text(
    model_folder: MakeFolder, tokenizer_json: str, texts: list[str]
) -> None:
    """`count` says what a text has in full, special tokens included."""
    whole = Tokenizer.from_str(tokenizer_json)
    whole.no_padding()
    whole.no_truncation()
    counts = open_tokenizer(model_folder, tokenizer_json).count(texts)
    assert counts.tolist() == [len(encoding) for encoding in whole.encode_batch(texts)]
    assert counts.dtype == np.int32


GIANTS = {
    "words": "the boundary layer " * 20_000,
    "one word": "a" * 300_000,
    "few words far apart": "the" + " " * 300_000 + "flow",
    "no blanks": "東京" * 150_000,
    "long words": ("x" * 400 + " ") * 800,
    "nothing that counts": "the" + "\0" * 300_000 + " flow",
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", GIANTS)
def test_giant_texts_are_cut_exactly(
    model_folder: MakeFolder, wordpiece_json: str, kind: str, side: str
) -> None:
    """A giant gives the ids of the whole text, wherever its tokens lie."""
    text = GIANTS[kind]
    ours = open_tokenizer(model_folder, wordpiece_json, side).tokenize([text, "flow"])
    theirs = plain(wordpiece_json, side).encode(text)
    assert _arrays(ours.payloads)[0].tolist() == theirs.ids
    assert ours.truncated.tolist() == [bool(theirs.overflowing), False]


@pytest.mark.parametrize("kind", ["words", "long words", "one word", "no blanks"])
def test_giant_texts_are_split_and_counted(model_folder: MakeFolder, wordpiece_json: str, kind: str) -> None:
    """A giant in pieces: consecutive, complete, within the limit; and the count is that of the whole."""
    text = GIANTS[kind][:200_000]
    tokenizer = open_tokenizer(model_folder, wordpiece_json)
    pieces = tokenizer.split(text)
    assert "".join(pieces) == text
    assert tokenizer.count(pieces).max() <= MAX_TOKENS
    whole = Tokenizer.from_str(wordpiece_json)
    whole.no_padding()
    whole.no_truncation()
    assert tokenizer.count([text]).tolist() == [len(whole.encode(text))]


def test_pieces_end_between_words(model_folder: MakeFolder, wordpiece_json: str) -> None:
    """Where words are short, no piece starts or ends inside one."""
    text = "the boundary layer flow, " * 30
    pieces = open_tokenizer(model_folder, wordpiece_json).split(text)
    assert len(pieces) > 5
    assert all(piece[-1] == " " and piece[0] != " " for piece in pieces)


def test_nothing_gives_nothing(model_folder: MakeFolder, wordpiece_json: str) -> None:
    """No texts: no payloads; a text without tokens: its special tokens alone."""
    tokenizer = open_tokenizer(model_folder, wordpiece_json)
    nothing = tokenizer.tokenize([])
    assert (len(nothing.payloads), nothing.lengths.shape, nothing.truncated.shape) == (0, (0,), (0,))
    assert tokenizer.tokenize(["\u200b"]).lengths.tolist() == [2]
    assert tokenizer.count([]).shape == (0,)
    assert tokenizer.split("") == []


def test_a_prompt_that_fills_the_limit_is_refused(model_folder: MakeFolder, wordpiece_json: str) -> None:
    """Splitting needs room beside the prompt, and says so."""
    with pytest.raises(UsageError, match="prompt alone has 22 tokens; the model takes 20"):
        open_tokenizer(model_folder, wordpiece_json).split("the flow", prompt="the " * 20)


def test_lower_casing_comes_first_where_the_folder_says_so(
    model_folder: MakeFolder, bytelevel_json: str
) -> None:
    """`do_lower_case` of sentence-transformers is applied before the tokeniser's own rules."""
    options = {"sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": True}}
    tokenizer = open_tokenizer(model_folder, bytelevel_json, changes=options)
    assert tokenizer.count(["The FLOW"]) == tokenizer.count(["the flow"])
    cased = open_tokenizer(model_folder, bytelevel_json)
    assert cased.count(["The FLOW"]) != cased.count(["the flow"])


def test_options_of_bert_win_over_the_stored_normaliser(
    model_folder: MakeFolder, wordpiece_json: str
) -> None:
    """As transformers does: tokenizer_config.json decides about case where the class is BERT's."""
    options = {"do_lower_case": False, "strip_accents": False, "tokenizer_class": "BertTokenizer"}
    cased = open_tokenizer(model_folder, wordpiece_json, changes={"tokenizer_config.json": options})
    ids = _arrays(cased.tokenize(["The flow"]).payloads)[0]
    assert ids[1] == 1  # unknown: there are no capitals in the vocabulary
    options["tokenizer_class"] = "PreTrainedTokenizerFast"
    lower = open_tokenizer(model_folder, wordpiece_json, changes={"tokenizer_config.json": options})
    assert _arrays(lower.tokenize(["The flow"]).payloads)[0][1] != 1


def test_a_vocabulary_alone_makes_a_bert_tokeniser(model_folder: MakeFolder, wordpiece_json: str) -> None:
    """Without tokenizer.json the word pieces in vocab.txt give the same ids."""
    vocabulary = Tokenizer.from_str(wordpiece_json).get_vocab()
    pieces = "\n".join(sorted(vocabulary, key=lambda piece: vocabulary[piece]))
    texts = ["The boundary layer, é 東京", "flow [SEP] the"]
    ours = open_tokenizer(model_folder, wordpiece_json, changes={"tokenizer.json": None, "vocab.txt": pieces})
    theirs = plain(wordpiece_json).encode_batch(texts)
    payloads = _arrays(ours.tokenize(texts).payloads)
    assert [payload.tolist() for payload in payloads] == [encoding.ids for encoding in theirs]


@pytest.mark.parametrize(
    ("files", "error", "told"),
    [
        ({"tokenizer.json": "{}"}, CorruptModelError, "no readable tokeniser"),
        ({"tokenizer.json": None}, CorruptModelError, "has no tokenizer.json"),
        ({"tokenizer.json": None, "spiece.model": "x"}, UnsupportedModelError, "only as spiece.model"),
        ({"tokenizer.json": None, "vocab.txt": "a\nb"}, CorruptModelError, "lacks the tokens"),
    ],
)
def test_tokenisers_that_cannot_be_read(
    model_folder: MakeFolder, wordpiece_json: str, files: dict[str, Any], error: type[Exception], told: str
) -> None:
    """A missing, broken or foreign tokeniser is a named error."""
    with pytest.raises(error, match=told):
        open_tokenizer(model_folder, wordpiece_json, changes=files)


def test_a_limit_without_room_is_refused(model_folder: MakeFolder, wordpiece_json: str) -> None:
    """A limit that special tokens fill is a broken folder."""
    with pytest.raises(CorruptModelError, match="leaves no room for text"):
        open_tokenizer(
            model_folder, wordpiece_json, changes={"sentence_bert_config.json": {"max_seq_length": 2}}
        )


def _arrays(payloads: Any) -> list[Any]:
    return list(payloads)
