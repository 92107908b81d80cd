"""The dashboard in a real Chromium: every page and what people do on it, wide and narrow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from adtally.io.elasticsearch import connect
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_sink import documents
from adtally.pipelines.dashboard.access import new_token
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.service import MissingSystemPart
from tests.browsers import ARGUMENTS, chromium_path
from tests.dashboards import ADVERTISERS, START, UNTIL, logs, running
from tests.pulls import summaries
from tests.reconciling import Place

pytestmark = [pytest.mark.elasticsearch, pytest.mark.xdist_group("browser")]

DAY = urlencode({"range": "24h", "until": UNTIL})
PAGES = {
    "overview": f"/?{DAY}",
    "advertiser": f"/advertiser?id=acme&{DAY}",
    "health": "/health?range=1h",
    "empty": "/?range=1h&until=2026-05-01",
    "wrong": "/?range=2h",
}
SCREENSHOTS = os.environ.get("ADTALLY_SCREENSHOTS")
"""A folder: pictures of the pages are put there, for docs/images."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        path = chromium_path()
    except MissingSystemPart as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, elasticsearch_node: ElasticsearchNode) -> Place:
    folder = tmp_path_factory.mktemp("dashboard")
    place = Place.of(folder, elasticsearch_node.url)
    place.backfill(logs(folder / "logs"))
    place.retally("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-01T01:00:00Z")
    with connect(place.config) as client:
        client.indices.refresh(index=f"{place.prefix}-*")
    return place


@pytest.fixture(scope="module")
def url(place: Place) -> Iterator[str]:
    with running("--output", str(place.output), *place.cluster) as url:
        yield url


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address in a browser of its own; nothing may go wrong in its console."""
    contexts, said = [], []

    def visit(address: str, width: int = 1_200, **settings: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 850}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    # Hints of the browser, and answers of 4xx and 5xx that a test asks for, are no mistakes.
    unexpected = [
        text
        for text in said
        if not text.startswith(("debug", "verbose")) and "status of" not in text
    ]
    assert unexpected == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1_200])
@pytest.mark.parametrize("name", list(PAGES))
def test_pages_fit_and_can_be_read(
    open_page: Callable[..., Page], url: str, name: str, width: int, scheme: Any
) -> None:
    page = open_page(url + PAGES[name], width, color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("h1")).to_be_visible()
    over = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert over == 0, "the page scrolls sideways"
    assert page.evaluate(_LOW_CONTRAST) == []
    assert page.evaluate(_UNLABELLED) == []
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    if width == 360:
        small = page.evaluate(_SMALL)
        assert small == [], "too small for a finger"
    if SCREENSHOTS:
        where = Path(SCREENSHOTS) / f"{name}-{'phone' if width == 360 else 'wide'}-{scheme}.png"
        page.screenshot(path=where, full_page=True)


def test_from_the_list_to_the_events(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(f"{url}/?{DAY}")
    rows = page.locator("table.list tbody tr")
    expect(rows).to_have_count(3)
    page.get_by_role("link", name="advertiser", exact=True).click()
    expect(rows.first).to_contain_text("acme")
    page.get_by_label("Advertiser", exact=True).fill("BÉT")
    page.get_by_role("button", name="Find").click()
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="all", exact=True).click()
    expect(rows).to_have_count(3)
    page.get_by_role("link", name="acme").click()
    expect(page.locator("h1")).to_have_text("acme")
    assert page.locator("figure .chart svg").count() >= 4
    bar = page.locator("figure").nth(1).locator(".chart path[aria-label*='invalid']").first
    bar.hover(force=True)
    tip = page.locator("#tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("net")
    page.locator("figure summary").first.click()
    expect(page.locator("figure details table").first).to_be_visible()
    page.get_by_role("link", name="events of 203.0.113.66").click()
    expect(page.locator("h1")).to_have_text("givt_click_rate_ip")
    assert page.locator("tbody tr", has_text="203.0.113.66").count() == 50
    page.get_by_role("link", name="acme").click()
    expect(page.locator("h1")).to_have_text("acme")


def test_other_ranges_and_other_places(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(f"{url}/advertiser?id=acme&range=1h&until=2026-03-01T01:00:00Z")

    def gross() -> str:
        return page.locator("section[aria-labelledby=gross]").inner_text()

    first = gross()
    page.get_by_role("link", name="files").click()
    page.wait_for_url("**source=parquet**")
    assert gross() == first
    page.get_by_role("link", name="later").click()
    page.wait_for_url("**until=2026-03-01T02**")
    second = gross()
    assert second != first
    page.get_by_role("link", name="earlier").click()
    page.wait_for_url("**until=2026-03-01T01**")
    assert gross() == first
    page.get_by_role("link", name="7d").click()
    expect(page.get_by_role("group", name="How long").locator("[aria-current]")).to_have_text("7d")
    page.get_by_role("link", name="newest", exact=True).click()
    page.wait_for_url(lambda address: "until" not in address)
    expect(page.get_by_text("Nothing newer is counted")).to_be_visible()


def test_by_keyboard_alone(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(f"{url}/advertiser?id=acme&{DAY}")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        assert focused["outlined"], focused
        reached.add(focused["what"])
        if focused["what"] == "summary" and not page.locator("figure details[open]").count():
            page.keyboard.press("Enter")
            assert page.locator("figure details[open]").count() == 1
    assert {"a", "summary", "div"} <= reached


def test_it_lives(open_page: Callable[..., Page], place: Place, url: str) -> None:
    """What is written shows without a reload, and what is open stays open."""
    page = open_page(f"{url}/advertiser?id=live&range=1h")
    expect(page.get_by_text("No events in this range")).to_be_visible()
    now = round(time.time() * 1_000) // 60_000 * 60_000
    _write(place, "live", now - 120_000, 5)
    shown = page.locator("section[aria-labelledby=gross] tbody")
    expect(shown).to_contain_text("5", timeout=30_000)
    page.locator("figure summary").first.click()
    page.locator("figure summary").first.focus()
    _write(place, "live", now - 60_000, 7)
    expect(shown).to_contain_text("12", timeout=30_000)
    assert page.locator("figure details").first.get_attribute("open") is not None
    expect(page.locator("figure summary").first).to_be_focused()
    page.get_by_label("live").uncheck()


def test_elasticsearch_away(open_page: Callable[..., Page], place: Place) -> None:
    nobody = ("--elasticsearch", "http://127.0.0.1:9", "--elasticsearch-index-prefix", "x")
    with running("--output", str(place.output), *nobody) as url:
        page = open_page(f"{url}/?{DAY}")
        expect(page.get_by_text("does not answer")).to_be_visible()
        page.get_by_role("link", name="read from the files").click()
        expect(page.locator("table.list tbody tr")).to_have_count(3)


def test_entering_with_a_token(
    open_page: Callable[..., Page], place: Place, tmp_path: Path
) -> None:
    file = str(tmp_path / "tokens.toml")
    token = new_token(file, "shop", [ADVERTISERS[1]])
    with running("--output", str(place.output), *place.cluster, "--tokens", file) as url:
        page = open_page(f"{url}/advertiser?id={quote(ADVERTISERS[1])}&{DAY}")
        field = page.get_by_label("Your token")
        expect(field).to_be_focused()
        field.fill("guess")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("Nobody has this token")
        page.get_by_label("Your token").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text(ADVERTISERS[1])
        assert token not in page.url and page.evaluate("document.cookie") == ""
        page.get_by_role("link", name="Advertisers", exact=True).first.click()
        expect(page.locator("table.list tbody tr")).to_have_count(1)
        page.get_by_role("link", name="leave").click()
        expect(page.get_by_label("Your token")).to_be_visible()


def _write(place: Place, advertiser: str, start_ms: int, clicks: int) -> None:
    table = summaries(advertiser, [(start_ms - START) // 60_000], campaigns=["a"])
    changed = {"clicks": clicks, "net_clicks": clicks, "givt_clicks": 0}
    for name, value in changed.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), [[value] * table.num_rows])
    with connect(place.config) as client:
        made = documents(table, "summaries", place.config, start_ms)
        assert BulkWriter(client, place.config).write(made) == []
        client.indices.refresh(index=f"{place.prefix}-*")


_LOW_CONTRAST = """() => {
  const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    if (element.closest('.hidden, .skip, #tip, script')) continue;
    const style = getComputedStyle(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [light(ink), light(behind(element))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push([element.tagName, element.textContent.trim().slice(0, 30), ratio]);
  }
  return found;
}"""
"""Text with a contrast below 4.5 to 1: WCAG 2.2, 1.4.3."""

_UNLABELLED = """() => [...document.querySelectorAll('input, button, a, svg, img')]
  .filter(e => e.type !== 'hidden' && e.checkVisibility() && !e.closest('[aria-hidden=true]'))
  .filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
  .map(e => e.outerHTML.slice(0, 80))"""

_SMALL = """() => [...document.querySelectorAll('a, button, input, summary')]
  .filter(e => e.checkVisibility() && !e.closest('p, .skip'))
  .map(e => [e.outerHTML.slice(0, 60), e.getBoundingClientRect()])
  .filter(([, box]) => box.right > 0 && box.height < 16).map(([text]) => text)"""

_FOCUSED = """() => {
  const style = getComputedStyle(document.activeElement);
  return {what: document.activeElement.tagName.toLowerCase(),
          outlined: document.activeElement === document.body
            || style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1};
}"""
