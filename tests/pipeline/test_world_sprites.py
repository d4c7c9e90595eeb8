"""Drawing: what a sprite covers, against the shapes' own symmetries, and pasting pixel by pixel."""

import numpy as np
import pytest
from numpy.typing import NDArray

from muse.pipeline.world.frames import draw
from muse.pipeline.world.scenes import SIDE, Actor, Scene
from muse.pipeline.world.sprites import colours, coverage, paste
from muse.pipeline.world.things import COLOURS, PATTERNS, SHAPES, TEXTURES, TONES, Background, Thing

SIDES = (13, 16, 50, 66)
TURNED = ("circle", "square", "cross", "ring")
UPSIDE_DOWN = (*TURNED, "diamond", "crescent", "hourglass")
THING = Thing(colour="orange", texture="checkered", shape="heart")


def grey_frame(height: int = 90, width: int = 80) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(100, 140, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "crescent"])
def test_all_shapes_but_the_crescent_are_their_own_mirror_image(shape: str, side: int) -> None:
    cover = coverage(shape, side).astype(int)
    # A point on a slanted edge belongs to one side of it: some of 16 in a pixel.
    assert np.abs(cover - cover[:, ::-1]).max() <= 48


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", UPSIDE_DOWN)
def test_shapes_without_a_top_are_the_same_upside_down(shape: str, side: int) -> None:
    assert np.array_equal(coverage(shape, side), coverage(shape, side)[::-1])


@pytest.mark.parametrize("shape", TURNED)
def test_shapes_without_a_direction_are_the_same_turned(shape: str) -> None:
    assert np.array_equal(coverage(shape, 50), coverage(shape, 50).T)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pixel_is_covered_from_none_to_all_and_each_shape_has_both(shape: str) -> None:
    cover = coverage(shape, 60)
    assert (cover.min(), cover.max()) == (0, 256)


def test_a_circle_covers_its_area() -> None:
    area = coverage("circle", 60).sum() / 256
    assert area == pytest.approx(np.pi * 0.9 * 30**2, rel=0.01)


def test_no_two_shapes_cover_nearly_the_same() -> None:
    covers = np.stack([coverage(shape, 60).astype(float) for shape in SHAPES]).reshape(10, -1)
    overlap = np.minimum(covers[:, None], covers).sum(-1) / np.maximum(covers[:, None], covers).sum(
        -1
    )
    assert overlap[~np.eye(10, dtype=bool)].max() < 0.85


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_surface_shows_its_own_colour_and_at_most_one_more(texture: str) -> None:
    surface = colours("green", texture, 60).reshape(-1, 3)
    own = (surface == COLOURS["green"]).all(axis=1).mean()
    assert len(np.unique(surface, axis=0)) == (1 if texture == "plain" else 2)
    assert own == 1 if texture == "plain" else 0.3 < own < 0.75


def test_pasting_mixes_pixel_by_pixel_by_coverage() -> None:
    frame, side = grey_frame(), 21
    expected = frame.copy()
    cover, surface = coverage("heart", side), colours("orange", "checkered", side)
    for row in range(side):
        for column in range(side):
            for channel in range(3):
                part = int(cover[row, column]) / 256
                y, x = 40 - 10 + row, 30 - 10 + column
                old = int(frame[y, x, channel])
                mixed = part * int(surface[row, column, channel]) + (1 - part) * old
                expected[y, x, channel] = int(mixed + 0.5)
    paste(frame, THING, side=side, x=30, y=40)
    assert np.array_equal(frame, expected)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (79, 89), (40, -5), (-12, 60), (85, 30), (40, 95)])
def test_what_leaves_a_frame_is_cut_off(x: int, y: int) -> None:
    large = np.pad(grey_frame(), ((50, 50), (50, 50), (0, 0)))
    frame = large[50:-50, 50:-50].copy()
    paste(frame, THING, side=40, x=x, y=y)
    paste(large, THING, side=40, x=x + 50, y=y + 50)
    assert np.array_equal(frame, large[50:-50, 50:-50])


@pytest.mark.parametrize(("x", "y"), [(-20, 40), (100, 40), (40, -20), (40, 110), (-900, 900)])
def test_what_is_outside_a_frame_leaves_it_alone(x: int, y: int) -> None:
    frame = grey_frame()
    paste(frame, THING, side=40, x=x, y=y)
    assert np.array_equal(frame, grey_frame())


def scene_of(*actors: Actor, pan: tuple[int, int] = (0, 0), pattern: str = "tiled") -> Scene:
    walls = (Background(pattern=pattern, tone="slate"),)
    return Scene(seconds=4, backgrounds=walls, actors=actors, pan=pan, texture_seed=3)


def test_the_front_object_hides_the_one_behind_it() -> None:
    square = {"texture": "plain", "shape": "square"}
    back, front = (
        Actor(thing=Thing(colour=colour, **square), side=40, start=(100, 100), end=(100, 100))
        for colour in ("red", "blue")
    )
    assert tuple(draw(scene_of(back, front), 0.5)[100, 100]) == COLOURS["blue"]


@pytest.mark.parametrize("pan", [(20, 0), (0, -20), (-14, 9)])
def test_a_camera_moves_wall_and_object_alike(pan: tuple[int, int]) -> None:
    thing = Thing(colour="red", texture="plain", shape="star")
    actor = Actor(thing=thing, side=50, start=(112, 112), end=(112, 112))
    still, moved = (draw(scene_of(actor, pan=p), 0.0) for p in ((0, 0), pan))
    # At the start it has half of its way before it: what is seen lies as far back as that.
    across, down = round(-pan[0] / 2), round(-pan[1] / 2)
    inner = slice(30, SIDE - 30)
    shifted = slice(30 + down, SIDE - 30 + down), slice(30 + across, SIDE - 30 + across)
    assert np.array_equal(moved[inner, inner], still[shifted])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_wall_is_dull_and_of_its_tone(pattern: str) -> None:
    frame = draw(scene_of(pattern=pattern), 0.5).reshape(-1, 3).astype(int)
    assert np.abs(frame.mean(axis=0) - TONES["slate"]).max() < 16
    assert np.ptp(frame - frame[:, :1], axis=0).max() <= 1  # one brightness for all channels
