"""What there is in the world: colours, textures, shapes, backgrounds, and what a split may hold.

The splits are compositional: a colour and a shape that meet in a test video never meet in a
training video, though each of them is there with others. Knows nothing of time or pixels.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Names and sRGB. Backgrounds are dull, so that a thing's colour is never in doubt.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 36, 36),
    "orange": (245, 140, 20),
    "yellow": (242, 222, 40),
    "green": (40, 165, 60),
    "cyan": (50, 214, 224),
    "blue": (36, 70, 216),
    "purple": (136, 44, 188),
    "pink": (246, 132, 184),
    "white": (242, 242, 242),
    "black": (16, 16, 16),
}
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "diamond",
    "crescent",
    "hourglass",
)
TEXTURES = ("plain", "striped", "dotted", "checkered")
PATTERNS = ("cloudy", "grainy", "tiled", "planked")
TONES: dict[str, tuple[int, int, int]] = {
    "grey": (128, 128, 128),
    "brown": (134, 108, 86),
    "olive": (116, 122, 88),
    "slate": (96, 112, 128),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """What an object is, wherever it is."""

    colour: str
    texture: str
    shape: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Background:
    """What lies behind the objects."""

    pattern: str
    tone: str


def split_of(colour: str, shape: str) -> Split:
    """The one split in which a colour and a shape meet.

    A fifth of the hundred pairs is kept for ``test`` and a fifth for ``val``; every colour and
    every shape has two partners in each.
    """
    remainder = (3 * list(COLOURS).index(colour) + SHAPES.index(shape)) % 5
    return "test" if remainder == 0 else "val" if remainder == 1 else "train"


@cache
def compositions(split: Split) -> tuple[tuple[str, str], ...]:
    """The (colour, shape) pairs of a split."""
    pairs = ((colour, shape) for colour in COLOURS for shape in SHAPES)
    return tuple(pair for pair in pairs if split_of(*pair) == split)
