"""The page of a map in a real browser: drawn, searched, coloured, read on a phone and without WebGL."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.integration.map.conftest import WICKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.frontends.map.reading import Scannable

pytestmark = [pytest.mark.browser, pytest.mark.search]

FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
GRAPHICS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_GRAPHICS = ("--disable-gpu", "--disable-3d-apis")


@pytest.fixture(scope="module")
def page_file(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of the small index; its layout is that of a few points, which needs no UMAP."""
    pytest.importorskip("plotly")
    from embatch.frontends.map.making import plotly_js
    from embatch.frontends.map.page import Heading, write_page
    from embatch.frontends.map.projection import boxed
    from embatch.frontends.map.reading import read_corpus
    from embatch.storage.vectors import open_reader

    output = tmp_path_factory.mktemp("map") / "map.html"
    reader = open_reader(indexed / ".embatch" / "index")
    corpus = read_corpus(cast("Scannable", reader), most=1000, seed=0, tell=lambda *_: None)
    reader.close()
    heading = Heading(name="project", color="folder", model=corpus.spec.model, chunks=corpus.chunks)
    with output.open("w", encoding="utf-8") as file:
        write_page(file, corpus.spots, boxed(corpus.reduced[:, :2]), heading=heading, plotly=plotly_js())
    return output


@pytest.fixture(scope="module")
def chromium() -> Iterator[Callable[..., Any]]:
    """Starts browsers."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no Chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        started: list[Any] = []

        def start(*graphics: str) -> Any:
            started.append(driver.chromium.launch(executable_path=program, args=[*FLAGS, *graphics]))
            return started[-1]

        yield start
        for browser in started:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """The page, once it is drawn; it must have asked nobody for anything, and said nothing on the console."""
    page = browser.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()
    local = ("data:", "blob:", file.as_uri())
    assert [trouble for trouble in troubles if not trouble.startswith(local)] == []


@pytest.fixture(scope="module")
def shared(chromium: Callable[..., Any], page_file: Path) -> Iterator[Any]:
    """One page for all tests: loading it takes longer than any of them."""
    with opened(chromium(*GRAPHICS), page_file) as page:
        yield page


@pytest.fixture
def page(shared: Any) -> Any:
    """The page as it is at first."""
    shared.set_viewport_size({"width": 1280, "height": 800})
    shared.emulate_media(color_scheme="light")
    if shared.is_visible("#detail-close"):
        shared.click("#detail-close")
    searched(shared, "")
    shared.check("input[value=folder]", force=True)
    shared.click("#zoom-all")
    return shared


@pytest.fixture(scope="module")
def plain(chromium: Callable[..., Any]) -> Any:
    """A browser without WebGL."""
    return chromium(*NO_GRAPHICS)


def searched(page: Any, words: str) -> str:
    page.fill("#search", words)
    page.wait_for_function(
        "words => (document.getElementById('results').dataset.query || '') === words", arg=words.lower()
    )
    status: str = page.text_content("#status")
    return status


def test_the_map_is_drawn_and_told_beside_it(page: Any) -> None:
    """All points are on a WebGL canvas, and a table says how many each group has."""
    assert page.get_attribute("body", "data-ready") == "webgl"
    assert "61 chunks of 31 files" in page.text_content("#summary")
    rows = page.locator("#groups tr").all_inner_texts()
    assert sum(int(row.split("\t")[2]) for row in rows) == 61
    drawn = page.evaluate("document.getElementById('plot').data.reduce((sum, t) => sum + t.x.length, 0)")
    assert drawn == 61
    assert page.evaluate("document.getElementById('plot').data[0].type") == "scattergl"


def test_a_search_by_keyboard_finds_lists_and_selects(page: Any) -> None:
    """`/` begins a search, all words must be there, arrows walk the list, Enter shows the place, Escape ends it."""
    page.keyboard.press("/")
    page.keyboard.type("PENGUIN docs/")
    page.wait_for_selector("#hits button")
    assert page.text_content("#status") == "1 of 61 points match"
    page.fill("#search", "")
    assert searched(page, "penguin") == "3 of 61 points match"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('li') === document.querySelectorAll('#hits li')[1]")
    page.keyboard.press("Enter")
    place = page.text_content("#hits li:nth-child(2) button span")
    assert page.text_content("#detail-place") == place
    assert page.text_content("#said") == f"Selected {place}"
    assert page.locator("#near li").count() == 8
    page.keyboard.press("Escape")
    assert page.is_hidden("#detail")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    assert page.is_hidden("#results")


def test_a_point_tells_what_it_is_when_it_is_pointed_at(page: Any) -> None:
    """Hovering a point shows its place, its name and an excerpt; a click selects it."""
    searched(page, "number 42")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.click("#detail-show")
    page.click("#detail-close")
    page.fill("#search", "")
    page.wait_for_selector("#results", state="hidden")
    box = page.locator("#plot").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] + 60, middle[1] + 60)
    page.mouse.move(*middle, steps=4)
    page.wait_for_selector("#tip:not([hidden])")
    tip = page.inner_text("#tip")
    assert "docs/" in tip or "src/" in tip
    assert "of the flock" in tip or "img" in tip
    page.mouse.click(*middle)
    page.wait_for_selector("#detail:not([hidden])")


def test_colours_can_be_switched_and_groups_hidden(page: Any) -> None:
    """Another grouping has its own table, hidden groups are not drawn, and matches among them are told of."""
    page.check("input[value=language]", force=True)
    assert page.text_content("#groups-title") == "Languages"
    page.click("#groups tr:has-text('markdown') button")
    visible = "document.getElementById('plot').data.filter((t) => t.visible).map((t) => t.name)"
    assert page.evaluate(visible) == ["markdown"]
    assert searched(page, "penguin") == "3 of 61 points match, 2 of them in hidden groups"
    page.click("#all-groups")
    assert "markdown" in page.evaluate(visible)
    assert "python" in page.evaluate(visible)


def test_the_view_moves_by_keys_and_buttons(page: Any) -> None:
    """Plus zooms in, arrows move, 0 shows all again, and the buttons do the same."""
    width = "(() => { const [a, b] = document.getElementById('plot').layout.xaxis.range; return b - a; })()"
    whole = page.evaluate(width)
    page.focus("#plot")
    page.keyboard.press("+")
    page.wait_for_function(f"{width} < {whole} * 0.9")
    page.keyboard.press("0")
    page.wait_for_function(f"Math.abs({width} - {whole}) < 1e-6")
    page.click("#zoom-in")
    page.wait_for_function(f"{width} < {whole} * 0.9")
    page.click("#zoom-all")
    page.wait_for_function(f"Math.abs({width} - {whole}) < 1e-6")


def test_what_was_indexed_is_text_wherever_it_is_shown(page: Any) -> None:
    """Markup in a path, a name or a text is shown as it is, and nothing of it runs."""
    assert searched(page, "onerror") == "1 of 61 points match"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.text_content("#detail-text") == WICKED
    assert WICKED in page.text_content("#detail-place")
    assert page.locator("main img").count() == 0
    assert page.title() == "project: map of the index"


def test_a_phone_shows_everything_below_each_other(page: Any) -> None:
    """On a narrow screen nothing is wider than it, and what is touched is large enough."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('#plot .main-svg').getBoundingClientRect().width <= 390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    plot, side = page.locator(".stage").bounding_box(), page.locator("aside").bounding_box()
    assert plot["height"] >= 300
    assert side["y"] >= plot["y"] + plot["height"] - 1
    assert page.locator("#search").bounding_box()["height"] >= 44


def test_the_page_follows_the_readers_dark_or_light(page: Any) -> None:
    """When the reader's setting changes, so do the page and the points, at once."""
    colour = "document.getElementById('plot').data[0].marker.color"
    back = "document.getElementById('plot').layout.paper_bgcolor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{colour} !== '{light}'")
    assert page.evaluate(back) == "#0f1216"


def test_everything_that_can_be_used_has_a_name(page: Any) -> None:
    """Buttons and fields can be named by a screen reader, and headings do not skip a level."""
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input")].filter((field) =>
            !(field.textContent.trim() || field.ariaLabel || field.labels?.length)).length"""
    )
    assert nameless == 0
    assert page.locator("h1").count() == 1
    assert page.get_attribute("#plot", "aria-label") == "Map of 61 points"
    assert page.locator("table th[scope=col]").count() == 4


def test_a_browser_without_webgl_draws_all_the_same(plain: Any, page_file: Path) -> None:
    """Few points are drawn as SVG, without a word: nothing is missing."""
    with opened(plain, page_file) as page:
        assert page.get_attribute("body", "data-ready") == "svg"
        assert page.is_hidden("#notice")
        assert page.locator("#plot .scatterlayer path.point").count() == 61


def test_a_browser_without_webgl_says_what_it_leaves_out(plain: Any, page_file: Path, tmp_path: Path) -> None:
    """Of very many points some are drawn, the page says so, and the search still finds all."""
    file = tmp_path / "small.html"
    text = page_file.read_text("utf-8").replace("SVG_POINTS = 5000", "SVG_POINTS = 30")
    file.write_text(text.replace('"chunks":61', '"chunks":9999'), "utf-8")
    with opened(plain, file) as page:
        assert page.text_content("#summary") == "61 of 9,999 chunks (a sample), from 31 files"
        assert "every 3rd point is drawn" in page.text_content("#notice")
        assert page.locator("#plot .scatterlayer path.point").count() == 21
        assert searched(page, "flock") == "60 of 61 points match"
