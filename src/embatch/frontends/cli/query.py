"""`embatch query TEXT`: find places in an index."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import SourceUnreadableError, UsageError
from embatch.frontends.cli.options import index_option

if TYPE_CHECKING:
    from embatch.chunks import Hit
    from embatch.frontends.searching.index import Index
    from embatch.search.searching import Mode


@click.command(short_help="Find places in an index by a question.")
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@index_option
@click.option("-k", "--k", type=click.IntRange(1), default=10, show_default=True, help="How many places.")
@click.option("--path", "paths", multiple=True, metavar="GLOB", help="Only there; !GLOB leaves out.")
@click.option("--language", "languages", multiple=True, metavar="NAME", help="Only this language.")
@click.option("--kind", "kinds", multiple=True, metavar="NAME", help="Only code, prose, function, section …")
@click.option(
    "--hybrid", "mode", flag_value="hybrid", default="hybrid", help="By words and meaning.  [default]"
)
@click.option("--vector", "mode", flag_value="vector", help="By meaning only.")
@click.option("--text", "mode", flag_value="text", help="By words only; loads no model.")
@click.option("--similar-to", metavar="PATH:LINE", help="What is like this place, instead of a TEXT.")
@click.option(
    "--from",
    "questions",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Many questions, one a line; - for standard input.",
)
@click.option(
    "--lines",
    type=click.IntRange(0),
    default=6,
    show_default=True,
    help="Lines of each place that are shown.",
)
@click.option("--stats", is_flag=True, help="Say what the index holds, instead.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON: one object a question.")
def query(
    *,
    words: tuple[str, ...],
    location: str | None,
    k: int,
    paths: tuple[str, ...],
    languages: tuple[str, ...],
    kinds: tuple[str, ...],
    mode: Mode,
    similar_to: str | None,
    questions: str | None,
    lines: int,
    stats: bool,
    as_json: bool,
) -> int:
    """Find the places in an index that answer TEXT, best first.

    The index is the nearest at or above this folder. Words and meaning both count, unless --vector or --text says
    otherwise. Ends with 1 if nothing was found.
    """
    text = " ".join(words)
    given = [bool(text), similar_to is not None, questions is not None, stats]
    if sum(given) != 1:
        raise UsageError(
            "Ask for one thing: a TEXT, --similar-to, --from or --stats.",
            hint='For example: embatch query "where do we retry?"',
        )
    from embatch.frontends.searching import shown
    from embatch.frontends.searching.index import Index
    from embatch.search.places import Place

    place = Place.to_read(location)
    with _warmed(place, wanted=mode != "text" and not stats and similar_to is None) as opened:
        if stats:
            return shown.stats(opened, as_json=as_json)
        filters = {"path": paths, "language": languages, "kind": kinds}
        if similar_to is not None:
            asked, found = [similar_to], [_similar(opened, similar_to, k, filters)]
        else:
            asked = [text] if questions is None else _lines(questions)
            found = opened.query_many(asked, k=k, mode=mode, **filters)
        assert isinstance(opened, Index)
        if as_json:
            shown.as_json(opened, asked, found)
        else:
            shown.as_text(opened, asked, found, lines=lines, several=questions is not None)
    return 0 if any(found) else 1


def _warmed(location: str, *, wanted: bool) -> Index:
    """The index, with its model being opened meanwhile where one is needed."""
    from embatch.frontends.searching.index import Index

    opened = Index.open(location, create=False)
    if wanted:
        opened.model.warm()
    return opened


def _similar(opened: Index, place: str, k: int, filters: dict[str, Any]) -> list[Hit]:
    from embatch.search.searching import where_of

    path, _, line = place.rpartition(":")
    if not path or not line.isdigit():
        raise UsageError(
            f"{place!r} is no place.", hint="Write --similar-to PATH:LINE, such as src/app.py:120."
        )
    where = where_of(filters["path"], filters["language"], filters["kind"])
    key = opened.place.key(path)
    return opened.similar(key, int(line), k=k, where=where)


def _lines(path: str) -> list[str]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceUnreadableError(f"Cannot read the questions in {path!r}: {error}.") from error
    asked = [line.strip() for line in text.splitlines() if line.strip()]
    if not asked:
        raise UsageError(f"There is no question in {path!r}.", hint="Write one a line.")
    return asked
