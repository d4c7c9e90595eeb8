"""The reference of encoders without weights, and the certificate that it gives them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.encoders.reference import Reference
from muse.pipeline.header import Parity

PERFECT = Parity(
    num_videos=4,
    num_frames=8,
    device="cpu",
    pixels=0.0,
    class_token_mean=1.0,
    class_token_min=1.0,
    patch_tokens_mean=1.0,
    patch_tokens_min=1.0,
    cosine_limit=0.99999,
)
"""Of an encoder that is its own reference, on two frames each of four videos."""


def reference_by_itself(encoder: Encoder) -> Reference:
    """Of an encoder that is not normalised: PIL's resize, then its own maps."""
    preprocessing = encoder.info.preprocessing

    def transform(picture: Image.Image) -> Tensor:
        input_HWC = crop_to_input(np.asarray(picture), preprocessing)
        return torch.from_numpy(input_HWC.copy()).permute(2, 0, 1) / 255

    def forward(pixels_B3SS: Tensor) -> Tensor:
        levels_BSS3 = (255 * pixels_B3SS).round().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(encoder.encode_frames(levels_BSS3.numpy())["tokens"])

    return Reference(
        transform=transform,
        forward=forward,
        cosine_limits=dict.fromkeys(("fp32", "fp16", "bf16"), 0.99999),
    )
