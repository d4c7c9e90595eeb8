"""CLIP4Clip's "seqTransf": a transformer over the class tokens of a video's frames.

The baseline that attends over time and sees no patch. Frames are mixed in their order, the input
is added to the output, and mean pooling follows as for MUSE. Knows nothing of text or of training.

Where we differ from CLIP4Clip (Luo et al. 2021, sec. 3.3): it starts from the first layers of
CLIP's text transformer, which a head on stored features does not have. Here the last matrix of
each branch (attention's output, the MLP's second layer) and the positions start at zero. A new
layer is then the identity, the sum twice its input, and a new head mean pooling; and since the
zeros come last in each branch, gradient reaches them in the first step and the rest after it.
LayerNorm's eps is CLIP's 1e-5, where the published code has 1e-12.
"""

# Legend: B videos, T frames, K tokens a frame, F valid frames of all videos, L frames of the video
# that has most, D width.

import torch
from torch import Tensor, nn

from muse.errors import UsageError
from muse.head.mixers.attention import num_heads
from muse.head.ordering import read_frames, scale_wise, valid_frames

MLP_RATIO = 4


class SeqTransfAggregator(nn.Module):
    """(B, T, K, D) tokens -> (B, T, D) frame embeddings, CLIP4Clip sec. 3.3."""

    def __init__(self, dim: int, *, depth: int, max_frames: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(max_frames, dim))
        self.layers = nn.ModuleList(_identity_layer(dim) for _ in range(depth))

    def forward(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """The frames after all of them have been seen.

        Args:
            tokens_BTKD: (B, T, K, D), class token first, not normalised; the others are not read.
            valid_BT: (B, T) bool, False for padding, whose tokens are never read. A frame's
                position is its rank among the valid ones.

        Returns:
            (B, T, D), zeros where a frame is padding.

        Raises:
            UsageError: If a video has more valid frames than there are positions.
        """
        frames_FD = valid_frames(tokens_BTKD[:, :, 0], valid_BT)
        sequence = scale_wise(frames_FD, (), valid_BT)
        num_frames = sequence.tokens_BLD.shape[1]
        self._require_positions(num_frames)
        mixed_BLD = sequence.tokens_BLD + self.positions[:num_frames]
        is_filler_BL = _filler(sequence.length_B, num_frames)
        for layer in self.layers:
            mixed_BLD = layer(mixed_BLD, src_key_padding_mask=is_filler_BL)
        return read_frames(sequence.tokens_BLD + mixed_BLD, sequence, valid_BT)

    def _require_positions(self, num_frames: int) -> None:
        max_frames = len(self.positions)
        if num_frames > max_frames:
            raise UsageError(
                f"a video of {num_frames} frames: this head has positions for {max_frames}. "
                f"Use a store of at most {max_frames} frames a video, or train a head on this one."
            )


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def _identity_layer(dim: int) -> nn.TransformerEncoderLayer:
    """A pre-norm layer that returns its input until it is trained; CLIP's have no dropout."""
    layer = nn.TransformerEncoderLayer(
        dim,
        num_heads(dim),
        dim_feedforward=MLP_RATIO * dim,
        dropout=0.0,
        activation=quick_gelu,
        batch_first=True,
        norm_first=True,
    )
    for last in (layer.self_attn.out_proj, layer.linear2):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return layer


def _filler(length_B: Tensor | None, num_places: int) -> Tensor | None:
    """(B, L) bool, True behind a sequence's end; None where all are full.

    The first place is always False: a softmax over nothing would be NaN for a video without a
    frame, and what that place becomes is not read.
    """
    if length_B is None:
        return None
    place_L = torch.arange(num_places, device=length_B.device)
    return place_L >= length_B.clamp_min(1)[:, None]
