"""The figure of responses: what is drawn where, what is read out, and how large it is."""

import base64
import io
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from muse.cli.page.map_pictures import map_uri, strip_uri
from muse.cli.page.responses import MAX_FRAMES, SHEET, response_figure, summary
from muse.head.responses import Responses, ScaleResponse


def made_up(num_frames: int, grids: tuple[int, ...], *, num_padded: int = 0) -> Responses:
    """Frame 2 responds most; row 1, column 0 of each scale, where there is one, in it."""
    rng = np.random.default_rng(0)
    valid_T = np.arange(num_frames) < num_frames - num_padded

    def values(grid: int) -> NDArray[np.float64]:
        drawn = rng.uniform(-0.001, 0.001, (num_frames, grid, grid)) * valid_T[:, None, None]
        drawn[1, min(1, grid - 1), 0] = 0.002
        return drawn

    return Responses(
        score=0.3,
        score_of_alike=0.2,
        valid_T=valid_T,
        class_tokens=ScaleResponse(
            values_TGG=values(1) + 0.02 * (np.arange(num_frames) == 1)[:, None, None]
        ),
        by_scale=tuple(ScaleResponse(values_TGG=values(grid)) for grid in grids),
        clip_frames_T=np.where(valid_T, 0.25, np.nan),
        clip_patches_TGG=np.where(valid_T[:, None, None], values(7) + 0.2, np.nan),
    )


def seconds(found: Responses) -> NDArray[np.float64]:
    return np.where(found.valid_T, 0.5 + np.arange(len(found.valid_T)), np.nan)


def figure(found: Responses, **options) -> str:
    return response_figure(found, key="k", name="Maps", pts_seconds_T=seconds(found), **options)


def pixels(uri: str) -> NDArray[np.uint8]:
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def picture_of(level: int, *, width: int = 90, height: int = 60) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, dtype=np.uint8)


def test_a_map_is_blue_where_it_raises_orange_where_it_lowers_and_clear_at_zero() -> None:
    values_nGG = np.array([[[1.0, 0.0], [0.0, -0.5]], [[0.0, 0.0], [0.5, 0.0]]])
    picture = pixels(map_uri(values_nGG))
    assert picture.shape == (2, 4, 4)
    red, _, blue, alpha = np.moveaxis(picture.astype(int), -1, 0)
    assert alpha.tolist() == [[255, 0, 0, 0], [0, 128, 128, 0]]
    assert blue[0, 0] > red[0, 0]
    assert red[1, 1] > blue[1, 1]
    assert blue[1, 2] > red[1, 2]


def test_a_map_without_a_response_is_clear() -> None:
    assert not pixels(map_uri(np.zeros((3, 2, 2))))[..., 3].any()


def test_a_strip_shows_the_middle_square_of_each_picture() -> None:
    wide = picture_of(0, width=120)
    wide[:, 30:90] = 255
    picture = pixels(strip_uri([wide, picture_of(0)]))
    side = picture.shape[0]
    assert picture.shape[1] == 2 * side
    assert picture[:, 4 : side - 4, 0].min() > 240
    assert picture[:, side + 4 :, 0].max() < 15


def test_a_row_is_drawn_for_clip_the_class_tokens_and_each_scale() -> None:
    drawn = figure(made_up(4, (3, 7, 14)))
    names = ["CLIP's 7 × 7 patches", "Class tokens", "Scale 3 × 3", "Scale 7 × 7", "Scale 14 × 14"]
    labels = re.findall(r'class="label">([^<]*)<', drawn)
    assert labels[-5:] == [name.replace("'", "&#x27;") for name in names]
    assert [pixels(uri).shape[:2] for uri in re.findall(r'href="(data:[^"]*)"', drawn)] == [
        (7, 28), (1, 4), (3, 12), (7, 28), (14, 56),
    ]  # fmt: skip


def test_a_head_without_scales_has_the_rows_of_clip_and_of_the_class_tokens() -> None:
    assert figure(made_up(4, ())).count("href=") == 2


def test_the_strongest_cell_is_named_and_framed() -> None:
    found = made_up(4, (14,))
    words = summary(found, seconds(found))
    assert "strongest frame 2 at 1.5 s" in words
    assert "strongest of scale 14 × 14: frame 2 at 1.5 s, row 2, column 1, +2.00" in words
    drawn = figure(found)
    assert words in drawn.replace("&#x27;", "'")
    box = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"[^>]*strongest', drawn)[-1]
    left, top, side = map(float, box)
    row_top = float(re.findall(r'<image [^>]*y="([\d.]+)"', drawn)[-1])
    assert side == pytest.approx(64 / 14, abs=0.01)
    assert left == pytest.approx(150 + 64, abs=0.01)
    assert top == pytest.approx(row_top + 64 / 14, abs=0.01)


def test_every_frame_has_a_row_of_numbers_and_padding_has_none() -> None:
    drawn = figure(made_up(5, (3,), num_padded=2))
    body = drawn[drawn.index("<tbody>") :]
    assert re.findall(r'scope="row">([^<]*)<', body) == [
        "1 at 0.5 s", "2 at 1.5 s", "3 at 2.5 s", "all",
    ]  # fmt: skip
    assert "nan" not in drawn
    assert drawn.count(" s</text>") == 3


def test_of_many_frames_those_that_respond_most_are_drawn_and_all_are_in_the_table() -> None:
    drawn = figure(made_up(30, (3,)))
    assert drawn.count(" s</text>") == MAX_FRAMES
    assert ">1.5 s</text>" in drawn
    assert "12 of 30 frames" in drawn
    assert len(re.findall('scope="row"', drawn)) == 31


def test_pictures_lie_once_in_the_figure_and_under_each_map_of_cells() -> None:
    found = made_up(4, (3, 7), num_padded=1)
    drawn = figure(found, pictures=[picture_of(60 * level) for level in (1, 2, 3)])
    assert drawn.count("data:image/jpeg") == 1
    assert drawn.count('<use href="#k-frames"') == 4  # above, CLIP's, two scales
    strip = pixels(re.findall(r'href="(data:image/jpeg[^"]*)"', drawn)[0])
    side = strip.shape[0]
    for place, level in enumerate((60, 120, 180)):
        assert abs(int(strip[side // 2, side // 2 + side * place, 0]) - level) < 4


@pytest.mark.parametrize("num_pictures", [0, 3, 5])
def test_without_a_picture_for_each_frame_the_ground_is_plain(num_pictures: int) -> None:
    drawn = figure(made_up(4, (3,)), pictures=[picture_of(9)] * num_pictures)
    assert "<use" not in drawn
    assert "jpeg" not in drawn
    assert drawn.count('class="ground"') == 3


@pytest.mark.parametrize("value", [0.0, -0.001])
def test_a_scale_that_raises_nothing_has_no_strongest_cell(value: float) -> None:
    found = made_up(3, (3,), num_padded=1)
    found.by_scale[0].values_TGG[:2] = value
    found.class_tokens.values_TGG[:] = 0
    assert "strongest of scale 3 × 3: none" in summary(found, seconds(found))
    body = figure(found).partition("<desc")[2]
    assert body.count('class="strongest"') == 1  # CLIP's


def test_a_full_size_figure_is_small_and_needs_nothing_beside_it() -> None:
    drawn = figure(made_up(12, (3, 7, 14)))
    assert len(drawn) < 30_000
    for forbidden in ("http", "url(", "<script", "onload"):
        assert forbidden not in drawn + SHEET
    assert 'role="img"' in drawn
