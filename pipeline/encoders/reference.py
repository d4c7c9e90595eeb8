"""What an encoder's own library makes of pictures: the slow path that ours is held against.

PIL's resize and crop, normalised as the library does it, and the library's own forward pass in
float32, eager, on the CPU: the same on every machine, and in nobody's way on a GPU. Nothing of muse
lies between a picture and its tokens. Knows nothing of videos.
"""

# Legend: B pictures, S side of the input, K = 1 + P tokens a picture, D width of the joint space,
# W width before the projection.

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from muse.pipeline.header import Preprocessing

# Where all is right a class token was at least as near as 0.999999, 0.999998 and 0.99986 on real
# frames, and the mean patch nearer; with one block left out at most 0.975 (docs/adr/0046).
_VIT_COSINE_LIMITS = {"fp32": 0.99999, "fp16": 0.9995, "bf16": 0.995}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """A library's two steps from a picture to its tokens."""

    transform: Callable[[Image.Image], Tensor]
    """A picture of any size to (3, S, S) float32, normalised."""
    forward: Callable[[Tensor], Tensor]
    """(B, 3, S, S) float32 to (B, K, D) float32, class token first, not normalised."""
    cosine_limits: Mapping[str, float]
    """By precision: how near to these tokens those of muse have to be."""

    def pixels(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(B, 3, S, S) float32 of pictures, (H, W, 3) uint8 RGB of any sizes."""
        return torch.stack([self.transform(Image.fromarray(picture)) for picture in pictures])

    @torch.no_grad()
    def tokens(self, pixels_B3SS: Tensor) -> NDArray[np.float32]:
        """(B, K, D) of `pixels`."""
        tokens_BKD: NDArray[np.float32] = self.forward(pixels_B3SS).float().numpy()
        return tokens_BKD


def open_clip_reference(visual: Any, transform: Callable[[Image.Image], Tensor]) -> Reference:
    """By the `forward` of open_clip's VisionTransformer.

    Args:
        visual: On the CPU, float32; it stays as it is.
        transform: open_clip's own for these weights.
    """
    visual = copy.copy(visual)  # shares the weights
    visual.output_tokens = True  # the class token, projected, and the patches, not projected

    def forward(pixels_B3SS: Tensor) -> Tensor:
        class_BD, patches_BPW = visual(pixels_B3SS)
        if visual.final_ln_after_pool:  # then the pooled class token alone had its norm
            patches_BPW = visual.ln_post(patches_BPW)
        return torch.cat([class_BD[:, None], patches_BPW @ visual.proj], dim=1)

    return Reference(transform=transform, forward=forward, cosine_limits=_VIT_COSINE_LIMITS)


def torchvision_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """For weights that come without a transform of their own: torchvision's, over PIL."""
    from torchvision.transforms import (  # takes a second, which few that import this module need
        CenterCrop,
        Compose,
        InterpolationMode,
        Normalize,
        Resize,
        ToTensor,
    )

    transform: Callable[[Image.Image], Tensor] = Compose(
        [
            Resize(preprocessing.resize_to, InterpolationMode(preprocessing.interpolation)),
            CenterCrop(preprocessing.size),
            ToTensor(),
            Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    return transform
