"""What a caption says of a video, and the axes that facts belong to.

Each axis separates methods: ``what`` any model can know; ``small-object`` asks for something a
sixteenth of a frame wide; ``where`` for the places of two objects; ``direction``, ``order`` and
``count`` for time: opposite answers have the same mean over a video's frames, but for what the
camera's movement shifts. (That mean tells left from up, and not left from right.) Knows nothing of
words or pixels.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from muse.pipeline.world.things import Thing

Axis = Literal["what", "small-object", "where", "direction", "order", "count"]
AXES: tuple[Axis, ...] = get_args(Axis)
TEMPORAL_AXES: tuple[Axis, ...] = ("direction", "order", "count")

RELATIONS = ("left", "right", "above", "below")
"""Of ``where``: the side of the second thing on which the first one is."""
DIRECTIONS = ("left", "right", "up", "down")
"""Of ``direction``: where the first thing moves to."""
COUNTS = ("once", "twice", "three times")
"""Of ``count``: how often the first thing shows up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing that is true of a video."""

    axis: Axis
    things: tuple[Thing, ...]
    """``small-object``: the small one first. ``order``: in the order they are shown."""
    value: str = ""
    """One of `RELATIONS`, `DIRECTIONS` or `COUNTS` on those axes; empty on the others."""

    def as_json(self) -> dict[str, Any]:
        """A line of ``facts.jsonl``."""
        return {
            "axis": self.axis,
            "things": [[thing.colour, thing.texture, thing.shape] for thing in self.things],
            "value": self.value,
        }
