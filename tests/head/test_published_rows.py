"""What papers report: data that fits the benchmarks, and is found by a store's protocol."""

import pytest

from muse.head.published_rows import PUBLISHED, PublishedProtocol, published_protocol
from muse.pipeline.datasets.benchmark import Size, benchmarks

NAMES = {"R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum"}


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda one: one.title)
def test_a_protocol_is_a_benchmark_s_and_of_its_published_size(
    published: PublishedProtocol,
) -> None:
    (benchmark,) = [one for one in benchmarks().values() if one.title == published.title]
    sizes = benchmark.splits[published.split].sizes
    assert Size(num_videos=published.num_videos, num_captions=published.num_captions) in sizes
    label = benchmark.label(["train", published.split])
    assert published_protocol(label, published.split) is published


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda one: one.title)
def test_published_numbers_can_be_numbers_and_name_their_source(
    published: PublishedProtocol,
) -> None:
    for row in published.rows:
        assert "arXiv" in row.source
        for numbers in (row.text_to_video, row.video_to_text):
            assert {*numbers} <= NAMES
            recalls = [numbers[name] for name in ("R@1", "R@5", "R@10") if name in numbers]
            assert recalls == sorted(recalls)
            assert all(0 < value < 100 for value in recalls)
            assert "Rsum" not in numbers or numbers["Rsum"] == pytest.approx(sum(recalls))


def test_the_paper_s_row_of_msr_vtt_is_the_one_that_is_quoted() -> None:
    found = published_protocol("MSR-VTT 1k-A test", "test")
    assert found is not None
    muse = next(row for row in found.rows if row.method == "MUSE")
    assert [muse.text_to_video[name] for name in ("R@1", "R@5", "R@10")] == [44.8, 71.6, 82.1]
    assert muse.text_to_video["Rsum"] == pytest.approx(198.5)
    assert muse.video_to_text["R@1"] == 44.9


@pytest.mark.parametrize(
    ("protocol", "split"),
    [
        ("folder", "test"),
        ("world train+val+test", "test"),
        ("MSR-VTT 1k-A train+test", "train"),
        ("MSR-VTT 1k-A train", "test"),
        ("MSR-VTT full test-full", "test"),
        ("ActivityNet Captions (paragraph, val2) test-val2", "test"),
        ("VATEX (English, 1500) test", "test"),
        ("", "test"),
    ],
)
def test_another_list_or_split_has_no_published_rows(protocol: str, split: str) -> None:
    assert published_protocol(protocol, split) is None


def test_two_benchmarks_in_one_store_are_told_apart() -> None:
    found = published_protocol("MSVD train + MSR-VTT 1k-A test", "test")
    assert found is not None
    assert found.title == "MSR-VTT 1k-A"


def test_a_part_of_the_videos_is_another_size() -> None:
    found = published_protocol("MSVD test", "test")
    assert found is not None
    assert found.is_of_size(num_videos=670, num_captions=27763)
    assert not found.is_of_size(num_videos=54, num_captions=2220)
