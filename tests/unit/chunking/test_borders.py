"""Where texts can be cut, and how good each place is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embatch.decisions.borders import Border, borders


def cut(text: str, least: Border = Border.SENTENCE) -> list[str]:
    """The parts between borders at least so good, without white space around them."""
    at = [0, *(place for place, border in borders(text) if border >= least), len(text)]
    return [text[start:end].strip() for start, end in pairwise(at)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Pi is 3.14 or so. Then more.", ["Pi is 3.14 or so.", "Then more."]),
        ("See Fig. 2 and e.g. Table 3. It holds.", ["See Fig. 2 and e.g. Table 3.", "It holds."]),
        ("Dr. Who met J. Smith. They spoke.", ["Dr. Who met J. Smith.", "They spoke."]),
        ("The answer is no. The reason: No. 5 is.", ["The answer is no.", "The reason: No. 5 is."]),
        ("It was 2019. Then it ended.", ["It was 2019.", "Then it ended."]),
        (
            "Er sagte (vgl. Abb. 3), z.B. Folgendes. Ende.",
            ["Er sagte (vgl. Abb. 3), z.B. Folgendes.", "Ende."],
        ),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("What? he asked. Nothing... Nothing.", ["What? he asked.", "Nothing...", "Nothing."]),
        ("open file.txt now. Then go.", ["open file.txt now.", "Then go."]),
        (
            "今日は晴れです。明日は雨!「本当。」と言った。",
            ["今日は晴れです。", "明日は雨!「本当。」", "と言った。"],
        ),
        ("the flow . the results show .", ["the flow .", "the results show ."]),
        ("1. First point\n2. Second point", ["1. First point", "2. Second point"]),
        (".. note:: This\n   Indented", [".. note:: This", "Indented"]),
        ("", [""]),
        ("....", ["...."]),
    ],
)
def test_sentences_end_where_a_reader_says(text: str, parts: list[str]) -> None:
    """Abbreviations, initials, decimals, list numbers and file names do not end a sentence; CJK stops do."""
    assert cut(text) == parts


def test_a_wrapped_sentence_is_not_cut_at_its_line_break() -> None:
    """A line that goes on in lower case is running text; another is a line of its own."""
    text = "This sentence goes\non here and\nEnds\n  indented"
    assert list(borders(text)) == [
        (text.index("on"), Border.SOFT),
        (text.index("Ends"), Border.SENTENCE),
        (text.index("indented"), Border.SOFT),
    ]


@pytest.mark.parametrize(
    "heading", ["## Two\n\n", "## Two.\n", "Two\n---\n\n", "Two\n===\n", "Two\n~~~\n"], ids=repr
)
def test_a_heading_is_the_best_border_and_stays_with_its_text(heading: str) -> None:
    """Markdown's and reStructuredText's headings are found, and what follows one is not cut from it."""
    text = f"# One\n\nText of one.\n\n{heading}Text of two.\n\nMore."
    found = {text[at : at + 4]: border for at, border in borders(text)}
    assert found[heading[:4]] is Border.HEADING
    assert found["More"] is Border.PARAGRAPH
    below = [border for at, border in borders(text) if text.index(heading) < at <= text.index("Text of two")]
    assert set(below) == {Border.SOFT}


def test_a_number_sign_within_a_line_is_no_heading() -> None:
    """`# ` makes a heading only where a line begins."""
    assert [border for _, border in borders("Use it. # not a heading")] == [Border.SENTENCE]


@given(st.text(alphabet="aB .!?\n#-=。」\"'1\t\r", max_size=200))
def test_borders_ascend_and_stand_before_visible_characters(text: str) -> None:
    """Borders go from left to right, within the text, and white space belongs to what stands before it."""
    places = [at for at, _ in borders(text)]
    assert places == sorted(set(places))
    assert all(0 < at < len(text) and not text[at].isspace() for at in places)
