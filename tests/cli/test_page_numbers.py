"""The numbers of the page: how sure they are, what papers report, and whether two heads differ."""

import dataclasses
import datetime
import functools
import re

import numpy as np
import pytest
import torch

from muse.cli.page.content import HeadResult, PageContent, head_result, page_content
from muse.cli.page.page import page_of
from muse.cli.page.uncertainty import uncertainty
from muse.head.bootstrap import Resampling, intervals
from muse.head.embeddings import SplitEmbeddings, embed_split
from muse.head.evaluate import report_of
from muse.head.model import MeanPoolHead
from tests.head.memory_store import MemoryStore, make_store

DAY = datetime.date(2026, 1, 2)
DRAWS = Resampling(level=0.9, draws=100)
AXES = ("what", "where", "order")


def _store(*, protocol: str = "made up", axes: tuple[str, ...] = ("",)) -> MemoryStore:
    store = make_store(num_videos=12, num_test_videos=9, noise=0.1, is_turned=False, axes=axes)
    store.header = dataclasses.replace(store.header, protocol=protocol)
    return store


def _result(store: MemoryStore, embedded: SplitEmbeddings, name: str) -> HeadResult:
    report = report_of(store, embedded, head_name=name)
    return head_result(store, report, embedded, resampling=DRAWS)


@functools.cache
def _usual(
    *, protocol: str = "made up", axes: tuple[str, ...] = ("",), shift: int | None = None
) -> PageContent:
    """Made once for all tests that read it."""
    return _content(_store(protocol=protocol, axes=axes), shift=shift)


def _content(store: MemoryStore, *, shift: int | None = None) -> PageContent:
    """Of mean pooling, which is nearly always right; against one whose videos are shifted."""
    embedded = embed_split(store, MeanPoolHead(), split="test")
    other = None
    if shift is not None:
        shifted = dataclasses.replace(embedded, video_VD=embedded.video_VD.roll(shift, 0))
        other = _result(store, shifted, "mean-pool")
    head = _result(store, embedded, "mean-pool")
    return page_content(store, embedded, head=head, against=other, resampling=DRAWS)


def _text(content: PageContent) -> str:
    return re.sub("<[^>]*>", " ", page_of(content, {}, on=DAY))


def test_each_number_of_a_head_has_its_interval() -> None:
    content = _usual(axes=AXES)
    text = " ".join(_text(content).split())
    assert "90 % bootstrap intervals, 100 draws of videos" in text
    found = content.head.uncertainty
    report = content.head.report
    for axis in (None, *report.by_axis):
        of = report if axis is None else report.by_axis[axis]
        for numbers, to_video in ((of.text_to_video, True), (of.video_to_text, False)):
            around = found.of(to_video=to_video, axis=axis)
            assert {*around} == {*numbers.as_json()}
            for name, value in numbers.as_json().items():
                one = around[name]
                assert one.low - 1e-9 <= value <= one.high + 1e-9
                assert f"{value:.1f} [{one.low:.1f}, {one.high:.1f}]" in text


def test_an_axis_has_the_interval_of_its_own_captions_alone() -> None:
    content = _usual(axes=AXES, shift=1)
    assert content.against is not None
    ranks = content.against.ranks
    names = [caption.axis for caption in content.captions_Q]
    chosen = torch.tensor([name == "where" for name in names])
    expected = intervals(
        [ranks.text_to_video.of(chosen)],
        torch.from_numpy(content.video_of_caption_Q)[chosen],
        resampling=DRAWS,
    )
    assert content.against.uncertainty.of(to_video=True, axis="where") == expected
    assert content.against.uncertainty.of(to_video=True, axis="no such") == {}


def test_an_axis_of_one_video_has_no_interval() -> None:
    content = _usual()
    names = ["alone" if place == 0 else "others" for place in range(len(content.captions_Q))]
    found = uncertainty(content.head.ranks, names, resampling=DRAWS)
    assert found.intervals is not None
    assert {*found.intervals.by_axis} == {"others"}


def test_one_video_makes_a_page_without_intervals() -> None:
    store = make_store(num_videos=4, num_test_videos=1, noise=0.1)
    content = _content(store, shift=1)
    assert content.comparison is None
    assert 'class="interval"' not in page_of(content, {}, on=DAY)


def test_two_heads_that_differ_are_said_to_in_words_with_p_value() -> None:
    text = " ".join(_text(_usual(shift=1)).split())
    assert re.search(
        r"Text to video: R@1 \d+\.\d under mean-pool, \d+\.\d under mean-pool \(again\): "
        r"a difference of \+\d+\.\d \(90 % interval \+\d+\.\d to \+\d+\.\d\), p = 0\.\d{3} in a "
        r"paired permutation test\. mean-pool is better, by more than chance explains, on "
        r"18 queries of 9 videos\.",
        text,
    )


def test_one_head_is_told_with_its_interval() -> None:
    content = _usual()
    value = content.head.report.text_to_video.recall_at[1]
    around = content.head.uncertainty.of(to_video=True)["R@1"]
    words = f"Text to video: R@1 {value:.1f} (90 % interval {around.low:.1f} to {around.high:.1f})."
    assert words in _text(content)


def test_a_head_against_itself_shows_no_difference() -> None:
    text = " ".join(_text(_usual(shift=0)).split())
    assert "a difference of +0.0" in text
    assert "p = 1.000" in text
    assert "no difference that 18 queries of 9 videos can show" in text
    assert "by more than chance" not in text


def test_the_paper_s_rows_stand_beside_a_protocol_that_has_them() -> None:
    page = page_of(_usual(protocol="MSR-VTT 1k-A train+test"), {}, on=DAY)
    rows = re.findall(r'<tr class="published">(.*?)</tr>', page)
    assert len(rows) == 4  # two methods, both directions
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", rows[0])
    assert cells == [
        "MUSE (published)",
        "1000",
        "44.8",
        "71.6",
        "82.1",
        "–",
        "2.0",
        "15.6",
        "198.5",
    ]
    assert "arXiv 2408.10575" in page


@pytest.mark.parametrize(("num", "is_noted"), [((1000, 1000), False), ((9, 18), True)])
def test_another_number_of_videos_is_said_not_to_be_comparable(
    num: tuple[int, int], is_noted: bool
) -> None:
    content = _usual(protocol="MSR-VTT 1k-A test")
    report = dataclasses.replace(content.head.report, num_videos=num[0], num_captions=num[1])
    head = dataclasses.replace(content.head, report=report)
    text = _text(dataclasses.replace(content, head=head))
    assert ("Not comparable with the published rows: these are of 9 videos and 18 captions, the "
            "published ones of 1,000 and 1,000" in text) == is_noted  # fmt: skip


def test_a_protocol_without_published_rows_says_so() -> None:
    page = page_of(_usual(protocol="world train+test"), {}, on=DAY)
    assert "no published numbers of the protocol world train+test, split test" in page
    assert "(published)" not in page


def test_numbers_that_look_the_same_are_not_told_apart_in_bold() -> None:
    content = _usual(shift=0)
    numbers = content.head.report.text_to_video
    nearly = dataclasses.replace(numbers, mean_rank=float(np.nextafter(numbers.mean_rank, 99)))
    report = dataclasses.replace(content.head.report, text_to_video=nearly)
    head = dataclasses.replace(content.head, report=report)
    assert 'class="best"' not in page_of(dataclasses.replace(content, head=head), {}, on=DAY)
