"""An encoder that a child could check: what it makes of a frame is the frame's mean level."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.pipeline.encoders.batches import FrameBatch, FramePart
from muse.pipeline.header import EncoderInfo, Preprocessing

SIDE = 8
VIEWS = ("tokens", "unprojected")


class MeanEncoder:
    """``tokens`` (B, 1, 1) is the mean, ``unprojected`` (B, 1, 2) the mean and its negative.

    Args:
        most_frames: Of a pass; for more its memory runs out.
    """

    def __init__(self, *, most_frames: int = 1000) -> None:
        self.most_frames = most_frames
        self.passes: list[int] = []
        """Frames of each pass that was tried."""
        self.info = EncoderInfo(
            spec="mean",
            weights_sha256="none",
            dim=1,
            tokens_per_frame=1,
            grid=1,
            width=2,
            num_blocks=1,
            precision="fp32",
            logit_scale=1.0,
            preprocessing=Preprocessing(
                size=SIDE, resize_to=SIDE, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
            ),
        )

    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        self.passes.append(len(frames_BHWC))
        if len(frames_BHWC) > self.most_frames:
            raise torch.OutOfMemoryError("out of memory")
        mean_B1 = frames_BHWC.float().mean(dim=(1, 2, 3))[:, None, None]
        maps = {"tokens": mean_B1, "unprojected": torch.cat([mean_B1, -mean_B1], dim=2)}
        return {view: maps[view] for view in views}

    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        maps = self.frame_maps(torch.from_numpy(frames_BHWC), views)
        return {view: tokens.to(torch.float16).numpy() for view, tokens in maps.items()}

    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        return np.zeros((len(texts), 1), np.float16)


def batch_of(*levels: int, side: int = SIDE) -> FrameBatch:
    """A batch of plain frames; where the level is 0 no part lies. Each part is one frame."""
    parts = [
        FramePart(first=place, frames_NHWC=np.full((1, side, side, 3), level, np.uint8))
        for place, level in enumerate(levels)
        if level
    ]
    return FrameBatch(num_frames=len(levels), parts=parts)
