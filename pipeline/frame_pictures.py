"""Kept frames as JPEG files, and the files as pixels again.

Knows nothing of videos, and nothing of where the files are. No torch: decoding processes and
readers import this.
"""

# Legend: T frames of a video, S side of a kept frame.

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# An eighth of the pixels' bytes at 45 dB of PSNR, 41 dB for the worst of 794 real frames. With
# colours at half the side, as JPEG has them otherwise, the worst had 33 dB (ADR 0027).
_QUALITY = 95
_FULL_COLOUR = 0  # Pillow's name for 4:4:4


def picture_of(square_SSC: NDArray[np.uint8]) -> bytes:
    """A JPEG file of a kept frame.

    The same bytes for one frame and one version of Pillow and of its JPEG library.

    Args:
        square_SSC: (S, S, 3) uint8 RGB.
    """
    stream = io.BytesIO()
    picture = Image.fromarray(square_SSC)
    picture.save(stream, "JPEG", quality=_QUALITY, subsampling=_FULL_COLOUR)
    return stream.getvalue()


def decode_pictures(pictures: Sequence[bytes], frames_TSSC: NDArray[np.uint8]) -> None:
    """Fills a video's frames from their files, and zeros behind the last. Frees the interpreter.

    Args:
        pictures: Of `picture_of`, T at most.
        frames_TSSC: (T, S, S, 3) uint8 RGB.

    Raises:
        ValueError: If one is no such file, or of another size.
    """
    if len(pictures) > len(frames_TSSC):
        raise ValueError(f"{len(pictures)} pictures of {len(frames_TSSC)} frames")
    for frame_SSC, picture in zip(frames_TSSC, pictures, strict=False):
        try:
            pixels = np.asarray(Image.open(io.BytesIO(picture), formats=("JPEG",)))
        except (OSError, SyntaxError) as error:  # what Pillow raises
            raise ValueError(f"a picture can't be decoded: {error}") from error
        if pixels.shape != frame_SSC.shape:
            raise ValueError(f"a picture has shape {pixels.shape}, not {frame_SSC.shape}")
        frame_SSC[...] = pixels
    frames_TSSC[len(pictures) :] = 0
