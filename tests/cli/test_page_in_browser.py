"""The page as a reader meets it: in a browser, on a phone and a desk, in the dark, by keyboard.

Drives the system's Chromium through Playwright, which brings no browser of its own here. Without
one the tests are skipped.
"""

import base64
import dataclasses
import datetime
import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from muse.cli.page.content import head_result, mapped_pairs, page_content, shown_videos
from muse.cli.page.film_strips import NUM_FRAMES, SIDE
from muse.cli.page.markup import Markup
from muse.cli.page.page import page_of, write_page
from muse.cli.page.responses import response_figure
from muse.head.bootstrap import Resampling
from muse.head.embeddings import embed_split
from muse.head.evaluate import report_of
from muse.head.head_config import paper_head
from muse.head.model import MeanPoolHead, RetrievalHead
from muse.head.responses import responses
from tests.head.memory_store import MemoryStore, make_store

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DAY = datetime.date(2026, 1, 2)
DRAWS = Resampling(draws=100)
LONG = "a_name_without_a_space_" * 6
Scheme = Literal["light", "dark"]
KINDS = ("two-heads", "one-head")
WIDTHS = (360, 1280)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

# What is wider than the screen, and in no box that is moved sideways.
_TOO_WIDE = """() => [...document.body.querySelectorAll('*')]
  .filter(one => !one.parentElement.closest('.scroll, svg'))
  .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 90))"""
_FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]"
# Where the focus is among what can have it, and whether a line shows it.
_FOCUS = """(focusable) => { const one = document.activeElement, style = getComputedStyle(one);
  return [[...document.querySelectorAll(focusable)].filter(e => e.checkVisibility()).indexOf(one),
    style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2] }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, a page with everything that there can be, and one of a head alone, without films."""
    folder = tmp_path_factory.mktemp("pages")
    files = {kind: folder / f"{kind}.html" for kind in KINDS}
    write_page(files["two-heads"], _page_of_two_heads())
    write_page(files["one-head"], _page_of_one_head())
    return files


def _page_of_two_heads() -> str:
    store = make_store(num_videos=9, noise=3.0, axes=("what", "where"))
    store.header = dataclasses.replace(store.header, protocol="MSR-VTT 1k-A test")
    store.captions = [dataclasses.replace(caption, split="test") for caption in store.captions]
    embedded = embed_split(store, MeanPoolHead(), split="test")
    others = dataclasses.replace(embedded, video_VD=embedded.video_VD.roll(1, 0))
    head, against = (
        head_result(store, report_of(store, one, head_name=name), one, resampling=DRAWS)
        for one, name in ((embedded, "mean-pool"), (others, "mean-pool"))
    )
    report = dataclasses.replace(head.report, head=f"/{LONG}/run")
    log = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in range(1, 99)]
    content = page_content(
        store,
        embedded,
        head=dataclasses.replace(head, report=report, log=log),
        against=against,
        remarks=["What is to be known before the numbers."],
        resampling=DRAWS,
    )
    strips = {video.video_id: _picture() for video in shown_videos(content)[:6]}
    maps = {pair: _map(store, pair[1], key=f"map-{pair[0]}") for pair in mapped_pairs(content, 2)}
    return page_of(content, strips, on=DAY, responses=maps)


def _map(store: MemoryStore, video: int, *, key: str) -> Markup:
    """Of a head that was never trained, with a picture of each frame."""
    clip = store.read_clip(video)
    head = RetrievalHead(dataclasses.replace(paper_head(store.header), depth=1)).eval()
    found = responses(head, clip, np.ones(store.header.encoder.dim), device=torch.device("cpu"))
    pictures = [np.full((9, 9, 3), 80, dtype=np.uint8)] * int(clip.valid_T.sum())
    return response_figure(
        found, key=key, name=f"Maps of {key}", pts_seconds_T=clip.pts_seconds_T, pictures=pictures
    )


def _page_of_one_head() -> str:
    store = make_store(num_videos=9, noise=3.0)
    store.captions = [dataclasses.replace(one, text=f"{LONG} {one.text}") for one in store.captions]
    embedded = embed_split(store, MeanPoolHead(), split="train")
    report = report_of(store, embedded, head_name="mean-pool")
    head = head_result(store, report, embedded, resampling=DRAWS)
    return page_of(page_content(store, embedded, head=head, against=None), {}, on=DAY)


def _picture() -> str:
    frames = np.random.default_rng(0).integers(0, 256, (SIDE, NUM_FRAMES * SIDE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(frames).save(stream, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _opened(browser: Any, file: Path, *, width: int = 1280, scheme: Scheme = "light") -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(file.as_uri())
    return page


def _with_details_open(page: Any) -> Any:
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    return page


@pytest.mark.parametrize("kind", KINDS)
def test_the_browser_has_nothing_to_complain_of_and_asks_nobody(
    browser: Any, pages: dict[str, Path], kind: str
) -> None:
    said: list[str] = []
    asked: list[str] = []
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[kind].as_uri(), wait_until="networkidle")
        pictures = page.evaluate("[...document.images].map(one => one.naturalWidth)")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
    assert all(width == NUM_FRAMES * SIDE for width in pictures)
    assert (len(pictures) > 0) == (kind == "two-heads")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wider_than_the_screen(
    browser: Any, pages: dict[str, Path], kind: str, width: int
) -> None:
    page = _with_details_open(_opened(browser, pages[kind], width=width))
    assert page.evaluate(_TOO_WIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_names_of_rows_leave_room_for_numbers_on_a_phone(
    browser: Any, pages: dict[str, Path]
) -> None:
    page = _opened(browser, pages["two-heads"], width=360)
    widths = page.evaluate("[...document.querySelectorAll('tbody th')].map(th => th.offsetWidth)")
    rows = page.evaluate("[...document.querySelectorAll('tbody th')].map(th => th.scope)")
    names = [width for width, scope in zip(widths, rows, strict=True) if scope == "row"]
    assert 0 < max(names) < 180
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_has_a_name_for_a_screen_reader(
    browser: Any, pages: dict[str, Path], kind: str
) -> None:
    page = _with_details_open(_opened(browser, pages[kind]))
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    names = [
        node.get("name", {}).get("value", "")
        for node in tree
        if not node["ignored"] and node["role"]["value"] in ("image", "img", "graphics-document")
    ]
    assert len(names) == page.locator("img, svg:not([aria-hidden]), [role=img]:not(svg)").count()
    assert len(names) > 4
    assert all(name.strip() for name in names)
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_headings_are_an_outline(browser: Any, pages: dict[str, Path], kind: str) -> None:
    page = _opened(browser, pages[kind])
    script = "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(one => +one.tagName[1])"
    levels = page.evaluate(script)
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tab_key_comes_to_everything_in_order_and_is_seen_there(
    browser: Any, pages: dict[str, Path], kind: str
) -> None:
    page = _with_details_open(_opened(browser, pages[kind], width=360))
    num = len([one for one in page.locator(_FOCUSABLE).all() if one.is_visible()])
    visited = []
    for _ in range(num):
        page.keyboard.press("Tab")
        visited.append(tuple(page.evaluate(_FOCUS, _FOCUSABLE)))
    assert visited == [(place, True) for place in range(num)]
    assert num > 4
    page.close()


def test_a_fold_opens_by_the_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    page = _opened(browser, pages["two-heads"])
    fold = page.locator("details").first
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.evaluate("one => one.open")
    assert fold.locator("table").is_visible()
    page.close()


def test_a_wide_table_moves_sideways_by_the_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    page = _opened(browser, pages["two-heads"], width=360)
    box = page.locator(".scroll").first
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_violation(
    browser: Any, pages: dict[str, Path], kind: str, scheme: Scheme
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    page = _with_details_open(_opened(browser, pages[kind], scheme=scheme))
    found = axe.Axe().run(page).response
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert len(found["passes"]) > 10
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_of_the_page_are_not_blank_and_dark_is_dark(
    browser: Any, pages: dict[str, Path], width: int, tmp_path: Path
) -> None:
    brightness = {}
    for scheme in SCHEMES:
        page = _opened(browser, pages["two-heads"], width=width, scheme=scheme)
        file = tmp_path / f"{width}-{scheme}.png"
        page.screenshot(path=file, full_page=True)
        page.close()
        with Image.open(file) as picture:
            assert picture.width == width
            assert picture.height > 2000
            shown = np.asarray(picture.convert("L"))
        assert len(np.unique(shown)) > 100
        brightness[scheme] = float(np.median(shown))
    assert brightness["dark"] < 60 < 200 < brightness["light"]
