"""Pictures of single objects: a shape's coverage and a texture's colours.

Only whole numbers and the four basic operations on float64 are used, which every machine rounds
alike, so that a frame has the same bytes everywhere. Knows nothing of scenes.
"""

# Legend: S side of a sprite in pixels.

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.world.things import COLOURS, Thing

Coordinates = NDArray[np.float64]
SUBSAMPLES = 4  # per pixel and axis

# Five points of a star and the five between them, on a circle of radius 1, y down.
_STAR = (
    (0.0, -1.0),
    (0.247, -0.34),
    (0.951, -0.309),
    (0.4, 0.13),
    (0.588, 0.809),
    (0.0, 0.42),
    (-0.588, 0.809),
    (-0.4, 0.13),
    (-0.951, -0.309),
    (-0.247, -0.34),
)
_TRIANGLE = ((0.0, -0.95), (0.98, 0.8), (-0.98, 0.8))


def _polygon(
    x: Coordinates, y: Coordinates, corners: tuple[tuple[float, float], ...]
) -> NDArray[np.bool_]:
    """Whether points lie inside, by counting the edges to their right."""
    inside = np.zeros(np.broadcast(x, y).shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _heart(x: Coordinates, y: Coordinates) -> NDArray[np.bool_]:
    x, y = 1.2 * x, 0.15 - 1.2 * y
    bulge = x * x + y * y - 1
    return bulge * bulge * bulge - x * x * y * y * y <= 0


_INSIDE: dict[str, Callable[[Coordinates, Coordinates], NDArray[np.bool_]]] = {
    "circle": lambda x, y: x * x + y * y <= 0.9,
    "square": lambda x, y: (abs(x) <= 0.8) & (abs(y) <= 0.8),
    "triangle": lambda x, y: _polygon(x, y, _TRIANGLE),
    "star": lambda x, y: _polygon(x, y, _STAR),
    "cross": lambda x, y: ((abs(x) <= 0.3) & (abs(y) <= 0.9)) | ((abs(y) <= 0.3) & (abs(x) <= 0.9)),
    "ring": lambda x, y: (x * x + y * y <= 0.95) & (x * x + y * y >= 0.3),
    "heart": _heart,
    "diamond": lambda x, y: abs(x) * 1.35 + abs(y) <= 1,
    "crescent": lambda x, y: (x * x + y * y <= 0.95) & ((x - 0.45) ** 2 + y * y >= 0.6),
    "hourglass": lambda x, y: (abs(x) <= 0.12 + 0.75 * abs(y)) & (abs(y) <= 0.9),
}


@lru_cache(maxsize=256)
def coverage(shape: str, side: int) -> NDArray[np.uint16]:
    """(S, S) how much of each pixel a shape covers, 0 to 256."""
    fine = side * SUBSAMPLES
    steps = (2 * np.arange(fine, dtype=np.float64) + 1 - fine) / fine
    inside = _INSIDE[shape](steps[None, :], steps[:, None])
    counts: NDArray[np.uint16] = inside.reshape(side, SUBSAMPLES, side, SUBSAMPLES).sum(
        axis=(1, 3), dtype=np.uint16
    )
    return counts * np.uint16(256 // SUBSAMPLES**2)


@lru_cache(maxsize=256)
def colours(colour: str, texture: str, side: int) -> NDArray[np.uint16]:
    """(S, S, 3) sRGB of a textured surface."""
    tone = np.array(COLOURS[colour], dtype=np.uint16)
    # The second colour is darker, and for black lighter: both stay clearly of the first's name.
    other = tone * 2 // 5 if colour != "black" else np.full(3, 96, dtype=np.uint16)
    marked = _marks(texture, side)
    return np.where(marked[..., None], other, tone)


def _marks(texture: str, side: int) -> NDArray[np.bool_]:
    """(S, S) where a texture shows its second colour."""
    x, y = np.arange(side)[None, :], np.arange(side)[:, None]
    cell = max(3, side // 7)
    marked: NDArray[np.bool_] = np.zeros((side, side), dtype=bool)
    if texture == "striped":
        marked = (x + y) // cell % 2 == 1
    if texture == "checkered":
        marked = (x // cell + y // cell) % 2 == 1
    if texture == "dotted":
        dx, dy = 2 * (x % (2 * cell)) - 2 * cell + 1, 2 * (y % (2 * cell)) - 2 * cell + 1
        marked = 4 * (dx * dx + dy * dy) <= 5 * cell * cell
    return marked


def paste(frame_HWC: NDArray[np.uint8], thing: Thing, *, side: int, x: int, y: int) -> None:
    """Draws a thing into a frame, cut off where it leaves it.

    Args:
        frame_HWC: Changed in place.
        thing: What to draw.
        side: S, pixels.
        x: Column of its centre.
        y: Row of its centre.
    """
    top, left = y - side // 2, x - side // 2
    height, width = frame_HWC.shape[:2]
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    # The same part, counted from the sprite's own corner.
    part = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    cover = coverage(thing.shape, side)[part][..., None].astype(np.uint32)
    colour = colours(thing.colour, thing.texture, side)[part]
    below = frame_HWC[rows, columns]
    frame_HWC[rows, columns] = (cover * colour + (256 - cover) * below + 128) // 256
