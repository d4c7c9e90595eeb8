"""The one sequence a video becomes, and where its frames sit in it.

The three orders of MUSE sec. 3.4. ``scale``: the class tokens of all frames, then every frame's
tokens of the first scale, then of the next. ``frame``: the class token of the first frame and its
tokens of all scales, then the next frame. ``spatial``: the class tokens of all frames, then each
scale's tokens averaged over the frames. The class tokens may be repeated further on, for read-outs
that the paper does not have. Tokens of padded frames are left out, so that a sequence holds what
was seen and nothing else. Knows nothing of what is done with the sequence.
"""

# Legend: B videos, T frames, F = frames of all videos that are valid, S cells of a scale, P parts
# of a frame, C tokens of a part, R places of a frame's class token, D width, L tokens of the
# longest sequence.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Order = Literal["scale", "frame", "spatial"]
ClassTokens = Literal["once", "ends", "interleaved"]
"""Where a frame's class token is: first; first and last; or first and after each scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSequence:
    """The sequences of a batch, aligned to the left."""

    tokens_BLD: Tensor
    """(B, L, D); what lies behind a sequence's length is arbitrary and must not be read."""
    length_B: Tensor | None
    """(B,) int64, tokens of each sequence; None where all have L."""
    places_BTR: Tensor | None
    """(B, T, R) int64, where each valid frame's class token sits; None where frame t sits at t."""


def valid_frames(tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
    """(F, …) of (B, T, …): the frames that are no padding, video by video."""
    if bool(valid_BT.all()):
        return tokens_BTKD.flatten(0, 1)
    return tokens_BTKD[valid_BT]


def scale_wise(
    class_FD: Tensor,
    scales_FSD: Sequence[Tensor],
    valid_BT: Tensor,
    class_tokens: ClassTokens = "once",
) -> TokenSequence:
    """Class tokens of all frames, then the cells of all frames, one scale after the other.

    Args:
        class_FD: (F, D) class tokens of the valid frames, as `valid_frames` orders them.
        scales_FSD: One (F, S, D) a scale, raster order inside a frame; none for class tokens alone.
        valid_BT: (B, T) bool, any pattern.
        class_tokens: How often each frame's class token is there.
    """
    parts_FCD = _frame_parts(class_FD[:, None], scales_FSD, class_tokens)
    sizes = [part_FCD.shape[1] for part_FCD in parts_FCD]
    before = [sum(sizes[:part]) for part in range(len(sizes))]
    num_frames_B = valid_BT.sum(1)
    rank_BT = (valid_BT.cumsum(1) - 1).clamp_min(0)
    places = [
        num_frames_B[:, None] * before[part] + rank_BT * sizes[part] + sizes[part] - 1
        for part in _parts_with_class(len(sizes), class_tokens)
    ]
    if not bool(valid_BT.all()):
        source_BL, length_B = _sources(sizes, valid_BT)
        tokens_BLD = torch.cat([part.flatten(0, 1) for part in parts_FCD])[source_BL]
        places_BTR = torch.stack(places, dim=-1)
        return TokenSequence(tokens_BLD=tokens_BLD, length_B=length_B, places_BTR=places_BTR)
    num_videos = valid_BT.shape[0]
    joined = [part.reshape(num_videos, -1, part.shape[-1]) for part in parts_FCD]
    return TokenSequence(
        tokens_BLD=torch.cat(joined, dim=1),
        length_B=None,
        places_BTR=None if class_tokens == "once" else torch.stack(places, dim=-1),
    )


def frame_wise(
    class_FD: Tensor,
    scales_FSD: Sequence[Tensor],
    valid_BT: Tensor,
    class_tokens: ClassTokens = "once",
) -> TokenSequence:
    """Frame after frame, each its class token and then its cells, one scale after the other.

    The arguments are those of `scale_wise`.
    """
    parts_FCD = _frame_parts(class_FD[:, None], scales_FSD, class_tokens)
    sizes = [part_FCD.shape[1] for part_FCD in parts_FCD]
    frames_FCD = torch.cat(parts_FCD, dim=1)
    num_cells = frames_FCD.shape[1]
    num_frames_B = valid_BT.sum(1)
    first_B = num_frames_B.cumsum(0) - num_frames_B
    place_T = torch.arange(int(num_frames_B.max()), device=valid_BT.device)
    frame_BT = (first_B[:, None] + place_T).clamp_max(max(0, len(frames_FCD) - 1))
    start_BT = (valid_BT.cumsum(1) - 1).clamp_min(0) * num_cells
    places = [
        start_BT + sum(sizes[: part + 1]) - 1
        for part in _parts_with_class(len(sizes), class_tokens)
    ]
    return TokenSequence(
        tokens_BLD=frames_FCD[frame_BT].flatten(1, 2),
        length_B=None if bool(valid_BT.all()) else num_frames_B * num_cells,
        places_BTR=torch.stack(places, dim=-1),
    )


def spatial_wise(
    class_FD: Tensor,
    scales_FSD: Sequence[Tensor],
    valid_BT: Tensor,
    class_tokens: ClassTokens = "once",
) -> TokenSequence:
    """Class tokens of all frames, then each scale's cells, averaged over the video's frames.

    The arguments are those of `scale_wise`; an average belongs to no frame, and so class tokens are
    repeated for all frames at once.
    """
    num_frames_B = valid_BT.sum(1)
    video_F = valid_BT.nonzero()[:, 0]
    means_BSD = [
        scale_FSD.new_zeros(len(valid_BT), *scale_FSD.shape[1:]).index_add(0, video_F, scale_FSD)
        / num_frames_B.clamp_min(1)[:, None, None]
        for scale_FSD in scales_FSD
    ]
    class_BTD = class_FD.new_zeros(*valid_BT.shape, class_FD.shape[-1])
    class_BTD[valid_BT] = class_FD
    used = [(class_BTD, valid_BT)]
    places = [rank_BT := (valid_BT.cumsum(1) - 1).clamp_min(0)]
    for number, mean_BSD in enumerate(means_BSD, start=1):
        is_used_B1 = valid_BT.any(1, keepdim=True)
        used.append((mean_BSD, is_used_B1.expand(-1, mean_BSD.shape[1])))
        if class_tokens == "interleaved" or (class_tokens == "ends" and number == len(means_BSD)):
            places.append(sum(part[1].sum(1, keepdim=True) for part in used) + rank_BT)
            used.append((class_BTD, valid_BT))
    tokens_BLD = torch.cat([part[0] for part in used], dim=1)
    places_BTR = torch.stack(places, dim=-1)
    if bool(valid_BT.all()):
        return TokenSequence(
            tokens_BLD=tokens_BLD,
            length_B=None,
            places_BTR=None if class_tokens == "once" else places_BTR,
        )
    order_BL, length_B = _used_first(torch.cat([part[1] for part in used], dim=1))
    return TokenSequence(
        tokens_BLD=tokens_BLD.gather(1, order_BL[..., None].expand(-1, -1, tokens_BLD.shape[-1])),
        length_B=length_B,
        places_BTR=places_BTR,
    )


OrderFunction = Callable[[Tensor, Sequence[Tensor], Tensor, ClassTokens], TokenSequence]
ORDERS: dict[Order, OrderFunction] = {
    "scale": scale_wise,
    "frame": frame_wise,
    "spatial": spatial_wise,
}


def read_frames(outputs_BLD: Tensor, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
    """(B, T, D): the mean of what a sequence's mixer made of a frame's class token, in all places.

    Zeros where a frame is padding.

    Args:
        outputs_BLD: (B, L, D), position by position over ``sequence.tokens_BLD``.
        sequence: Of one of `ORDERS`.
        valid_BT: (B, T) bool, the one that made the sequence or a part of it.
    """
    if sequence.places_BTR is None:
        frames_BTD = outputs_BLD[:, : valid_BT.shape[1]]
    else:
        index_BED = sequence.places_BTR.flatten(1)[..., None]
        index_BED = index_BED.expand(-1, -1, outputs_BLD.shape[-1])
        frames_BTD = outputs_BLD.gather(1, index_BED)
        if sequence.places_BTR.shape[-1] > 1:
            shape_BTRD = (*sequence.places_BTR.shape, outputs_BLD.shape[-1])
            frames_BTD = frames_BTD.view(shape_BTRD).mean(2)
    return frames_BTD if bool(valid_BT.all()) else frames_BTD.masked_fill(~valid_BT[..., None], 0.0)


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


def _frame_parts(
    class_F1D: Tensor, scales_FSD: Sequence[Tensor], class_tokens: ClassTokens
) -> list[Tensor]:
    """(F, C, D) each: a frame's tokens, scale by scale; a class token is the last of its part."""
    if class_tokens == "interleaved":
        return [class_F1D, *(torch.cat([cells, class_F1D], dim=1) for cells in scales_FSD)]
    is_last_too = class_tokens == "ends" and len(scales_FSD) > 0
    return [class_F1D, *scales_FSD, *([class_F1D] if is_last_too else [])]


def _parts_with_class(num_parts: int, class_tokens: ClassTokens) -> Sequence[int]:
    """Which parts of `_frame_parts` end with a class token."""
    if class_tokens == "interleaved":
        return range(num_parts)
    return (0, num_parts - 1) if class_tokens == "ends" and num_parts > 1 else (0,)


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
    order_BL, length_B = _used_first(torch.cat(used, dim=1))
    return torch.cat(rows, dim=1).gather(1, order_BL).clamp_min(0), length_B


def _used_first(used_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Where each sequence's used places are, in their order; and how many it has."""
    length_B = used_BL.sum(1)
    # A stable sort moves the used places to the left and keeps their order.
    order_BL = used_BL.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return order_BL[:, : int(length_B.max())], length_B
