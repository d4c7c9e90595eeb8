"""Symmetric InfoNCE over a batch of caption and video pairs.

Knows nothing of models. A batch drawn from captions may hold a video twice; `Duplicates` says
what that means.
"""

# Legend: B pairs in a batch, D width.

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.similarity.mean_pool import cosine_similarity

Duplicates = Literal["masked", "negatives"]


def symmetric_info_nce(
    text_BD: Tensor,
    video_BD: Tensor,
    logit_scale: Tensor,
    video_rows_B: Tensor,
    *,
    duplicates: Duplicates = "masked",
) -> Tensor:
    """The mean of both cross entropies, caption to video and video to caption; MUSE sec. 3.1.

    Args:
        text_BD: (B, D) captions, any length.
        video_BD: (B, D) unit vectors, pair by pair.
        logit_scale: Natural logarithm of the factor on the cosine.
        video_rows_B: (B,) which video each pair shows.
        duplicates: ``masked`` leaves pairs of a caption with another copy of its own video out of
            the denominators; ``negatives`` pushes them apart, as the published code does.

    Returns:
        A scalar.
    """
    logits_BB = cosine_similarity(text_BD, video_BD) * logit_scale.exp()
    if duplicates == "masked":
        logits_BB = logits_BB.masked_fill(_other_copies(video_rows_B), -torch.inf)
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    text_to_video = F.cross_entropy(logits_BB, target_B)
    video_to_text = F.cross_entropy(logits_BB.transpose(0, 1), target_B)
    return (text_to_video + video_to_text) / 2


def _other_copies(video_rows_B: Tensor) -> Tensor:
    """(B, B) True where two different pairs show the same video."""
    same_BB = video_rows_B[:, None] == video_rows_B
    return same_BB.fill_diagonal_(False)
