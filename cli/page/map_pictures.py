"""Numbers and frames as small pictures that are part of the page.

A map is a PNG of one pixel a cell, blue where a number is positive and orange where it is
negative, transparent where it is 0; a strip of frames is a JPEG. Knows nothing of what is shown.
"""

# Legend: n frames, G cells along a side.

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

RAISES, LOWERS = (31, 119, 230), (232, 111, 20)  # seen on white, on black and on a grey picture
_LEVELS = 24  # of each colour; fewer make a smaller picture
_SIDE = 128  # pixels of a frame
_QUALITY = 70  # of JPEG


def map_uri(values_nGG: NDArray[np.float64]) -> str:
    """A PNG of one pixel a cell, the frames side by side."""
    level = np.rint(values_nGG / (np.abs(values_nGG).max() or 1.0) * _LEVELS).astype(np.int64)
    picture = Image.fromarray(np.concatenate(list((level + _LEVELS).astype(np.uint8)), axis=1))
    picture.putpalette([*LOWERS * _LEVELS, *(0, 0, 0), *RAISES * _LEVELS])
    alphas = bytes(round(255 * abs(n) / _LEVELS) for n in range(-_LEVELS, _LEVELS + 1))
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=alphas, optimize=True)
    return _data_uri("png", stream)


def strip_uri(pictures: Sequence[NDArray[np.uint8]]) -> str:
    """A JPEG of the middle squares, (H, W, 3) each, side by side: what the encoder saw of each."""
    strip = Image.new("RGB", (_SIDE * len(pictures), _SIDE))
    for place, picture_HWC in enumerate(pictures):
        square = ImageOps.fit(Image.fromarray(picture_HWC), (_SIDE, _SIDE))
        strip.paste(square, (_SIDE * place, 0))
    stream = io.BytesIO()
    strip.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return _data_uri("jpeg", stream)


def _data_uri(kind: str, stream: io.BytesIO) -> str:
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{encoded}"
