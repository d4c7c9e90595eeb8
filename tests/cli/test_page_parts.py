"""What the page is made of: markup, charts, examples and film strips, each alone."""

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from muse.cli.page.charts import Bars, Curve, Dots, bar_chart, curve_chart, dot_chart
from muse.cli.page.examples import examples_among
from muse.cli.page.film_strips import NUM_FRAMES, SIDE, film_strips, stored_thumbnails
from muse.cli.page.markup import Markup, element, joined, number, rank_text, table
from muse.cli.page.rank_bins import rank_bins
from muse.errors import StoreError
from muse.head.ranks import Ranks
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.decoder import DecodeTask, attempt
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, VideoRef
from tests.head.memory_store import MemoryStore, make_store

UNIFORM = Sampling(kind="uniform", num_frames=8)
NAMES = {"head": "run", "against": "mean-pool", "chance": "chance"}


def test_texts_are_escaped_once_and_markup_is_kept() -> None:
    inner = element("b", "1 < 2 & 3")
    assert element("p", inner, title='"<>"') == (
        '<p title="&quot;&lt;&gt;&quot;"><b>1 &lt; 2 &amp; 3</b></p>'
    )
    assert element("p", title=Markup("<b>")) == '<p title="&lt;b&gt;"></p>'
    assert joined(["<", Markup("<br>")], ", ") == "&lt;, <br>"


def test_names_of_attributes_and_none() -> None:
    assert element("i", class_="a", aria_label="b", id=None) == '<i class="a" aria-label="b"></i>'
    assert element("img", width=1.0) == '<img width="1">'


def test_cells_of_a_table_are_escaped() -> None:
    found = table("a<b", ["x", "y"], [["<i>", "2"]])
    assert "<caption><span>a&lt;b</span></caption>" in found
    assert '<th scope="row">&lt;i&gt;</th><td>2</td>' in found


@pytest.mark.parametrize(
    ("rank", "text"), [(1.0, "1"), (3.5, "3.5"), (math.nan, "–"), (math.inf, "–")]
)
def test_ranks_have_a_half_only_where_they_need_it(rank: float, text: str) -> None:
    assert rank_text(rank) == text


def test_what_is_no_number_is_a_dash() -> None:
    assert [number(v) for v in (1.25, 100.0, math.nan, -math.inf)] == ["1.2", "100.0", "–", "–"]


def test_dots_stand_in_the_order_of_their_values() -> None:
    rows = [Dots(label="what", values={"head": 40.0, "against": 20.0, "chance": 1.0})]
    chart = dot_chart(rows, key="k", title="t", names=NAMES)
    body = chart[chart.index("<desc") :]
    middle = {role: float(x) for x, role in re.findall(r'cx="([\d.]+)".*?class="mark (\w+)"', body)}
    assert middle["against"] != middle["head"]
    assert "what: run 40.0, mean-pool 20.0, chance 1.0" in chart
    marks = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"[^>]*class="mark (\w+)"', body)
    x_of = {role: float(x) for x, y, role in marks if float(y) > 20}
    assert x_of["against"] < x_of["head"]


@pytest.mark.parametrize("value", [0.0, math.nan, 100.0, 1e-9])
def test_charts_of_odd_values_have_finite_places(value: float) -> None:
    rows = [Dots(label="x" * 99, values={"head": value, "chance": 0.0})]
    dots = dot_chart(rows, key="k", title="t", names={"head": "a", "chance": "b"})
    curves = [Curve(role="head", points=[(1, value), (1, value)])]
    names = {"head": "a"}
    curve = curve_chart(curves, key="k", title="t", names=names, x_title="x", is_log=True)
    for chart in (dots, curve):
        assert "nan" not in chart
        assert "inf" not in chart
        places = [float(x) for x in re.findall(r' c?[xy][12]?="(-?[\d.e+-]+)"', chart)]
        assert all(-10 <= place <= 730 for place in places)


def test_a_curve_without_a_point_is_no_chart() -> None:
    curves = [Curve(role="head", points=[(1, math.nan)])]
    assert curve_chart(curves, key="k", title="t", names={"head": "a"}, x_title="x") == ""


def _examples(
    queries: Sequence[int],
    rank: Sequence[float],
    against: Sequence[float] | None = None,
    *,
    videos: Sequence[int] | None = None,
    num_each: int = 2,
    seed_of: str = "store",
) -> list[tuple[int, str]]:
    found = examples_among(
        queries,
        rank_Q=np.array(rank, dtype=np.float64),
        against_Q=None if against is None else np.array(against, dtype=np.float64),
        video_of_query_Q=np.array(range(len(rank)) if videos is None else videos),
        num_each=num_each,
        seed_of=seed_of,
    )
    return [(example.query, example.kind) for example in found]


def test_examples_are_the_largest_gains_the_largest_losses_and_the_worst() -> None:
    found = _examples(range(6), [1, 2, 30, 9, 50, 4], [9, 40, 3, 8, 50, 5])
    assert found == [
        (1, "improved"),  # by 38
        (0, "improved"),  # by 8
        (2, "worsened"),  # by 27
        (3, "worsened"),  # by 1
        (4, "missed"),
    ]


def test_no_video_is_shown_for_two_queries() -> None:
    assert [query for query, _ in _examples(range(3), [1, 1, 1], [9, 8, 7], videos=[0, 0, 1])] == [
        0,
        2,
    ]


def test_one_head_alone_shows_the_worst_and_some_at_random() -> None:
    found = _examples(range(20), [*range(1, 20), 99])
    assert found[:2] == [(19, "missed"), (18, "missed")]
    drawn = [query for query, kind in found if kind == "drawn"]
    assert len(drawn) == 2
    assert not {18, 19} & {*drawn}


def test_the_same_words_draw_the_same_queries_and_others_draw_others() -> None:
    ranks = [1.0] * 1000
    first, again, other = (_examples(range(1000), ranks, seed_of=words) for words in "aab")
    assert first == again != other


def test_a_head_that_is_always_right_and_the_same_as_the_other_has_no_example() -> None:
    assert not _examples(range(4), [1] * 4, [1] * 4)


def _ranks(*better: int) -> Ranks:
    """Of queries whose answer has so many better ones, no ties."""
    return Ranks(
        num_better=torch.tensor(better), num_equal=torch.ones(len(better), dtype=torch.int64)
    )


def test_ranks_fall_into_bins_that_widen() -> None:
    found = rank_bins(_ranks(0, 0, 1, 2, 4, 5, 9, 10, 59, 59), 60)
    assert [(one.label, round(one.share)) for one in found] == [
        ("1", 20), ("2", 10), ("3–5", 20), ("6–10", 20), ("11–50", 10), ("51–60", 20),
    ]  # fmt: skip
    assert sum(one.chance for one in found) == pytest.approx(100)
    assert found[2].chance == pytest.approx(100 * 3 / 60)


@pytest.mark.parametrize("num", [1, 2, 3, 5, 10, 50, 51, 5000])
def test_bins_cover_every_rank_once(num: int) -> None:
    found = rank_bins(_ranks(0, num - 1), num)
    ranks = [rank for one in found for rank in range(one.first, one.last + 1)]
    assert ranks == [*range(1, num + 1)]
    assert sum(one.share for one in found) == pytest.approx(100)


def test_a_tie_is_in_each_bin_that_its_orders_reach() -> None:
    tied = Ranks(num_better=torch.tensor([0]), num_equal=torch.tensor([4]))
    assert [one.share for one in rank_bins(tied, 4)] == [25, 25, 50]


def test_bars_are_as_high_as_their_values_and_have_words() -> None:
    groups = [
        Bars(label="1", values={"head": 40.0, "against": 20.0, "chance": 5.0}),
        Bars(label="2–9", values={"head": math.nan, "against": 0.0, "chance": 95.0}),
    ]
    chart = bar_chart(groups, key="k", title="t", names=NAMES, x_title="rank")
    drawn = chart[chart.index("<desc") :]
    heights = re.findall(r'height="([\d.]+)" class="mark (\w+)"', drawn)
    assert [role for _, role in heights] == ["head", "against", "against"]
    assert float(heights[0][0]) == pytest.approx(2 * float(heights[1][0]), abs=0.2)
    assert "1: run 40.0, mean-pool 20.0, chance 5.0; 2–9: run –, mean-pool 0.0" in chart
    assert "nan" not in drawn


def _picture(uri: str) -> NDArray[np.uint8]:
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_strip_shows_frames_from_first_to_last(
    two_second_video: Path, frame_index: Callable[[NDArray[np.uint8]], int]
) -> None:
    video = VideoRef(video_id="a", path=two_second_video)
    picture = _picture(film_strips([video], sampling=UNIFORM, decode=attempt)["a"])
    assert picture.shape == (SIDE, NUM_FRAMES * SIDE, 3)
    inner = [picture[20:-20, SIDE * n + 20 : SIDE * n + 76] for n in range(NUM_FRAMES)]
    shown = [frame_index(frame) for frame in inner]
    assert shown == sorted(set(shown))
    assert (shown[0], shown[-1]) == (1, 18)  # the first and last of eight midpoints of 20 frames


def test_files_that_are_gone_or_no_videos_have_no_strip(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    paths = {"gone": tmp_path / "gone.mp4", "text": tmp_path / "text.mp4", "folder": tmp_path}
    videos = [VideoRef(video_id=name, path=path) for name, path in paths.items()]
    videos += [VideoRef(video_id="none", path=None)]
    videos += [VideoRef(video_id="long", path=tmp_path / ("x" * 5000))]
    assert film_strips(videos, sampling=UNIFORM, decode=attempt) == {}


def _noise(task: DecodeTask) -> Clip | Failure:
    """Pictures that JPEG can't make small."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (NUM_FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    return Clip(video_id=task.video.video_id, frames_THWC=frames, pts_seconds_T=np.arange(4.0))


def test_strips_keep_to_their_bytes_and_the_first_come_first(two_second_video: Path) -> None:
    videos = [VideoRef(video_id=str(n), path=two_second_video) for n in range(10)]
    whole = film_strips(videos, sampling=UNIFORM, decode=_noise)
    assert list(whole) == [str(n) for n in range(10)]
    coarse = film_strips(
        videos, sampling=UNIFORM, decode=_noise, max_bytes=sum(map(len, whole.values())) - 1
    )
    assert list(coarse) == list(whole)
    assert len(coarse["0"]) < len(whole["0"])
    few = film_strips(videos, sampling=UNIFORM, decode=_noise, max_bytes=50_000)
    assert 0 < len(few) < 10
    assert list(few) == [str(n) for n in range(len(few))]
    assert sum(map(len, few.values())) <= 50_000


def _never(task: DecodeTask) -> Clip | Failure:
    raise AssertionError(f"{task.video.video_id} is decoded")


def test_thumbnails_of_the_store_are_shown_without_a_file_and_without_decoding(
    frame_index: Callable[[NDArray[np.uint8]], int],
    two_second_video: Path,
) -> None:
    crop = Preprocessing(
        size=8, resize_to=8, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
    )
    video = VideoRef(video_id="a", path=two_second_video)
    clip = decode_clip(video, sampling=UNIFORM, preprocessing=crop, thumbnail_side=SIDE)
    stored = {"a": clip.thumbnails, "gone": clip.thumbnails[:1]}
    videos = [video, VideoRef(video_id="gone", path=None)]
    strips = film_strips(videos, sampling=UNIFORM, decode=_never, thumbnails=lambda i: stored[i])
    for name, wanted in (("a", [1, 6, 13, 18]), ("gone", [1, 1, 1, 1])):
        picture = _picture(strips[name])
        assert picture.shape == (SIDE, NUM_FRAMES * SIDE, 3)
        inner = [picture[20:-20, SIDE * n + 20 : SIDE * n + 76] for n in range(NUM_FRAMES)]
        assert [frame_index(frame) for frame in inner] == wanted


@pytest.mark.parametrize("jpeg", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_a_video_whose_thumbnails_are_damaged_is_decoded(
    two_second_video: Path, jpeg: bytes
) -> None:
    videos = [VideoRef(video_id="a", path=two_second_video), VideoRef(video_id="b", path=None)]
    strips = film_strips(
        videos, sampling=UNIFORM, decode=_noise, thumbnails=lambda video_id: [jpeg]
    )
    assert list(strips) == ["a"]


def test_a_store_with_a_damaged_file_of_thumbnails_still_makes_a_page() -> None:
    class Damaged(MemoryStore):
        def read_thumbnails(self, row: int) -> tuple[bytes, ...] | None:
            if row == 1:
                raise StoreError("damaged")
            return (b"a picture",)

    made = make_store(num_videos=2)
    store = Damaged(
        made.header, made._clips, made.captions, made._embeddings_QD, made.has_embedding_Q
    )
    thumbnails = stored_thumbnails(store)
    assert [thumbnails(f"video{row}") for row in (0, 1)] == [(b"a picture",), ()]
    assert stored_thumbnails(made)("video0") == ()


def test_a_video_is_decoded_once(two_second_video: Path) -> None:
    decoded = []

    def decode(task: DecodeTask) -> Clip | Failure:
        decoded.append(task.video.video_id)
        return _noise(task)

    video = VideoRef(video_id="a", path=two_second_video)
    film_strips([video, video, video], sampling=UNIFORM, decode=decode)
    assert decoded == ["a"]
