"""Videos of the made world before they are drawn: what is where, seen from the scenes alone."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import AXES, Axis, Fact
from muse.pipeline.world.frames import draw
from muse.pipeline.world.scenes import SIDE, Actor, Point, Scene
from muse.pipeline.world.stories import contrast_group
from muse.pipeline.world.things import COLOURS, SHAPES, SPLITS, Split, Thing
from muse.pipeline.world.world import world_videos

VIDEOS = tuple(islice(world_videos(7), 1500))  # 580 groups
MOMENTS = [(step + 0.5) / 48 for step in range(48)]
Group = list[tuple[Fact, Scene]]


def groups(axis: Axis, count: int = 40) -> list[Group]:
    """Of all splits in turn."""
    return [contrast_group(axis, SPLITS[n % 3], Dice("a test", axis, n)) for n in range(count)]


def stories(axis: Axis) -> list[tuple[Fact, Scene]]:
    return [story for group in groups(axis) for story in group]


def actor_of(scene: Scene, thing: Thing) -> Actor:
    (actor,) = (actor for actor in scene.actors if actor.is_named and actor.thing == thing)
    return actor


def place_in_frame(scene: Scene, thing: Thing, moment: float) -> Point:
    (place,) = (place for actor, place in scene.shown(moment) if actor == actor_of(scene, thing))
    return place


def visible_steps(scene: Scene, thing: Thing) -> list[int]:
    actor = actor_of(scene, thing)
    return [step for step, moment in enumerate(MOMENTS) if actor.is_visible(moment)]


# -- compositions --------------------------------------------------------------------------------


def test_no_colour_meets_a_shape_in_two_splits() -> None:
    splits = defaultdict(set)
    for video in VIDEOS:
        for actor in video.scene.actors:  # those that no caption speaks of too
            splits[actor.thing.colour, actor.thing.shape].add(video.split)
    assert {pair: found for pair, found in splits.items() if len(found) > 1} == {}


@pytest.mark.parametrize("split", SPLITS)
def test_every_colour_and_every_shape_is_in_each_split(split: Split) -> None:
    things = [a.thing for v in VIDEOS if v.split == split for a in v.scene.actors]
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)


def test_three_groups_of_five_are_for_training() -> None:
    split_of_group = {video.group: video.split for video in VIDEOS}
    counts = Counter(list(split_of_group.values())[: 35 * 15])
    assert counts == {"train": 315, "test": 105, "val": 105}


def test_a_group_is_in_one_split_and_on_one_axis() -> None:
    found = defaultdict(set)
    for video in VIDEOS:
        found[video.group].add((video.split, video.fact.axis))
    assert {len(kinds) for kinds in found.values()} == {1}


# -- contrast groups -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
def test_members_of_a_group_share_all_but_the_answer(axis: Axis) -> None:
    for group in groups(axis):
        shared = {
            (
                scene.seconds,
                scene.pan,
                scene.texture_seed,
                frozenset(scene.backgrounds),
                frozenset(
                    (actor.thing, actor.side)
                    for actor in scene.actors
                    if axis != "small-object" or actor.thing != fact.things[0]
                ),
            )
            for fact, scene in group
        }
        assert len(shared) == 1


@pytest.mark.parametrize(
    ("axis", "num_answers"),
    [("small-object", 3), ("where", 4), ("direction", 4), ("order", 2), ("count", 3)],
)
def test_a_group_has_every_answer_once(axis: Axis, num_answers: int) -> None:
    for group in groups(axis):
        answers = {(fact.things, fact.value) for fact, _ in group}
        assert (len(group), len(answers)) == (num_answers, num_answers)


def mean_frame(scene: Scene) -> NDArray[np.float64]:
    """Of 12 moments, before a camera that stands still."""
    still = replace(scene, pan=(0, 0))
    frames = [draw(still, (step + 0.5) / 12) for step in range(12)]
    mean: NDArray[np.float64] = np.mean(frames, axis=0, dtype=np.float64)
    return mean


def test_the_mean_over_a_video_does_not_tell_opposite_directions_apart() -> None:
    for group in groups("direction", 2):
        left, right, up, down = (mean_frame(scene) for _, scene in group)
        for one, other in ((left, right), (up, down)):
            assert np.abs(one - other).mean() < 0.5  # of 255: where a path's middle is rounded to


def test_the_mean_over_a_video_does_not_tell_counts_apart() -> None:
    for group in groups("count", 2):
        once, twice, thrice = (mean_frame(scene) for _, scene in group)
        assert np.array_equal(once, twice)
        assert np.array_equal(once, thrice)


def test_the_mean_over_a_video_does_not_tell_orders_apart() -> None:
    one_wall = [group for group in groups("order", 12) if len(group[0][1].backgrounds) == 1]
    for (_, one), (_, other) in one_wall[:3]:
        assert np.array_equal(mean_frame(one), mean_frame(other))


def test_the_mean_colour_of_a_video_does_not_tell_orders_of_two_walls_apart() -> None:
    two_walls = [group for group in groups("order", 12) if len(group[0][1].backgrounds) == 2]
    for (_, one), (_, other) in two_walls[:3]:
        colours = (mean_frame(scene).mean(axis=(0, 1)) for scene in (one, other))
        assert np.abs(next(colours) - next(colours)).max() < 4  # a wall's pattern is another one


# -- facts ---------------------------------------------------------------------------------------


def test_what_names_all_things_that_have_a_name_and_all_are_always_there() -> None:
    for fact, scene in stories("what"):
        assert {a.thing for a in scene.actors if a.is_named} == set(fact.things)
        assert {len(visible_steps(scene, thing)) for thing in fact.things} == {48}


def test_the_small_object_is_a_sixteenth_of_a_frame_wide_and_always_in_it() -> None:
    for fact, scene in stories("small-object"):
        small = actor_of(scene, fact.things[0])
        assert 1 / 18 < small.side / SIDE < 1 / 13
        for moment in MOMENTS:
            place = place_in_frame(scene, fact.things[0], moment)
            assert all(small.side / 2 < value < SIDE - small.side / 2 for value in place)


def test_the_other_things_beside_a_small_object_are_large() -> None:
    for fact, scene in stories("small-object"):
        assert all(actor_of(scene, thing).side >= 50 for thing in fact.things[1:])


def test_the_first_thing_is_where_the_fact_says() -> None:
    for fact, scene in stories("where"):
        (x0, y0), (x1, y1) = (place_in_frame(scene, thing, 0.4) for thing in fact.things)
        sideways = abs(x0 - x1) > abs(y0 - y1)
        seen = ("left" if x0 < x1 else "right") if sideways else "above" if y0 < y1 else "below"
        assert seen == fact.value


def test_the_first_thing_moves_to_where_the_fact_says() -> None:
    for fact, scene in stories("direction"):
        (x0, y0), (x1, y1) = (place_in_frame(scene, fact.things[0], m) for m in (0.0, 0.99))
        sideways = abs(x1 - x0) > abs(y1 - y0)
        seen = ("right" if x1 > x0 else "left") if sideways else "down" if y1 > y0 else "up"
        assert seen == fact.value


def test_the_second_thing_of_a_direction_hardly_moves() -> None:
    for fact, scene in stories("direction"):
        actor = actor_of(scene, fact.things[1])
        assert np.abs(np.subtract(actor.end, actor.start)).max() <= 20


def test_the_first_thing_of_an_order_is_gone_when_the_second_comes() -> None:
    for fact, scene in stories("order"):
        first, second = (visible_steps(scene, thing) for thing in fact.things)
        assert max(first) < min(second)
        assert len(first) == len(second) == 24


def test_a_counted_thing_shows_up_as_often_as_the_fact_says() -> None:
    numbers = {"once": 1, "twice": 2, "three times": 3}
    for fact, scene in stories("count"):
        steps = visible_steps(scene, fact.things[0])
        appearances = sum(step - 1 not in steps for step in steps)
        assert appearances == numbers[fact.value]


def test_a_counted_thing_is_there_half_of_the_time() -> None:
    for fact, scene in stories("count"):
        assert len(visible_steps(scene, fact.things[0])) == 24
        assert len(visible_steps(scene, fact.things[1])) == 48


@pytest.mark.parametrize("axis", AXES)
def test_no_two_things_of_a_fact_share_a_colour_or_a_shape(axis: Axis) -> None:
    for fact, _ in stories(axis):
        colours, shapes = ({getattr(t, of) for t in fact.things} for of in ("colour", "shape"))
        assert len(colours) == len(shapes) == len(fact.things)
