"""The page of a map, as text."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embatch.frontends.map.page import Heading, page_data, write_page
from embatch.frontends.map.reading import Spot, excerpt_of

HEADING = Heading(name="a <b> & c", color="kind", model="test/model", chunks=3)


def spot(path: str = "src/a.py", text: str = "def f(): ...", symbol: str = "f") -> Spot:
    return Spot(
        path=path,
        start_line=1,
        end_line=2,
        symbol=symbol,
        kind="function",
        language="python",
        excerpt=text,
    )


def written(spots: list[Spot]) -> str:
    file = io.StringIO()
    write_page(file, spots, np.zeros((len(spots), 2), np.float32), heading=HEADING, plotly="/* plotly */")
    return file.getvalue()


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_no_text_can_become_markup(text: str) -> None:
    """Whatever a path, a name or a text holds comes back from the data as it was, and adds no element to the page."""
    wicked = f"</script><!--data--><img src=x onerror=alert(1)>{text}"
    page = written([spot(wicked, wicked, wicked)])
    assert page.count("<img") == 0
    assert page.count("<script") == 3
    data = data_of(page)
    assert data["paths"] == data["symbols"] == data["excerpts"] == [wicked]


def test_the_name_of_an_index_is_shown_as_text() -> None:
    """What has a meaning in HTML is escaped in the heading."""
    page = written([spot()])
    assert "<h1>a &lt;b&gt; &amp; c " in page
    assert "<title>a &lt;b&gt; &amp; c: map of the index</title>" in page


def test_the_page_asks_nobody_for_anything() -> None:
    """Its policy allows no host, and it has no address outside of the plotting library and the policy."""
    page = written([spot()])
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page


def test_columns_come_back_as_they_were() -> None:
    """Coordinates, lines and groups are typed arrays in base64; repeated texts are stored once."""
    spots = [spot("src/a.py"), spot("src/a.py"), spot("docs/b.md")]
    points = np.array([[0, 1], [0.5, -1], [-1, 0.25]], np.float32)
    data = page_data(spots, points, HEADING)

    def column(name: str, kind: str) -> list[float]:
        return list(np.frombuffer(base64.b64decode(data[name]), kind).tolist())

    assert column("x", "<f4") == [0, 0.5, -1]
    assert column("y", "<f4") == [1, -1, 0.25]
    assert data["paths"] == ["src/a.py", "docs/b.md"]
    assert column("path", "<u4") == [0, 0, 1]
    assert column("last", "<u4") == [2, 2, 2]
    assert data["groupings"]["folder"]["names"] == ["src/", "docs/"]
    assert base64.b64decode(data["groupings"]["folder"]["of"]) == bytes([0, 0, 1])


@given(text=st.text(max_size=600), length=st.integers(2, 100))
def test_an_excerpt_is_bounded_and_can_be_written(text: str, length: int) -> None:
    """No excerpt is longer than asked for, and each is valid UTF-8."""
    excerpt = excerpt_of(text, length)
    assert len(excerpt) <= length
    excerpt.encode("utf-8")


def test_an_excerpt_says_that_it_was_cut() -> None:
    """A short text stands as it is, without blank lines; a longer one ends with an ellipsis."""
    assert excerpt_of("\n\na\n\n  \n  b\n", 20) == "a\n  b"
    assert excerpt_of("word " * 100, 12) == "word word w…"
