"""Scenes made for a fact, in contrast groups.

The videos of a group show the same objects before the same background and differ in the answer
alone, so that a model that knows only what is there can't tell them apart. (In a group of
``small-object`` the small object is the answer.) Dice are thrown in the order of the lines here: to
move one past another makes another world. Knows nothing of words or pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import COUNTS, DIRECTIONS, RELATIONS, Axis, Fact
from muse.pipeline.world.scenes import SIDE, Actor, Point, Scene, Span
from muse.pipeline.world.things import (
    PATTERNS,
    TEXTURES,
    TONES,
    Background,
    Split,
    Thing,
    compositions,
)

Story = tuple[Fact, Scene]
SECONDS = (4, 12)  # of a video, the least and the most
NEAR, FAR = 44, SIDE - 44  # pixels: where a path begins and ends
MIDDLE = SIDE // 2
CORNERS: tuple[Point, ...] = ((NEAR, NEAR), (NEAR, FAR), (FAR, NEAR), (FAR, FAR))
LARGE = (50, 66)  # pixels, the least and the most side of an object
SMALL = (13, 17)


def contrast_group(axis: Axis, split: Split, dice: Dice) -> list[Story]:
    """A fact and its scene, for every answer of one question.

    Args:
        axis: What is asked.
        split: Whose compositions of colour and shape may be shown.
        dice: Decides everything else.
    """
    return list(_STORIES[axis](split, dice))


def _what(split: Split, dice: Dice) -> Iterator[Story]:
    things = _things(split, dice, dice.between(2, 3))
    corners = dice.sample(CORNERS, 3)
    # Of two things, none is in the third corner.
    actors = [
        _drifting(thing, corner, dice) for thing, corner in zip(things, corners, strict=False)
    ]
    yield Fact(axis="what", things=tuple(things)), _scene(actors, split, dice)


def _small_object(split: Split, dice: Dice) -> Iterator[Story]:
    *small, first, second = _things(split, dice, 5)
    corners = dice.sample(CORNERS, 3)
    large = [_drifting(first, corners[0], dice), _drifting(second, corners[1], dice)]
    place, side = _around(corners[2], 20, dice), dice.between(*SMALL)
    scene = _scene(large, split, dice, has_speck=False)
    for thing in small:
        tiny = Thing(colour=thing.colour, texture="plain", shape=thing.shape)
        actor = Actor(thing=tiny, side=side, start=place, end=place)
        fact = Fact(axis="small-object", things=(tiny, first, second))
        yield fact, replace(scene, actors=(*scene.actors, actor))


def _where(split: Split, dice: Dice) -> Iterator[Story]:
    first, second = _things(split, dice, 2)
    sides = dice.between(*LARGE), dice.between(*LARGE)
    across, along = dice.between(-24, 24), dice.between(46, 60)
    scene = _scene([], split, dice)
    for relation in RELATIONS:
        horizontal = relation in ("left", "right")
        sign = -1 if relation in ("left", "above") else 1
        right, down = (sign * along, across) if horizontal else (across, sign * along)
        places = [(MIDDLE + right, MIDDLE + down), (MIDDLE - right, MIDDLE - down)]
        actors = [
            Actor(thing=thing, side=side, start=place, end=place)
            for thing, side, place in zip((first, second), sides, places, strict=True)
        ]
        fact = Fact(axis="where", things=(first, second), value=relation)
        yield fact, replace(scene, actors=(*scene.actors, *actors))


def _direction(split: Split, dice: Dice) -> Iterator[Story]:
    mover, other = _things(split, dice, 2)
    side, lane = dice.between(*LARGE), dice.between(MIDDLE - 12, MIDDLE + 12)
    # The other object lies in a corner, or in the way: then the mover passes behind it.
    corner = (dice.pick((NEAR, FAR)), dice.pick((NEAR, FAR)))
    still = _drifting(other, corner if dice.chance(0.7) else (MIDDLE, MIDDLE), dice)
    scene = _scene([], split, dice)
    for direction in DIRECTIONS:
        ends = ((NEAR, lane), (FAR, lane))
        if direction in ("up", "down"):
            ends = ((lane, NEAR), (lane, FAR))
        start, end = ends if direction in ("right", "down") else ends[::-1]
        actor = Actor(thing=mover, side=side, start=start, end=end)
        fact = Fact(axis="direction", things=(mover, other), value=direction)
        yield fact, replace(scene, actors=(*scene.actors, actor, still))


def _order(split: Split, dice: Dice) -> Iterator[Story]:
    things = _things(split, dice, 2)
    places = [_around((MIDDLE, MIDDLE), 50, dice) for _ in things]
    sides = [dice.between(*LARGE) for _ in things]
    walls = [_background(dice) for _ in things] if dice.chance(0.5) else []
    scene = _scene([], split, dice)
    halves: tuple[Span, Span] = ((0.0, 0.5), (0.5, 1.0))
    for order in ((0, 1), (1, 0)):
        actors = [
            Actor(thing=things[n], side=sides[n], start=places[n], end=places[n], visible=(half,))
            for n, half in zip(order, halves, strict=True)
        ]
        backgrounds = tuple(walls[n] for n in order) if walls else scene.backgrounds
        fact = Fact(axis="order", things=tuple(things[n] for n in order))
        yield fact, replace(scene, actors=(*scene.actors, *actors), backgrounds=backgrounds)


def _count(split: Split, dice: Dice) -> Iterator[Story]:
    shown, other = _things(split, dice, 2)
    corners = dice.sample(CORNERS, 2)
    still, place = _drifting(other, corners[1], dice), _around(corners[0], 16, dice)
    side = dice.between(*LARGE)
    scene = _scene([], split, dice)
    for times, count in enumerate(COUNTS, start=1):
        # There for half of the video in all, however often.
        spans = tuple(((4 * n + 1) / (4 * times), (4 * n + 3) / (4 * times)) for n in range(times))
        actor = Actor(thing=shown, side=side, start=place, end=place, visible=spans)
        fact = Fact(axis="count", things=(shown, other), value=count)
        yield fact, replace(scene, actors=(*scene.actors, still, actor))


_STORIES: dict[Axis, Callable[[Split, Dice], Iterator[Story]]] = {
    "what": _what,
    "small-object": _small_object,
    "where": _where,
    "direction": _direction,
    "order": _order,
    "count": _count,
}


def _things(split: Split, dice: Dice, count: int) -> list[Thing]:
    """Things of a split's compositions, all of different colours and shapes."""
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        colour, shape = dice.pick(compositions(split))
        if not any(colour == other[0] or shape == other[1] for other in chosen):
            chosen.append((colour, shape))
    return [Thing(colour=c, texture=dice.pick(TEXTURES), shape=s) for c, s in chosen]


def _background(dice: Dice) -> Background:
    return Background(pattern=dice.pick(PATTERNS), tone=dice.pick(tuple(TONES)))


def _around(point: Point, reach: int, dice: Dice) -> Point:
    return point[0] + dice.between(-reach, reach), point[1] + dice.between(-reach, reach)


def _drifting(thing: Thing, point: Point, dice: Dice) -> Actor:
    """An object that stays about where it is."""
    start, end = _around(point, 10, dice), _around(point, 10, dice)
    return Actor(thing=thing, side=dice.between(*LARGE), start=start, end=end)


def _speck(split: Split, dice: Dice) -> Actor:
    """A small object that no caption speaks of."""
    (thing,) = _things(split, dice, 1)
    place = _around((MIDDLE, MIDDLE), MIDDLE - 12, dice)
    plain = Thing(colour=thing.colour, texture="plain", shape=thing.shape)
    side = dice.between(*SMALL)
    return Actor(thing=plain, side=side, start=place, end=place, is_named=False)


def _scene(actors: list[Actor], split: Split, dice: Dice, *, has_speck: bool = True) -> Scene:
    """A scene with what no fact is about: its length, background, camera and specks."""
    specks = [_speck(split, dice)] if has_speck and dice.chance(0.5) else []
    return Scene(
        seconds=dice.between(SECONDS[0] * 8, SECONDS[1] * 8) / 8,
        backgrounds=(_background(dice),),
        actors=(*specks, *actors),
        pan=(dice.between(-20, 20), dice.between(-20, 20)),
        texture_seed=dice.between(0, 10**9),
    )
