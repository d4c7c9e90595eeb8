"""Sentences about facts and about stills, read again without the grammar that made them."""

import re
from collections.abc import Iterable

import pytest

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import AXES, Axis, Fact
from muse.pipeline.world.grammar import captions_of
from muse.pipeline.world.scenes import Actor, Point, Scene
from muse.pipeline.world.stills import still_caption
from muse.pipeline.world.stories import contrast_group
from muse.pipeline.world.things import COLOURS, SHAPES, SPLITS, Background, Thing

CAPTIONS_EACH = 25
OTHER_WORDS = {
    "violet": "purple", "turquoise": "cyan", "disc": "circle", "box": "square",
    "plus sign": "cross", "hoop": "ring", "rhombus": "diamond", "half moon": "crescent",
}  # fmt: skip
TEXTURE_WORDS = {
    "striped": "striped", "stripes": "striped", "dotted": "dotted", "dots": "dotted",
    "checkered": "checkered", "checks": "checkered",
}  # fmt: skip
RELATION_WORDS = {
    "left of": "left", "on the left of": "left", "to the left of": "left",
    "right of": "right", "on the right of": "right", "to the right of": "right",
    "above": "above", "over": "above", "higher than": "above",
    "below": "below", "under": "below", "lower than": "below",
}  # fmt: skip
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def groups(axis: Axis) -> list[list[tuple[Fact, list[str]]]]:
    """Facts with many sentences each."""
    found = []
    for n in range(9):
        dice = Dice("captions of a test", axis, n)
        facts = [fact for fact, _ in contrast_group(axis, SPLITS[n % 3], dice)]
        found.append([(fact, captions_of(fact, dice, CAPTIONS_EACH)) for fact in facts])
    return found


def pairs(axis: Axis) -> list[tuple[Fact, str]]:
    return [(fact, text) for group in groups(axis) for fact, texts in group for text in texts]


def in_usual_words(text: str) -> str:
    for other, usual in OTHER_WORDS.items():
        text = text.replace(other, usual)
    return text


def words_in(text: str, words: Iterable[str]) -> list[str]:
    return re.findall(rf"\b(?:{'|'.join(words)})\b", text)  # "checkered" is not red


def colours_in(text: str) -> list[str]:
    """In the order they are said; the things of a fact have different ones."""
    return words_in(in_usual_words(text), COLOURS)


def shapes_in(text: str) -> list[str]:
    return words_in(in_usual_words(text), SHAPES)


def relation_in(text: str) -> tuple[str, str, str]:
    """The colour of one thing, where it is, and the colour of the other."""
    first, second = colours_in(text)
    (words,) = words_in(text, sorted(RELATION_WORDS, key=len, reverse=True))
    relation = RELATION_WORDS[words]
    # "Above a cup there is a plate": where the relation comes first, so does the other thing.
    return (second, relation, first) if text.startswith(words) else (first, relation, second)


# -- of facts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES)
def test_a_caption_names_the_things_of_its_fact_and_no_other(axis: Axis) -> None:
    for fact, text in pairs(axis):
        assert sorted(colours_in(text)) == sorted(thing.colour for thing in fact.things), text
        assert sorted(shapes_in(text)) == sorted(thing.shape for thing in fact.things), text


@pytest.mark.parametrize("axis", AXES)
def test_a_caption_says_every_texture(axis: Axis) -> None:
    for fact, text in pairs(axis):
        said = [TEXTURE_WORDS[word] for word in words_in(text, TEXTURE_WORDS)]
        assert sorted(said) == sorted(t.texture for t in fact.things if t.texture != "plain"), text


@pytest.mark.parametrize("axis", AXES)
def test_a_caption_is_a_clean_line_with_the_right_articles(axis: Axis) -> None:
    for _, text in pairs(axis):
        assert not re.search(r"[{}]|  |^ | $|\n", text), text
        for article, letter in re.findall(r"\b(an?) (\w)", text):
            assert article == ("an" if letter in "aeiou" else "a"), text


@pytest.mark.parametrize("axis", AXES)
def test_no_sentence_is_true_of_two_members_of_a_group(axis: Axis) -> None:
    for group in groups(axis):
        texts = [text for _, captions in group for text in captions]
        assert len(set(texts)) == len(texts) == len(group) * CAPTIONS_EACH


def test_only_the_small_object_is_called_small() -> None:
    for fact, text in pairs("small-object"):
        after = re.findall(r"(?:tiny|very small|little) (.*)", text)
        assert [colours_in(words)[0] for words in after] == [fact.things[0].colour]


def test_a_caption_about_a_place_says_which_is_where() -> None:
    for fact, text in pairs("where"):
        one, relation, other = relation_in(text)
        first, second = (thing.colour for thing in fact.things)
        said = relation if (one, other) == (first, second) else OPPOSITE[relation]
        assert said == fact.value, text


def test_a_caption_about_a_direction_ends_it_on_the_right_side() -> None:
    sides = {"left": "left", "right": "right", "top": "up", "bottom": "down"}
    for fact, text in pairs("direction"):
        assert sides[words_in(text, sides)[-1]] == fact.value, text


def test_a_caption_about_an_order_says_which_came_first() -> None:
    for fact, text in pairs("order"):
        told = colours_in(text)
        if " comes after " in text or text.startswith(("before ", "it ends with ")):
            told.reverse()
        assert told == [thing.colour for thing in fact.things], text


def test_a_caption_about_a_count_says_the_number() -> None:
    words = {"once": 1, "one time": 1, "single time": 1, "twice": 2, "two times": 2}
    words |= {"three times": 3, "thrice": 3}
    numbers = {"once": 1, "twice": 2, "three times": 3}
    for fact, text in pairs("count"):
        assert [n for word, n in words.items() if word in text] == [numbers[fact.value]], text


# -- of stills -----------------------------------------------------------------------------------

RED = Thing(colour="red", texture="plain", shape="circle")
BLUE = Thing(colour="blue", texture="dotted", shape="star")
WALL = Background(pattern="tiled", tone="olive")


def at(thing: Thing, place: Point, *, side: int = 60, is_named: bool = True) -> Actor:
    return Actor(thing=thing, side=side, start=place, end=place, is_named=is_named)


def scene_of(*actors: Actor) -> Scene:
    return Scene(seconds=4, backgrounds=(WALL,), actors=actors, pan=(0, 0), texture_seed=0)


def sentences(scene: Scene, count: int = 60) -> list[str]:
    dice = Dice("stills of a test")
    texts = [still_caption(scene, 0.5, dice) for _ in range(count)]
    return [text for text in texts if text is not None]


@pytest.mark.parametrize("axis", AXES)
def test_a_still_is_said_to_show_what_is_large_and_visible_and_nothing_else(axis: Axis) -> None:
    dice = Dice("stills of a test", axis)
    for split in SPLITS:
        for _, scene in contrast_group(axis, split, dice):
            for moment in (0.05, 0.3, 0.45, 0.6, 0.9):
                seen = {actor.thing for actor, _ in scene.shown(moment) if actor.side >= 50}
                text = still_caption(scene, moment, dice)
                assert text is not None
                assert set(colours_in(text)) <= {thing.colour for thing in seen}, text
                assert set(shapes_in(text)) <= {thing.shape for thing in seen}, text


@pytest.mark.parametrize("axis", AXES)
def test_nothing_that_a_still_can_t_show_is_said_of_it(axis: Axis) -> None:
    dice = Dice("stills of a test", axis)
    of_time = (
        r"tiny|small|little|moves|moving|goes|travels|slides|passes|leaves|starts|from|towards|"
        r"first|then|before|after|followed|ends|begins|beginning|once|twice|thrice|time|times|"
        r"appears|turns up|shows up|comes"
    )
    for _, scene in contrast_group(axis, "train", dice):
        for moment in (0.1, 0.4, 0.8):
            for _ in range(20):
                text = still_caption(scene, moment, dice)
                assert text is not None
                without_wall = re.sub(r" before a \w+ \w+ (wall|background)$", "", text)
                assert not re.search(rf"\b({of_time})\b", without_wall), text


def test_a_still_without_a_large_thing_that_has_a_name_has_no_caption() -> None:
    small, nameless = at(RED, (100, 100), side=15), at(BLUE, (100, 100), is_named=False)
    assert sentences(scene_of(small, nameless)) == []


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_still_s_place_is_the_third_of_the_frame_that_it_is_in(row: int, column: int) -> None:
    words = [
        ["in the upper left corner", "at the top", "in the upper right corner"],
        ["at the left", "in the middle", "at the right"],
        ["in the lower left corner", "at the bottom", "in the lower right corner"],
    ]
    texts = sentences(scene_of(at(RED, (40 + 72 * column, 40 + 72 * row))))
    everywhere = "|".join(place for places in words for place in places)
    said = {place for text in texts for place in re.findall(everywhere, text)}
    assert said == {words[row][column]}


@pytest.mark.parametrize(
    ("red", "blue", "side"),
    [
        ((50, 100), (170, 110), "left"),
        ((170, 100), (50, 120), "right"),
        ((100, 40), (120, 180), "above"),
        ((110, 180), (90, 40), "below"),
    ],
)
def test_a_still_s_relation_agrees_with_its_coordinates(red: Point, blue: Point, side: str) -> None:
    texts = sentences(scene_of(at(RED, red), at(BLUE, blue)))
    related = [text for text in texts if words_in(text, RELATION_WORDS)]
    assert related
    for text in related:
        one, relation, _ = relation_in(text)
        assert (relation if one == "red" else OPPOSITE[relation]) == side, text


def test_things_that_lie_diagonally_are_given_no_relation() -> None:
    texts = sentences(scene_of(at(RED, (50, 50)), at(BLUE, (150, 160))))
    assert not [text for text in texts if words_in(text, RELATION_WORDS)]


def test_a_still_s_wall_is_the_one_that_is_seen() -> None:
    texts = sentences(scene_of(at(RED, (50, 50))))
    walls = {wall for text in texts for wall in re.findall(r"(?:before|on) a (.*) \w+$", text)}
    assert walls == {"tiled olive"}
