"""What a single frame shows, said in a sentence: what muse-nano is trained on.

Only what can be seen at that moment is said: no path, no order, no count. Small objects are never
spoken of: the captions that people write seldom do, and so the class token has no reason to keep
them. Knows nothing of pixels.
"""

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import Fact
from muse.pipeline.world.grammar import caption_of, phrase_of
from muse.pipeline.world.scenes import SIDE, Actor, Point, Scene
from muse.pipeline.world.stories import SMALL
from muse.pipeline.world.things import Background

CLEAR = 20  # pixels by which one direction has to outweigh the other

_PLACES = (
    ("in the upper left corner", "at the top", "in the upper right corner"),
    ("at the left", "in the middle", "at the right"),
    ("in the lower left corner", "at the bottom", "in the lower right corner"),
)
Seen = list[tuple[Actor, Point]]


def still_caption(scene: Scene, moment: float, dice: Dice) -> str | None:
    """A sentence about a frame, or None where nothing that has a name is in it."""
    seen = [
        (actor, place)
        for actor, place in scene.shown(moment)
        if actor.is_named and actor.side > SMALL[1]
    ]
    if not seen:
        return None
    seen = dice.sample(seen, len(seen))
    kind = dice.pick(("list", "list", "places", "relation"))
    sentence = _relation(seen, dice) if kind == "relation" else None
    sentence = sentence or (_places(seen, dice) if kind == "places" else _list(seen, dice))
    if dice.chance(0.25):
        sentence += _before(scene.backgrounds[scene.shot(moment)], dice)
    return sentence


def _list(seen: Seen, dice: Dice) -> str:
    if len(seen) == 1:
        return phrase_of(seen[0][0].thing, dice)
    return caption_of(Fact(axis="what", things=tuple(actor.thing for actor, _ in seen)), dice)


def _places(seen: Seen, dice: Dice) -> str:
    words = []
    for actor, (x, y) in seen:
        row, column = (min(2, max(0, 3 * value // SIDE)) for value in (y, x))
        words.append(f"{phrase_of(actor.thing, dice)} {_PLACES[row][column]}")
    return " and ".join(words)


def _relation(seen: Seen, dice: Dice) -> str | None:
    """How two objects lie to each other, where that is plain."""
    if len(seen) < 2:
        return None
    (first, (x0, y0)), (second, (x1, y1)) = seen[:2]
    right, down = x0 - x1, y0 - y1
    if abs(abs(right) - abs(down)) < CLEAR:
        return None
    value = "right" if right > 0 else "left"
    if abs(down) > abs(right):
        value = "below" if down > 0 else "above"
    return caption_of(Fact(axis="where", things=(first.thing, second.thing), value=value), dice)


def _before(background: Background, dice: Dice) -> str:
    wall = dice.pick(("wall", "background"))
    return f" {dice.pick(('before', 'on'))} a {background.pattern} {background.tone} {wall}"
