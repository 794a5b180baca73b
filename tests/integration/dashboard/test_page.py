"""The dashboard in a browser: with keyboard, in the dark, on a phone, and when the server goes away."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.dashboard.checking import FAULTS

from embatch.frontends.server.settings import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.dashboard.conftest import Serving

    from embatch.frontends.server.transport.running import BackgroundServer

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.serve,
    pytest.mark.search,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visit(url, width=360, color_scheme="dark")` opens a page; what goes wrong in it fails the test at its end."""
    contexts: list[Any] = []
    wrong: list[str] = []
    expected: list[str] = []

    def tell(text: str, is_wrong: bool) -> None:
        if is_wrong:
            wrong.append(text)

    def open_page(
        url: str,
        *,
        width: int = 1280,
        may_fail: str | None = None,
        before: Callable[[Any], None] = lambda page: None,
        **options: Any,
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        if may_fail is not None:
            expected.append(may_fail)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: tell(message.text, message.type in {"error", "warning"}))
        page.on("pageerror", lambda error: tell(str(error), True))
        page.on("request", lambda request: tell(request.url, not request.url.startswith(url)))
        before(page)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in wrong if not any(re.search(each, text) for each in expected)] == []


@pytest.fixture(scope="module")
def server(serving: Serving, indexed: Path) -> Iterator[BackgroundServer]:
    """One with an index, that has answered some requests."""
    with serving(index=str(indexed)) as server:
        ask_for_vectors(server)
        yield server


def ask_for_vectors(server: BackgroundServer, requests: int = 30) -> None:
    """Give it something to show."""
    for number in range(requests):
        inputs = ["a text with some words " * (1 + number % 5)] * (1 + number % 4)
        body = json.dumps({"model": "words", "input": inputs}).encode()
        request = urllib.request.Request(  # our own server
            f"{server.url}/v1/embeddings", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # as above
            answer.read()


def comes(page: Any, true: str, argument: object = None, seconds: float = 15.0) -> bool:
    """Whether something gets true in the page. (Playwright's own way is to `eval`, which the page forbids.)"""
    until = time.monotonic() + seconds
    while not page.evaluate(true, argument):
        if time.monotonic() > until:
            return False
        page.wait_for_timeout(10)
    return True


def live(page: Any) -> Any:
    """The page, once it is live."""
    page.wait_for_selector('#state[data-state="live"]')
    return page


def test_charts_draw_what_happens(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """Live figures move while requests come in, each chart says in words what it shows, and all is from this host."""
    page = live(visit(server.url))
    page.check('input[name="span"][value="60"]')
    ask_for_vectors(server)
    assert comes(page, "document.querySelectorAll('.plot canvas').length >= 7")
    assert comes(page, "!document.getElementById('fig-latency').textContent.startsWith('–')")
    for name in ("texts", "tokens", "queue", "latency", "shapes", "memory"):
        assert page.locator(f"#chart-{name} .empty").is_hidden(), name
        assert page.locator(f"#chart-{name} .said").inner_text().strip(), name
        assert comes(page, f"({DRAWN})(document.querySelector('#chart-{name} canvas')) > 20"), name
    assert "texts/s now" in page.locator("#chart-texts .said").inner_text()
    assert "batches shown" in page.locator("#chart-shapes .said").inner_text()
    assert page.locator("#latency-rows tr").count() >= 2


def test_points_at_the_end_of_a_chart_are_inside_it(
    server: BackgroundServer, visit: Callable[..., Any]
) -> None:
    """The largest batches are often the fastest, and several of one size: the scale has room for all of them."""
    page = live(visit(server.url))
    high = page.evaluate("""async () => {
        const { PointChart } = await import("/dashboard/static/charts.js");
        const series = [{ name: "a", colour: "c" }, { name: "b", colour: "a", line: true }];
        const chart = new PointChart("chart-speed", series);
        chart.show([[4, 64, 64], [1000, 1800, null], [null, null, 4223]], "three");
        await new Promise(requestAnimationFrame);
        return chart.chart.scales.y.max;
    }""")
    assert high > 4223


DRAWN = """(canvas) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
    let coloured = 0;
    for (let at = 0; at < pixels.length; at += 4) {
        if (pixels[at + 3] > 60 && Math.abs(pixels[at] - pixels[at + 2]) > 40) coloured += 1;
    }
    return coloured;
}"""


def test_search_by_keyboard_alone(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """`/` goes to the box, Enter asks, arrows go through the places, Escape comes back."""
    page = live(visit(server.url))
    page.wait_for_selector("#search-section:not([hidden])")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("penguins that swim")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert re.match(r"\d+ places? in ", page.locator("#found").inner_text())
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.querySelector('h3').textContent").startswith("guide.md:1–")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[...document.querySelectorAll('.hit')].indexOf(document.activeElement)") == 1
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "query"


def test_a_document_is_shown_as_text_and_never_runs(
    server: BackgroundServer, visit: Callable[..., Any]
) -> None:
    """Tags in what was indexed are characters like any other."""
    page = live(visit(server.url))
    page.fill("#query", "penguins <b>bold</b>")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    if page.locator(".hit .more").count():
        page.locator(".hit .more").first.click()
    assert '<img src=x onerror="document.title=' in page.locator("#hits").inner_text()
    assert page.locator("#hits img, #hits b").count() == 0
    assert page.title() == "embatch"


def test_filters_and_what_is_wrong_with_them(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """A filter narrows the places; one that means nothing is said beside the box."""
    page = live(visit(server.url, may_fail="400"))
    page.fill("#query", "penguins")
    page.click(".filters summary")
    page.fill("#path", "src/**")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert all("src/tools.py" in text for text in page.locator(".hit h3").all_inner_texts())
    page.fill("#path", "src/[z-a]")
    page.keyboard.press("Enter")
    assert comes(page, "document.getElementById('found').textContent.includes('[z-a]')")
    assert page.locator(".hit").count() == 0
    page.fill("#query", "")
    assert page.locator("#found").inner_text() == ""


def test_everybody_can_read_it(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """Contrast, names, headings and sizes are right, by day and night, on a phone and on a desk; nothing moves."""
    page = live(visit(server.url, color_scheme="light", reduced_motion="reduce"))
    page.fill("#query", "wait for the server")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    page.click(".filters summary")
    assert not page.evaluate(MOVING)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for width in (360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(FAULTS) == [], (scheme, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (max(map(int, ground[:3])) < 60) == (scheme == "dark")


def test_charts_follow_the_colours_of_the_day(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """When night falls, what is drawn changes too, without a reload."""
    page = live(visit(server.url, color_scheme="light"))
    page.wait_for_selector("#chart-memory canvas")
    page.click("#pause")
    before = page.evaluate(INK)
    page.emulate_media(color_scheme="dark")
    assert comes(page, f"(before) => {INK} !== before", before)


MOVING = """() => [...document.querySelectorAll('*')].some(
    (one) => parseFloat(getComputedStyle(one).transitionDuration) > 0)"""
INK = "document.querySelector('#chart-memory canvas').toDataURL()"


def test_it_stands_still_when_asked_to(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """Paused, nothing changes but the state of the connection; going on shows everything that came meanwhile."""
    page = live(visit(server.url))
    assert comes(page, "document.getElementById('fig-memory').textContent !== '–'")
    page.focus("#pause")
    page.keyboard.press("Enter")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    before = page.locator("#live").inner_text()
    counted = "performance.getEntriesByType('resource').length"
    assert page.evaluate(counted) > 0
    ask_for_vectors(server, 5)
    page.wait_for_timeout(1200)
    assert page.locator("#live").inner_text() == before
    page.keyboard.press("Enter")
    assert comes(page, "(before) => document.getElementById('live').innerText !== before", before)


def test_it_comes_back_when_the_server_does(
    serving: Serving, visit: Callable[..., Any], indexed: Path
) -> None:
    """A page says that the server is gone, and is live again without a reload once it is back."""
    with serving() as first:
        port = first.port
        page = live(visit(first.url, may_fail="ERR_|Failed to load"))
        assert "No index is served" in page.locator("#found").inner_text()
    page.wait_for_selector('#state[data-state="gone"]')
    assert "gone" in page.locator("#state").inner_text()
    with serving(port=port, index=str(indexed)):
        live(page)
        page.wait_for_selector("#search-form:not([hidden])")
        assert page.locator("#search-form").is_visible()


def test_a_key_is_asked_for_and_kept_out_of_addresses(serving: Serving, visit: Callable[..., Any]) -> None:
    """A wrong key is asked for again; the right one is kept for this tab only, and sent in a header."""
    with serving(keys=(ApiKey(name="team", secret="correct horse"),)) as server:
        page = visit(server.url, may_fail="401")
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.wait_for_selector("#key-section:not([hidden])")
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("wrong horse")
        page.keyboard.press("Enter")
        assert comes(page, "document.getElementById('key-error').textContent !== ''")
        page.fill("#key", "correct horse")
        page.keyboard.press("Enter")
        live(page)
        assert page.locator("#key-section").is_hidden()
        assert not any("horse" in address for address in [*addresses, page.url])
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        live(page)


def test_where_no_stream_can_be_had_it_asks_now_and_then(
    serving: Serving, visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page too many is not left without data."""
    from embatch.frontends.server.dashboard import live as feed

    monkeypatch.setattr(feed, "LISTENERS", 0)
    with serving() as server:
        page = visit(server.url, may_fail="503")
        page.wait_for_selector('#state[data-state="polling"]')
        assert page.locator("#fig-memory").inner_text().endswith(("MB", "GB"))


def test_before_anything_has_happened_it_says_so(serving: Serving, visit: Callable[..., Any]) -> None:
    """Empty charts say that there is nothing yet, and no number is made up."""
    with serving() as server:
        page = live(visit(server.url))
        page.wait_for_selector("#chart-texts .empty:not([hidden])")
        assert page.locator("#chart-shapes .empty").inner_text() == "No data yet"
        assert page.locator("#fig-latency").inner_text() == "–"
        assert page.locator("#model-rows td").first.inner_text() == "not open"
        assert page.evaluate(FAULTS) == []


def test_a_providers_model_shows_what_was_spent(server: BackgroundServer, visit: Callable[..., Any]) -> None:
    """Money of the day against its limit, calls, and jobs with their progress, each in its card."""
    with urllib.request.urlopen(f"{server.url}/dashboard/status", timeout=10) as answer:  # our own
        told = json.loads(answer.read())
    told["money"] = {"dollars": 1.5, "today": 4.5, "limit_per_day": 5.0, "calls": 812}
    told["money"] |= {"texts_under_way": 40, "senders": 8}
    job = {"id": "batch_1", "status": "in_progress", "model": "words", "total": 400, "done": 100}
    told["jobs"] = {
        "counts": {"in_progress": 1},
        "recent": [job | {"failed": 3, "created": 1, "ended": False}],
    }

    def answer_so(page: Any) -> None:
        page.route("**/dashboard/stream", lambda route: route.fulfill(status=503))
        page.route("**/dashboard/status*", lambda route: route.fulfill(json=told))

    page = visit(server.url, may_fail="503", before=answer_so)
    page.wait_for_selector("#lanes-card:not([hidden])")
    assert page.locator("#money-said").inner_text() == "$4.50 of $5.00 for today"
    assert page.locator("#money").evaluate("(bar) => bar.value / bar.max") == 0.9
    assert "812" in page.locator("#lanes").inner_text()
    assert page.locator("#jobs progress").get_attribute("aria-label") == "Progress of batch_1"
    assert "100 of 400, 3 failed" in page.locator("#jobs").inner_text()
    assert page.evaluate(FAULTS) == []
