"""Sentences for facts: many ways to say each.

Knows nothing of scenes: a fact holds all that a caption says.
"""

# Legend: {a}, {b}, {c} things; {s}, {e} the sides where a path starts and ends.

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import Axis, Fact
from muse.pipeline.world.things import Thing

_SYNONYMS = {
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
    "crescent": ("crescent", "half moon"),
}
_TEXTURED = {
    "plain": ("{colour} {shape}", "{colour} {shape}", "plain {colour} {shape}"),
    "striped": ("striped {colour} {shape}", "{colour} {shape} with stripes"),
    "dotted": ("dotted {colour} {shape}", "{colour} {shape} with dots"),
    "checkered": ("checkered {colour} {shape}", "{colour} {shape} with checks"),
}
_SMALL = ("tiny", "very small", "little")

_OF_AXIS: dict[Axis, tuple[str, ...]] = {
    "what": (
        "{all}",
        "there are {all}",
        "a video of {all}",
        "we see {all}",
        "a scene with {all}",
        "{all} can be seen",
        "this clip shows {all}",
    ),
    "small-object": (
        "{a} near {b} and {c}",
        "{a} can be found beside {b} and {c}",
        "next to {b} and {c} there is {a}",
        "in a scene with {b} and {c}, {a} is lying around",
        "look for {a}: it is with {b} and {c}",
        "{b}, {c} and {a}",
    ),
    "direction": (
        "{a} moves from {s} to {e} past {b}",
        "{a} goes from the {s} to the {e} while {b} stays",
        "from the {s} to the {e}, {a} passes {b}",
        "{a} starts at the {s} and ends at the {e}, with {b} in view",
        "{b} rests while {a} travels towards the {e}",
        "near {b}, {a} slides to the {e}",
        "{a} is moving to the {e}; {b} stays where it is",
        "{a} leaves the {s} for the {e} as {b} stands still",
    ),
    "order": (
        "first {a}, then {b}",
        "{a} is followed by {b}",
        "{b} comes after {a}",
        "{a} appears before {b}",
        "the video shows {a} and afterwards {b}",
        "after {a} we see {b}",
        "before {b} we see {a}",
        "{a} is seen at the beginning, {b} at the end",
        "it ends with {b} and begins with {a}",
    ),
    "count": (
        "{a} appears {n} beside {b}",
        "{a} shows up {n} while {b} stays",
        "next to {b}, {a} is seen {n}",
        "{a} comes and goes {n} near {b}",
        "{b} is there all the time and {a} turns up {n}",
        "{n} {a} appears close to {b}",
    ),
    "where": (
        "{a} {r} {b}",
        "{a} is {r} {b}",
        "there is {a} {r} {b}",
        "{r} {b} there is {a}",
        "{b} is {o} {a}",
        "{b} {o} {a}",
        "{o} {a} lies {b}",
    ),
}
_RELATION = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_PATH = {
    "left": ("right", "left"),
    "right": ("left", "right"),
    "up": ("bottom", "top"),
    "down": ("top", "bottom"),
}
_TIMES = {
    "once": ("once", "one time", "a single time"),
    "twice": ("twice", "two times"),
    "three times": ("three times", "thrice"),
}


def captions_of(fact: Fact, dice: Dice, count: int) -> list[str]:
    """``count`` different sentences that say a fact."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(caption_of(fact, dice))
    return list(found)


def caption_of(fact: Fact, dice: Dice) -> str:
    """One sentence that says a fact."""
    sentence = dice.pick(_OF_AXIS[fact.axis]).format(**_words(fact, dice))
    return " ".join(sentence.split())


def _words(fact: Fact, dice: Dice) -> dict[str, str]:
    is_small = [fact.axis == "small-object", False, False]
    phrases = [
        phrase_of(thing, dice, is_small=small)
        for thing, small in zip(fact.things, is_small, strict=False)
    ]
    words = dict(zip("abc", phrases, strict=False))
    if fact.axis == "what":
        shuffled = dice.sample(phrases, len(phrases))
        words["all"] = ", ".join(shuffled[:-1]) + " and " + shuffled[-1]
    if fact.axis == "where":
        words["r"] = dice.pick(_RELATION[fact.value])
        words["o"] = dice.pick(_RELATION[_OPPOSITE[fact.value]])
    if fact.axis == "direction":
        words["s"], words["e"] = _PATH[fact.value]
    if fact.axis == "count":
        words["n"] = dice.pick(_TIMES[fact.value])
    return words


def phrase_of(thing: Thing, dice: Dice, *, is_small: bool = False) -> str:
    """A thing with its article, such as ``an orange heart with dots``."""
    colour, shape = (
        dice.pick(_SYNONYMS.get(word, (word,))) for word in (thing.colour, thing.shape)
    )
    phrase = dice.pick(_TEXTURED[thing.texture]).format(colour=colour, shape=shape)
    if is_small:
        phrase = f"{dice.pick(_SMALL)} {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
