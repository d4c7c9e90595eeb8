"""A scene at a moment as pixels.

Whole numbers throughout, for the reason given in `muse.pipeline.world.sprites`. Knows nothing of
video files.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.scenes import SIDE, Scene
from muse.pipeline.world.sprites import paste
from muse.pipeline.world.things import TONES, Background

MARGIN = 32  # pixels of background on each side of the frame, for the camera to move over
CANVAS = SIDE + 2 * MARGIN


def draw(scene: Scene, moment: float) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3) RGB.

    Args:
        scene: With a camera that moves at most ``MARGIN`` from the middle.
        moment: Part of the video, 0 <= moment < 1.
    """
    shot = scene.shot(moment)
    right, down = scene.camera(moment)
    canvas = _canvas(scene.backgrounds[shot], scene.texture_seed + shot)
    top, left = MARGIN + down, MARGIN + right
    frame_HWC = canvas[top : top + SIDE, left : left + SIDE].copy()
    for actor, (x, y) in scene.shown(moment):
        paste(frame_HWC, actor.thing, side=actor.side, x=x, y=y)
    return frame_HWC


@lru_cache(maxsize=8)
def _canvas(background: Background, seed: int) -> NDArray[np.uint8]:
    """(CANVAS, CANVAS, 3) of a textured wall."""
    dice = Dice("background", seed)
    relief = _PATTERNS[background.pattern](dice)  # -32 to 31
    tone = np.array(TONES[background.tone], dtype=np.int32)
    return (tone + relief[..., None]).clip(0, 255).astype(np.uint8)


def _noise(dice: Dice, cell: int) -> NDArray[np.int32]:
    """(CANVAS, CANVAS) of -32 to 31: random heights every ``cell`` pixels, linear between them."""
    count = CANVAS // cell + 2
    even = np.frombuffer(dice.bytes(count * count), dtype=np.uint8).reshape(count, count)
    heights: NDArray[np.int32] = even.astype(np.int32) // 4 - 32
    index, part = np.divmod(np.arange(CANVAS), cell)
    rows = heights[index] * (cell - part)[:, None] + heights[index + 1] * part[:, None]
    both = rows[:, index] * (cell - part) + rows[:, index + 1] * part
    relief: NDArray[np.int32] = both // (cell * cell)
    return relief


def _tiled(dice: Dice) -> NDArray[np.int32]:
    side = dice.between(20, 28)
    lines = np.arange(CANVAS) % side < 2
    return np.where(lines[:, None] | lines[None, :], -30, 6) + _noise(dice, 16) // 4


def _planked(dice: Dice) -> NDArray[np.int32]:
    width = dice.between(24, 36)
    plank = np.arange(CANVAS) // width
    shades = np.frombuffer(dice.bytes(CANVAS), dtype=np.uint8).astype(np.int32) // 8 - 16
    relief = np.where(np.arange(CANVAS) % width < 2, -30, shades[plank])
    return np.broadcast_to(relief, (CANVAS, CANVAS)) + _noise(dice, 8) // 4


_PATTERNS = {
    "cloudy": lambda dice: _noise(dice, 48),
    "grainy": lambda dice: _noise(dice, 4),
    "tiled": _tiled,
    "planked": _planked,
}
