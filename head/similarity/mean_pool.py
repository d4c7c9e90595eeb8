"""Mean pooling: the video is the mean of its normalised frames, the score a cosine.

CLIP4Clip's "meanP", which MUSE keeps as it is. Knows nothing of where frames come from.
"""

# Legend: B videos, T frames, Q captions, V videos, D width.

import torch.nn.functional as F
from torch import Tensor


def pool_frames(frames_BTD: Tensor, valid_BT: Tensor) -> Tensor:
    """(B, D) unit vectors: the normalised mean of each video's normalised valid frames.

    Args:
        frames_BTD: (B, T, D), not normalised.
        valid_BT: (B, T) bool. A video without a valid frame becomes zeros.
    """
    weight_BT1 = valid_BT[..., None].to(frames_BTD.dtype)
    total_BD = (F.normalize(frames_BTD, dim=-1) * weight_BT1).sum(1)
    return F.normalize(total_BD / weight_BT1.sum(1).clamp_min(1.0), dim=-1)


def cosine_similarity(text_QD: Tensor, video_VD: Tensor) -> Tensor:
    """(Q, V) cosines of captions, of any length, and videos from `pool_frames`."""
    return F.normalize(text_QD, dim=-1) @ video_VD.transpose(0, 1)
