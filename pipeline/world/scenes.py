"""What happens in a video: objects, where they are at a moment, and what lies behind them.

A moment is a part of the video from 0 to 1, so that a scene has no frame rate. Knows nothing of
captions or of how a scene came about.
"""

from dataclasses import dataclass

from muse.pipeline.world.things import Background, Thing

SIDE = 224  # pixels, of a frame
Point = tuple[int, int]
Span = tuple[float, float]
ALWAYS: tuple[Span, ...] = ((0.0, 1.0),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """An object of a scene: it goes straight from one point to another, and may be hidden."""

    thing: Thing
    side: int
    """Pixels."""
    start: Point
    """(x, y) of its centre at the beginning, in pixels from the upper left."""
    end: Point
    """(x, y) of its centre at the end."""
    visible: tuple[Span, ...] = ALWAYS
    """Parts of the video in which it is there; the end of a span is not in it."""
    is_named: bool = True
    """False for what no caption speaks of."""

    def is_visible(self, moment: float) -> bool:
        """Whether it is there."""
        return any(start <= moment < end for start, end in self.visible)

    def place(self, moment: float) -> Point:
        """(x, y) of its centre."""
        (x0, y0), (x1, y1) = self.start, self.end
        return round(x0 + (x1 - x0) * moment), round(y0 + (y1 - y0) * moment)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """All that a video shows."""

    seconds: float
    backgrounds: tuple[Background, ...]
    """One a shot; shots are equally long, and a cut is between two of them."""
    actors: tuple[Actor, ...]
    """From the back to the front."""
    pan: Point
    """How far the camera moves from the beginning to the end, in pixels."""
    texture_seed: int
    """Of what the backgrounds' patterns look like."""

    def shot(self, moment: float) -> int:
        """Which of the backgrounds is seen."""
        return min(int(moment * len(self.backgrounds)), len(self.backgrounds) - 1)

    def camera(self, moment: float) -> Point:
        """How far the camera has moved from the middle of its way, in pixels."""
        return round(self.pan[0] * (moment - 0.5)), round(self.pan[1] * (moment - 0.5))

    def shown(self, moment: float) -> list[tuple[Actor, Point]]:
        """The visible objects and where they are in the frame, from the back to the front."""
        right, down = self.camera(moment)
        places = [(actor, actor.place(moment)) for actor in self.actors if actor.is_visible(moment)]
        return [(actor, (x - right, y - down)) for actor, (x, y) in places]
