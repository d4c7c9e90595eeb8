"""The one sequence a video becomes, scale by scale, and where its frames sit in it.

MUSE sec. 3.4: the class tokens of all frames first, then every frame's tokens of the first scale,
then of the next. Tokens of padded frames are left out, so that a sequence holds what was seen and
nothing else. Knows nothing of what is done with the sequence.
"""

# Legend: B videos, T frames, F = frames of all videos that are valid, S cells of a scale,
# D width, L tokens of the longest sequence.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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


def read_frames(outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
    """(B, T, D): what a sequence's mixer made of each class token; zeros where a frame is padding.

    Args:
        outputs_BLD: (B, L, D), position by position over ``sequence.tokens_BLD``.
        sequence: Of `scale_wise`.
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
