"""A decoded frame as a small picture that people look at: a JPEG file in memory.

The whole frame, not the encoder's crop of it. Knows nothing of videos and stores. No torch:
decoding processes import this.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 112
"""Pixels of the shorter edge; a frame that is smaller stays as it is."""
MOST_ELONGATED = 3
"""Shorter edges that a picture is long; of a longer frame it shows the middle."""
_QUALITY = 75  # of JPEG; Pillow's default, 4 kB a picture of a real clip


def thumbnail_of(frame_HWC: NDArray[np.uint8], *, side: int = SIDE) -> bytes:
    """A JPEG file of a frame, made small.

    The same bytes for one frame and one version of Pillow and of its JPEG library.

    Args:
        frame_HWC: (H, W, 3) uint8 RGB of any size.
        side: Pixels of the picture's shorter edge, > 0.
    """
    height, width = frame_HWC.shape[:2]
    short = min(height, width)
    shown_width, shown_height = (min(edge, MOST_ELONGATED * short) for edge in (width, height))
    left, top = (width - shown_width) // 2, (height - shown_height) // 2
    image = Image.fromarray(frame_HWC[top : top + shown_height, left : left + shown_width])
    if short > side:
        size = (round(shown_width * side / short), round(shown_height * side / short))
        # In two steps, the first a plain average: a frame of 1080p takes a quarter of the time.
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()
