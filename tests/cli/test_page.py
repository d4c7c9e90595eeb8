"""The page of an evaluation: complete, harmless, and one file."""

import dataclasses
import datetime
import functools
import math
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muse.cli.page.content import (
    MAX_AXES,
    HeadResult,
    PageContent,
    head_result,
    page_content,
    shown_pairs,
    shown_videos,
)
from muse.cli.page.markup import element
from muse.cli.page.numbers import chance_numbers
from muse.cli.page.page import page_of, write_page
from muse.errors import StoreError, UsageError
from muse.head.bootstrap import Resampling
from muse.head.embeddings import SplitEmbeddings, embed_split
from muse.head.evaluate import report_of
from muse.head.model import MeanPoolHead
from muse.pipeline.records import Failure
from tests.cli.conftest import Outcome
from tests.head.memory_store import MemoryStore, make_store

DAY = datetime.date(2026, 1, 2)
FEW_DRAWS = Resampling(draws=100)
AXES = ("what", "where", "order")
HOSTILE = (
    "</style><script>alert(1)</script> \"x\" 'y' & <img src=http://a.example onerror=b>"
    "\x00\x1b\ud800"
)
VOID = {"img", "meta"}


class Reader(HTMLParser):
    """Elements, texts, and whether every start tag has its end tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def _store(**changes: Any) -> MemoryStore:
    return make_store(**{"num_videos": 9, "captions_per_video": 2, "noise": 3.0, **changes})


def _embedded(store: MemoryStore) -> SplitEmbeddings:
    return embed_split(store, MeanPoolHead(), split="train")


def _result(store: MemoryStore, *, name: str = "mean-pool", seed: int | None = None) -> HeadResult:
    """Mean pooling, or with a seed a head that knows nothing."""
    embedded = _embedded(store)
    if seed is not None:
        shuffled = np.random.default_rng(seed).permutation(len(embedded.video_VD))
        embedded = dataclasses.replace(embedded, video_VD=embedded.video_VD[shuffled])
    report = report_of(store, embedded, head_name=name)
    return head_result(store, report, embedded, resampling=FEW_DRAWS)


def _content(store: MemoryStore, *, has_other: bool = True, **changes: Any) -> PageContent:
    other = _result(store, name="other", seed=0) if has_other else None
    content = page_content(
        store, _embedded(store), head=_result(store), against=other, resampling=FEW_DRAWS
    )
    return dataclasses.replace(content, **changes)


@functools.cache
def _usual(*, has_other: bool = True, axes: tuple[str, ...] = ("",)) -> PageContent:
    """Made once for all tests that read it."""
    return _content(_store(axes=axes), has_other=has_other)


@functools.cache
def _usual_page() -> str:
    return _page(_usual())


def _page(content: PageContent) -> str:
    return page_of(content, {}, on=DAY)


def _leaves(numbers: object) -> Iterator[float]:
    if isinstance(numbers, dict):
        for value in numbers.values():
            yield from _leaves(value)
    elif isinstance(numbers, float):
        yield numbers


def test_every_tag_is_closed_and_every_table_and_chart_says_what_it_is() -> None:
    reader = Reader(_page(_usual(axes=AXES)))
    assert reader.open == []
    tables = [tag for tag, _ in reader.elements if tag in ("table", "caption")]
    assert tables == ["table", "caption"] * (len(tables) // 2)
    assert all(cell.get("scope") for cell in reader.named("th"))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    for chart in reader.named("svg"):
        words = (chart.get("aria-labelledby") or "").split()
        assert chart.get("aria-hidden") or (words and set(words) <= set(ids))
    assert {"lang": "en"} in reader.named("html")


def test_each_number_of_the_json_is_on_the_page() -> None:
    content = _usual(axes=AXES)
    text = Reader(_page(content)).text.split()
    reports = (content.head.report, content.against.report) if content.against else ()
    for report in reports:
        for value in _leaves(report.as_json()):
            assert f"{value:.1f}" in text
    for value in (*chance_numbers(9).as_json().values(), 18, 9):
        assert f"{value:.1f}" in text or str(value) in text


def test_header_names_store_encoder_counts_and_day() -> None:
    store = _store(missing_videos=[8])
    text = Reader(_page(_content(store))).text
    for words in ("made up", "8 of 9 listed", "16 of 18 listed", "fake", "000000000000", "9-18",
                  "uniform", "2026-01-02", "mean-pool", "other"):  # fmt: skip
        assert words in text


def test_page_fetches_nothing_and_runs_nothing() -> None:
    page = page_of(_usual(), {"video0": "data:image/jpeg;base64,AAAA"}, on=DAY)
    reader = Reader(page)
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    for tag, attributes in reader.elements:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:image/"))
        assert (attributes.get("src") or "data:image/jpeg").startswith("data:image/jpeg")
    assert len(reader.named("img")) > 0


@pytest.mark.parametrize("has_other", [True, False])
def test_hostile_texts_and_names_stay_texts(has_other: bool) -> None:
    store = _store(axes=(HOSTILE,))
    store.captions = [dataclasses.replace(c, text=HOSTILE) for c in store.captions]
    store.video_ids = [f"{HOSTILE}{row}" for row in range(9)]
    store.captions = [
        dataclasses.replace(c, video_id=store.video_ids[place // 2])
        for place, c in enumerate(store.captions)
    ]
    store.header = dataclasses.replace(store.header, protocol=HOSTILE)
    store.location = HOSTILE
    store.failures = [
        Failure(video_id=HOSTILE, path=HOSTILE, stage="decode", reason="corrupt", message=HOSTILE)
    ]
    page = _page(_content(store, has_other=has_other, remarks=[HOSTILE]))
    reader = Reader(page)
    assert reader.open == []
    assert not reader.named("script")
    assert not reader.named("img")
    assert "<script>alert(1)</script>" in reader.text
    assert "\x00" not in page
    assert "\x1b" not in page
    page.encode("utf-8")


def test_a_video_without_a_picture_is_a_tile_with_its_id() -> None:
    content = _usual()
    page = page_of(content, {"video0": "data:image/jpeg;base64,AAAA"}, on=DAY)
    reader = Reader(page)
    tiles = {a.get("aria-label") for a in reader.named("div") if a.get("class") == "film tile"}
    shown = {video.video_id for video in shown_videos(content)}
    assert tiles == {f"{video_id}: no pictures" for video_id in shown - {"video0"}}
    alts = {a["alt"] for a in reader.named("img")}
    assert alts == ({"Frames of video video0"} if "video0" in shown else set())


@pytest.mark.parametrize("has_other", [True, False])
def test_the_right_video_is_marked_once_for_each_head_in_every_example(has_other: bool) -> None:
    content = _usual(has_other=has_other)
    num_examples = sum(len(group.examples) for group in content.groups)
    right = [a for a in Reader(_page(content)).named("li") if a.get("class") == "right"]
    assert len(right) == num_examples * (1 + has_other) > 0


def test_what_responds_is_shown_below_the_example_of_its_caption_and_video() -> None:
    content = _usual()
    pair, *others = shown_pairs(content)
    assert pair[1] == content.video_of_caption_Q[pair[0]]
    assert len({pair, *others}) == 1 + len(others)
    responses = {pair: element("p", "what responds"), (pair[0], -1): element("p", "elsewhere")}
    text = Reader(page_of(content, {}, on=DAY, responses=responses)).text
    assert (text.count("what responds"), text.count("elsewhere")) == (1, 0)


def test_numbers_that_are_none_are_dashes() -> None:
    content = _usual()
    numbers = dataclasses.replace(content.head.report.text_to_video, mean_rank=math.nan)
    report = dataclasses.replace(content.head.report, text_to_video=numbers)
    log = [{"step": 1, "loss": math.nan, "lr": math.inf}, {"step": 2, "loss": 1.0, "lr": 0.1}]
    curve = [(1, math.nan), (9, 100.0)]
    head = dataclasses.replace(
        content.head, report=report, log=log, text_to_video_curve=curve,
        rank_Q=np.full(18, math.nan),
    )  # fmt: skip
    page = _page(dataclasses.replace(content, head=head))
    for word in (">nan", "nan<", '"nan', "nan,", " nan", ">inf", '"inf', " inf<"):
        assert word not in page.lower()
    assert "–" in page


def test_axes_are_shown_where_there_are_any() -> None:
    assert "By axis" not in _usual_page()
    content = _usual(axes=AXES)
    assert [group.axis for group in content.groups] == sorted(AXES)
    text = Reader(_page(content)).text
    assert "By axis" in text
    for group in content.groups:
        assert all(content.captions_Q[e.query].axis == group.axis for e in group.examples)


def test_many_axes_have_numbers_and_the_first_have_examples() -> None:
    names = tuple(f"axis{number:02}" for number in range(MAX_AXES + 2))
    content = _content(_store(axes=names))
    assert [group.axis for group in content.groups] == list(names[:MAX_AXES])
    text = Reader(_page(content)).text
    assert names[-1] in text
    assert f"The first {MAX_AXES} of {MAX_AXES + 2} axes" in text


def test_one_head_alone_makes_a_page() -> None:
    reader = Reader(_page(_usual(has_other=False)))
    assert "Found by other" not in reader.text
    assert "permutation" not in reader.text
    assert "Held against" in reader.text
    assert not [a for _, a in reader.elements if "against" in (a.get("class") or "").split()]


def test_training_is_shown_where_there_is_a_log() -> None:
    content = _usual()
    assert "Training" not in Reader(_page(content)).text
    log = [{"step": step, "loss": 4.0 / step, "lr": 0.001} for step in range(1, 2001)]
    page = _page(dataclasses.replace(content, head=dataclasses.replace(content.head, log=log)))
    assert "2000 steps" in page
    assert len(page) < len(_page(content)) + 20_000


def test_failures_are_counted_by_reason() -> None:
    store = _store()
    reasons = ["corrupt"] * 7 + ["missing"]
    store.failures = [
        Failure(video_id=f"bad{n}", path="", stage="decode", reason=reason, message="")
        for n, reason in enumerate(reasons)
    ]
    text = Reader(_page(_content(store))).text
    assert "bad0, bad1, bad2, bad3, bad4 and 2 more" in text
    assert text.index("corrupt") < text.index("missing")


def test_heads_that_saw_different_captions_are_refused() -> None:
    store = _store()
    other = _result(_store(num_videos=8))
    with pytest.raises(StoreError, match="18 captions for one head and 16 for the other"):
        page_content(store, _embedded(store), head=_result(store), against=other)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_page(tmp_path / "deep" / "page.html", "x")
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == "x"
    with pytest.raises(UsageError, match="--html"):
        write_page(tmp_path / "deep" / "page.html" / "below.html", "x")


def test_comparison_without_a_page_is_refused(muse: Callable[..., Outcome]) -> None:
    outcome = muse("evaluate", "store", "--against", "mean-pool")
    assert (outcome.code, "Add --html FILE" in outcome.err) == (2, True)


@pytest.mark.slow
def test_command_writes_a_page_with_films_and_says_where(
    muse: Callable[..., Outcome], store: Path, tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "out" / "report.html"
    train = ("--epochs", "1", "--batch-size", "4", "--depth", "1", "--device", "cpu")
    assert muse("train-head", store, "--out", run, *train).code == 0
    plain = muse("evaluate", store, "--head", run)
    outcome = muse("evaluate", store, "--head", run, "--against", "mean-pool", "--html", file)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{plain.out}report: {file}\n"
    reader = Reader(file.read_text(encoding="utf-8"))
    assert reader.open == []
    assert len(reader.named("img")) > 0
    assert "Training" in reader.text
    assert "raises the score" in reader.text
    without = muse("evaluate", store, "--head", run, "--html", file, "--maps", "0")
    assert without.code == 0
    assert "raises the score" not in Reader(file.read_text(encoding="utf-8")).text
