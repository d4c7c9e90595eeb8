"""A decoded frame to the square an encoder looks at.

The resize is PIL's antialiased one, the one that CLIP's own preprocessing uses, so the pixels are
those that the weights were trained on. Knows nothing of torch: decoding processes import this.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muse.pipeline.header import Preprocessing

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def crop_to_input(frame_HWC: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The resized and centre-cropped frame, (size, size, 3) uint8 RGB.

    Args:
        frame_HWC: (H, W, 3) uint8 RGB of any size.
        preprocessing: The encoder's.
    """
    height, width = frame_HWC.shape[:2]
    short = min(height, width)
    # Sizes and offsets round as torchvision's Resize and CenterCrop do.
    new_width = int(preprocessing.resize_to * width / short)
    new_height = int(preprocessing.resize_to * height / short)
    image = Image.fromarray(frame_HWC).resize(
        (new_width, new_height), _FILTERS[preprocessing.interpolation]
    )
    left = round((new_width - preprocessing.size) / 2.0)
    top = round((new_height - preprocessing.size) / 2.0)
    box = (left, top, left + preprocessing.size, top + preprocessing.size)
    return np.asarray(image.crop(box))
