"""A report opened from the disk in a browser: pictures are drawn, and nothing is fetched or complained about."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.browser
_FLAGS = (
    "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync"
)


@pytest.fixture
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium")
    pytest.importorskip("plotly")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=chromium, args=[f"--{flag}" for flag in _FLAGS.split()]
        )
        yield opened
        opened.close()


def test_a_page_draws_its_pictures_and_fetches_nothing(records: Path, texts: Path, browser: Any) -> None:
    """In light and dark, wide and narrow: every picture is there beside its table, on a page that fits the screen."""
    del records
    assert main(["embed", str(texts), "--model", "hashing", "--to", "out.parquet", "--quiet"]) == 1
    path = texts.parent / "page.html"
    assert main(["report", "--html", str(path)]) == 0
    for scheme, width in (("light", 1200), ("dark", 390)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=yes]")
        pictures = page.locator(".plot").count()
        assert pictures >= 4
        assert page.locator(".plot .main-svg:first-child").count() >= pictures
        assert page.locator("section table").count() >= pictures
        assert page.locator(".plot[role=img][aria-label]").count() == pictures
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.get_by_text("<script>alert(1)</script>&").count() == 1
        summary = page.locator("summary").first
        summary.focus()
        page.keyboard.press("Enter")
        assert page.locator("details[open] table").first.is_visible()
        assert asked == [path.as_uri()]
        assert said == []
        context.close()
