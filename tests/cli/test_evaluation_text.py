"""What ``muse evaluate`` prints of one head."""

import pytest

from muse.cli.evaluation_text import print_evaluation
from muse.head.bootstrap import Resampling
from muse.head.embeddings import embed_split
from muse.head.evaluate import report_of, split_ranks
from muse.head.model import MeanPoolHead
from muse.head.retrieval_intervals import retrieval_intervals
from tests.head.memory_store import make_store


def test_an_axis_has_intervals_beside_its_numbers_where_it_has_two_videos(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = make_store(num_videos=9, captions_per_video=2, axes=("what", "where"))
    embedded = embed_split(store, MeanPoolHead(), split="train")
    axes = [store.captions[row].axis for row in embedded.selection.caption_rows_Q]
    axes[axes.index("what")] = "once"
    found = retrieval_intervals(
        [split_ranks(embedded)],
        video_of_caption_Q=embedded.video_of_caption_Q,
        resampling=Resampling(draws=100),
        axis_of_caption_Q=axes,
    )
    assert sorted(found.by_axis) == ["what", "where"]
    report = report_of(store, embedded, head_name="mean-pool")
    print_evaluation(report, found)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "where" in line)
    interval = found.by_axis["where"].text_to_video["R@1"]
    number = report.by_axis["where"].text_to_video.recall_at[1]
    assert f"{number:.1f} [{interval.low:.1f}, {interval.high:.1f}]" in row
    assert row.count("[") == 4
    print_evaluation(report, None)
    assert "[" not in capsys.readouterr().out
