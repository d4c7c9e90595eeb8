"""A decoded picture as a player shows it: turned upright, and no longer than anybody looks at.

Knows nothing of encoders or libraries; numpy views only.
"""

import numpy as np
from numpy.typing import NDArray

MOST_ELONGATED = 256
"""Short sides that a picture may be long before its far ends are left out."""


def upright(image_HWC: NDArray[np.uint8], rotation_degrees: float) -> NDArray[np.uint8]:
    """The picture turned counter-clockwise by the nearest quarter turns."""
    return np.rot90(image_HWC, round(rotation_degrees / 90) % 4)


def without_far_ends(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a strip so long that resizing it would take gigabytes, else the picture.

    A centre crop of its short side sees no more. Both ends lose the same even number of short
    sides, so that the crop falls where it fell.
    """
    height, width = image_HWC.shape[:2]
    short, long = sorted((height, width))
    if long <= MOST_ELONGATED * short:
        return image_HWC
    cut = (long - MOST_ELONGATED // 2 * short) // (4 * short) * 2 * short
    return image_HWC[:, cut : width - cut] if width > height else image_HWC[cut : height - cut]
