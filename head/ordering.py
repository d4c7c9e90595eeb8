"""The one sequence a video becomes, and where its frames sit in it.

The three orders of MUSE sec. 3.4. ``scale``: the class tokens of all frames, then every frame's
tokens of the first scale, then of the next. ``frame``: the class token of the first frame and its
tokens of all scales, then the next frame. ``spatial``: the class tokens of all frames, then each
scale's tokens averaged over the frames. Tokens of padded frames are left out, so that a sequence
holds what was seen and nothing else. Knows nothing of what is done with the sequence.
"""

# Legend: B videos, T frames, F = frames of all videos that are valid, S cells of a scale,
# D width, L tokens of the longest sequence.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Order = Literal["scale", "frame", "spatial"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSequence:
    """The sequences of a batch, aligned to the left."""

    tokens_BLD: Tensor
    """(B, L, D); what lies behind a sequence's length is arbitrary and must not be read."""
    length_B: Tensor | None
    """(B,) int64, tokens of each sequence; None where all have L."""
    frame_position_BT: Tensor | None
    """(B, T) int64, where each valid frame sits; None where frame t sits at t."""


def valid_frames(tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
    """(F, …) of (B, T, …): the frames that are no padding, video by video."""
    if bool(valid_BT.all()):
        return tokens_BTKD.flatten(0, 1)
    return tokens_BTKD[valid_BT]


def scale_wise(class_FD: Tensor, scales_FSD: Sequence[Tensor], valid_BT: Tensor) -> TokenSequence:
    """Class tokens of all frames, then the cells of all frames, one scale after the other.

    Args:
        class_FD: (F, D) class tokens of the valid frames, as `valid_frames` orders them.
        scales_FSD: One (F, S, D) a scale, raster order inside a frame; none for class tokens alone.
        valid_BT: (B, T) bool, any pattern.
    """
    per_frame = [class_FD[:, None], *scales_FSD]
    if bool(valid_BT.all()):
        num_videos = valid_BT.shape[0]
        parts = [cells.reshape(num_videos, -1, cells.shape[-1]) for cells in per_frame]
        return TokenSequence(
            tokens_BLD=torch.cat(parts, dim=1), length_B=None, frame_position_BT=None
        )
    source_BL, length_B = _sources([cells.shape[1] for cells in per_frame], valid_BT)
    table_RD = torch.cat([cells.flatten(0, 1) for cells in per_frame])
    return TokenSequence(
        tokens_BLD=table_RD[source_BL],
        length_B=length_B,
        frame_position_BT=(valid_BT.cumsum(1) - 1).clamp_min(0),
    )


def frame_wise(class_FD: Tensor, scales_FSD: Sequence[Tensor], valid_BT: Tensor) -> TokenSequence:
    """Frame after frame, each its class token and then its cells, one scale after the other.

    The arguments are those of `scale_wise`.
    """
    frames_FCD = torch.cat([class_FD[:, None], *scales_FSD], dim=1)
    num_cells = frames_FCD.shape[1]
    num_frames_B = valid_BT.sum(1)
    first_B = num_frames_B.cumsum(0) - num_frames_B
    place_T = torch.arange(int(num_frames_B.max()), device=valid_BT.device)
    frame_BT = (first_B[:, None] + place_T).clamp_max(max(0, len(frames_FCD) - 1))
    return TokenSequence(
        tokens_BLD=frames_FCD[frame_BT].flatten(1, 2),
        length_B=None if bool(valid_BT.all()) else num_frames_B * num_cells,
        frame_position_BT=(valid_BT.cumsum(1) - 1).clamp_min(0) * num_cells,
    )


def spatial_wise(class_FD: Tensor, scales_FSD: Sequence[Tensor], valid_BT: Tensor) -> TokenSequence:
    """Class tokens of all frames, then each scale's cells, averaged over the video's frames.

    The published code averages padded frames too; here they are left out. The arguments are those
    of `scale_wise`.
    """
    num_frames_B = valid_BT.sum(1)
    video_F = valid_BT.nonzero()[:, 0]
    parts = [
        scale_FSD.new_zeros(len(valid_BT), *scale_FSD.shape[1:]).index_add(0, video_F, scale_FSD)
        / num_frames_B.clamp_min(1)[:, None, None]
        for scale_FSD in scales_FSD
    ]
    class_BTD = class_FD.new_zeros(*valid_BT.shape, class_FD.shape[-1])
    class_BTD[valid_BT] = class_FD
    tokens_BLD = torch.cat([class_BTD, *parts], dim=1)
    if bool(valid_BT.all()):
        return TokenSequence(tokens_BLD=tokens_BLD, length_B=None, frame_position_BT=None)
    num_cells = tokens_BLD.shape[1] - valid_BT.shape[1]
    used_BL = torch.cat([valid_BT, valid_BT.any(1, keepdim=True).expand(-1, num_cells)], dim=1)
    order_BL = used_BL.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    length_B = used_BL.sum(1)
    order_BL = order_BL[:, : int(length_B.max())]
    return TokenSequence(
        tokens_BLD=tokens_BLD.gather(1, order_BL[..., None].expand(-1, -1, tokens_BLD.shape[-1])),
        length_B=length_B,
        frame_position_BT=(valid_BT.cumsum(1) - 1).clamp_min(0),
    )


ORDERS: dict[Order, Callable[[Tensor, Sequence[Tensor], Tensor], TokenSequence]] = {
    "scale": scale_wise,
    "frame": frame_wise,
    "spatial": spatial_wise,
}


def read_frames(outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
    """(B, T, D): what a sequence's mixer made of each class token; zeros where a frame is padding.

    Args:
        outputs_BLD: (B, L, D), position by position over ``sequence.tokens_BLD``.
        sequence: Of one of `ORDERS`.
        valid_BT: (B, T) bool, the one that made the sequence.
    """
    if sequence.frame_position_BT is None:
        return outputs_BLD[:, : valid_BT.shape[1]]
    index_BTD = sequence.frame_position_BT[..., None].expand(-1, -1, outputs_BLD.shape[-1])
    return outputs_BLD.gather(1, index_BTD).masked_fill(~valid_BT[..., None], 0.0)


def reverse_sequences(tokens_BLD: Tensor, length_B: Tensor | None) -> Tensor:
    """Each sequence back to front within its own length; what lies behind it stays in place.

    Its own inverse. A flip of the whole row instead would put the padding first, where a causal
    scan carries it into every token.
    """
    if length_B is None:
        return tokens_BLD.flip(1)
    position_L = torch.arange(tokens_BLD.shape[1], device=tokens_BLD.device)
    mirrored_BL = length_B[:, None] - 1 - position_L
    index_BL = torch.where(mirrored_BL >= 0, mirrored_BL, position_L)
    return tokens_BLD.gather(1, index_BL[..., None].expand_as(tokens_BLD))


def _sources(cells_per_part: Sequence[int], valid_BT: Tensor) -> tuple[Tensor, Tensor]:
    """For each place of each sequence its row in the table of all tokens, and the lengths.

    The table holds, part by part (class tokens, then each scale), F times ``cells`` rows.
    """
    num_videos, device = valid_BT.shape[0], valid_BT.device
    num_frames = int(valid_BT.sum())
    frame_BT = valid_BT.flatten().cumsum(0).view_as(valid_BT) - 1  # among the F; padding: any
    rows, used, offset = [], [], 0
    for cells in cells_per_part:
        cell_S = torch.arange(cells, device=device)
        rows.append((offset + frame_BT[..., None] * cells + cell_S).view(num_videos, -1))
        used.append(valid_BT[..., None].expand(-1, -1, cells).reshape(num_videos, -1))
        offset += num_frames * cells
    row_BL, used_BL = torch.cat(rows, dim=1), torch.cat(used, dim=1)
    length_B = used_BL.sum(1)
    # A stable sort moves the used rows to the left and keeps their order.
    order_BL = used_BL.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    order_BL = order_BL[:, : int(length_B.max())]
    return row_BL.gather(1, order_BL).clamp_min(0), length_B
