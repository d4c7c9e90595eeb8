"""A whole image tower that is trained: kept frames to the tokens of an encoder.

Its input are the squares that views ``frames:…`` keep, uint8, which become the encoder's input on
the device they are on. Knows nothing of stores, and of a video only which frames are one's.
"""

# Legend: N frames, S side of a kept frame, K = 1 + P tokens a frame, W width before the
# projection, D width after it, F frames of a video.

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse.pipeline.encoders.base import normalised
from muse.pipeline.encoders.exact_resize import input_levels
from muse.pipeline.encoders.known_vit import why_unknown_image
from muse.pipeline.encoders.vit_forward import embed_patches, run_blocks, runs_on
from muse.pipeline.header import Preprocessing


class ImageTop(nn.Module):
    """The last blocks of a Vision Transformer, its ``ln_post`` and its projection.

    Args:
        visual: The image tower of an `OpenClipEncoder`; its modules become this one's.
        num_blocks: K of ``top:K``, at least 1.
    """

    def __init__(self, visual: Any, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(list(visual.transformer.resblocks)[-num_blocks:])
        self.ln_post: nn.Module = visual.ln_post
        self.proj: nn.Parameter = visual.proj
        self._is_batch_first = bool(visual.transformer.batch_first)
        self._is_known = why_unknown_image(visual) is None
        self.recompute = False
        """Whether each block's activations are made again for the gradient rather than kept."""

    def forward(self, map_NKW: Tensor, video_N: Tensor | None = None) -> Tensor:
        """(N, K, D) tokens as `OpenClipEncoder` gives them, from the block's output below.

        Args:
            map_NKW: Of any floating dtype.
            video_N: Not read: what a block gave is as it is.
        """
        map_NKW = map_NKW.to(self.proj.dtype)
        if self.has_own_pass(map_NKW.device):
            _, normed_NKW = run_blocks(self.blocks, map_NKW, self.ln_post, recompute=self.recompute)
            return normed_NKW @ self.proj
        tokens = map_NKW if self._is_batch_first else map_NKW.transpose(0, 1)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        tokens_NKW = tokens if self._is_batch_first else tokens.transpose(0, 1)
        projected: Tensor = self.ln_post(tokens_NKW) @ self.proj
        return projected

    def has_own_pass(self, device: torch.device) -> bool:
        """Whether muse's forward pass computes the tower there, or open_clip's modules do."""
        return self._is_known and runs_on(device)


class ImageTower(nn.Module):
    """All of a Vision Transformer, from the pixels of kept frames.

    Args:
        visual: The image tower of an `OpenClipEncoder`; its modules become this one's.
        preprocessing: Of the encoder.
        random_crops: Whether, in training mode, it sees a random square of each video's frames
            (`random_boxes`) in place of the whole.
    """

    def __init__(
        self, visual: Any, preprocessing: Preprocessing, *, random_crops: bool = False
    ) -> None:
        super().__init__()
        self.conv1: nn.Module = visual.conv1
        self.class_embedding: nn.Parameter = visual.class_embedding
        self.positional_embedding: nn.Parameter = visual.positional_embedding
        self.ln_pre: nn.Module = visual.ln_pre
        self.top = ImageTop(visual, len(visual.transformer.resblocks))
        self.preprocessing = preprocessing
        self.random_crops = random_crops

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks, the first at the pixels."""
        return self.top.blocks

    @property
    def recompute(self) -> bool:
        """As `ImageTop`'s."""
        return self.top.recompute

    @recompute.setter
    def recompute(self, recompute: bool) -> None:
        self.top.recompute = recompute

    def forward(self, frames_NSSC: Tensor, video_N: Tensor) -> Tensor:
        """(N, K, D) tokens as `OpenClipEncoder` gives them, but for the second resize.

        Args:
            frames_NSSC: (N, S, S, 3) uint8 RGB.
            video_N: (N,) int64, ascending: which video a frame is of; its frames are cut alike.
        """
        pixels = self.input_of(frames_NSSC, video_N).to(self.top.proj.dtype)
        tokens: Tensor = self.top(self._embedded(pixels))
        return tokens

    def _embedded(self, pixels_N3SS: Tensor) -> Tensor:
        """(N, K, W) input of the first block."""
        if self.top.has_own_pass(pixels_N3SS.device):
            return embed_patches(self, pixels_N3SS)
        patches_NPW = self.conv1(pixels_N3SS).flatten(2).transpose(1, 2)
        class_N1W = self.class_embedding.to(patches_NPW.dtype).expand(len(patches_NPW), 1, -1)
        embedded_NKW = torch.cat([class_N1W, patches_NPW], dim=1) + self.positional_embedding
        normed_NKW: Tensor = self.ln_pre(embedded_NKW)
        return normed_NKW

    @torch.no_grad()
    def input_of(self, frames_NSSC: Tensor, video_N: Tensor) -> Tensor:
        """(N, 3, size, size) float32, normalised, of what `forward` takes."""
        if not (self.random_crops and self.training):
            return pixels_of(frames_NSSC, self.preprocessing)
        num_videos = int(video_N[-1]) + 1 if len(video_N) else 0
        num_frames = torch.bincount(video_N, minlength=num_videos).tolist()
        boxes = random_boxes(
            num_videos, smallest=self.preprocessing.size, largest=frames_NSSC.shape[1]
        )
        parts = zip(torch.split(frames_NSSC, num_frames), boxes, strict=True)
        cut = [_levels_of(_cut(*part), self.preprocessing) for part in parts if len(part[0])]
        levels = torch.cat(cut) if cut else _levels_of(frames_NSSC, self.preprocessing)
        return normalised(levels, self.preprocessing)


def random_boxes(num_videos: int, *, smallest: int, largest: int) -> list[tuple[int, int, int]]:
    """Top, left and side in pixels of a random square in each of some larger ones.

    The side is uniform from ``smallest`` to ``largest``, the place uniform among those that there
    are. Drawn from torch's global random state of the CPU, as dropout on one is.
    """
    boxes = []
    for of_side, of_top, of_left in torch.rand(num_videos, 3, dtype=torch.float64).tolist():
        side = smallest + int(of_side * (largest - smallest + 1))
        room = largest - side + 1
        boxes.append((int(of_top * room), int(of_left * room), side))
    return boxes


def pixels_of(frames_NSSC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, 3, size, size) float32: squares resized to an encoder's input, and normalised.

    Resized as PIL does, by the encoder's filter, bit for bit.

    Args:
        frames_NSSC: (N, S, S, 3) uint8 RGB of any side.
        preprocessing: The encoder's.
    """
    return normalised(_levels_of(frames_NSSC, preprocessing), preprocessing)


def _levels_of(frames_NSSC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, 3, size, size) uint8: squares, resized whole."""
    whole = dataclasses.replace(preprocessing, resize_to=preprocessing.size)
    return input_levels(frames_NSSC, whole)


def _cut(frames_NSSC: Tensor, box: tuple[int, int, int]) -> Tensor:
    top, left, side = box
    return frames_NSSC[:, top : top + side, left : left + side]
