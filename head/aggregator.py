"""MUSE: all tokens of a video's frames -> one refined embedding a frame.

Pyramid, one sequence, a few gated residual BiMamba blocks, and the frames read out of it. Knows
nothing of text, of similarity or of training.
"""

# Legend: B videos, T frames, F valid frames of all videos, K = 1 + P tokens a frame, P = G * G
# patches, L tokens in the scan, D width, V videos of a part.

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse.errors import UsageError
from muse.head.head_config import HeadConfig
from muse.head.mixers.choice import new_mixer
from muse.head.mixers.fused_block import BlockWeights
from muse.head.ordering import ORDERS, TokenSequence, valid_frames
from muse.head.pyramid import FeaturePyramid, cells_per_scale
from muse.head.readout import READS_CELLS, class_tokens_of, new_readout
from muse.head.residual import ResMambaBlock
from muse.head.scan.select import ScanBackend

VIDEOS_AT_ONCE = 32
"""That go through the blocks together. What a block computes and drops is then of a part of the
batch; fewer would not fill a large GPU."""
NORMAL_INIT_STD = 0.02  # of BERT, which CLIP4Clip and the published code took over


class MuseAggregator(nn.Module):
    """(B, T, 1+P, D) tokens -> (B, T, D) frame embeddings, MUSE sec. 3.

    Without factors the sequence is the class tokens alone, and no patch is read.
    """

    def __init__(self, config: HeadConfig, *, scan: ScanBackend = "auto") -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Whether a block's activations are made again for its gradient rather than kept."""
        # Without a block most read-outs never see the cells.
        reads_cells = config.depth > 0 or config.readout in READS_CELLS
        self.factors = config.factors if reads_cells else ()
        self.pyramid = FeaturePyramid(config.dim, self.factors)
        if config.pyramid == "frozen":
            self.pyramid.requires_grad_(requires_grad=False)
        self.blocks = nn.ModuleList(
            _new_block(config, place, scan) for place in range(config.depth)
        )
        self.readout = new_readout(config.readout, config.dim)
        if config.init == "normal":
            self.blocks.apply(_init_normal)

    def forward(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """The frames after all of them have been seen.

        Args:
            tokens_BTKD: (B, T, K, D), class token first, not normalised.
            valid_BT: (B, T) bool, False for padding, whose tokens are read only where the head
                was made to scan them.

        Returns:
            (B, T, D), zeros where a frame is padding.

        Raises:
            UsageError: If there are factors, and K - 1 is no square or the grid is too small for
                one of them.
        """
        return self.frames_of(self.sequence_of(tokens_BTKD, valid_BT), valid_BT)

    def sequence_of(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> TokenSequence:
        """What the first block is given; the arguments are those of `forward`."""
        frames_FKD = valid_frames(tokens_BTKD, self.scanned(valid_BT))
        return self.sequence_from(frames_FKD[:, 0], self.scales_of(frames_FKD), valid_BT)

    def sequence_from(
        self, class_FD: Tensor, scales_FSD: list[Tensor], valid_BT: Tensor
    ) -> TokenSequence:
        """The same of the class tokens and the cells of the frames that `scanned` names."""
        scanned_BT = self.scanned(valid_BT)
        class_tokens = class_tokens_of(self.config.readout)
        return ORDERS[self.config.order](class_FD, scales_FSD, scanned_BT, class_tokens)

    def scanned(self, valid_BT: Tensor) -> Tensor:
        """(B, T) bool, the frames that are in the sequence: the valid ones, or all."""
        return torch.ones_like(valid_BT) if self.config.padding == "scanned" else valid_BT

    def frames_of(self, sequence: TokenSequence, valid_BT: Tensor) -> Tensor:
        """(B, T, D) of a sequence of `sequence_of`."""
        tokens_BLD = self._through_blocks(sequence) if self.blocks else sequence.tokens_BLD
        return cast(Tensor, self.readout(tokens_BLD, sequence, valid_BT))

    def _through_blocks(self, sequence: TokenSequence) -> Tensor:
        num_parts = math.ceil(len(sequence.tokens_BLD) / VIDEOS_AT_ONCE) or 1
        parts = sequence.tokens_BLD.chunk(num_parts)
        lengths: Sequence[Tensor | None] = [None] * len(parts)
        if sequence.length_B is not None:
            lengths = sequence.length_B.chunk(num_parts)
        blocks = [(block, block.prepare(parts[0])) for block in self._residual_blocks()]
        done = []
        for tokens_VLD, length_V in zip(parts, lengths, strict=True):
            for block, weights in blocks:
                tokens_VLD = self._through(block, weights, tokens_VLD, length_V)
            done.append(tokens_VLD)
        return torch.cat(done) if len(done) > 1 else done[0]

    def _residual_blocks(self) -> Sequence[ResMambaBlock]:
        return cast(Sequence[ResMambaBlock], self.blocks)

    def _through(
        self,
        block: ResMambaBlock,
        weights: BlockWeights | None,
        tokens_BLD: Tensor,
        length_B: Tensor | None,
    ) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return cast(Tensor, block(tokens_BLD, length_B, weights))
        return cast(Tensor, checkpoint(block, tokens_BLD, length_B, weights, use_reentrant=False))

    def scales_of(self, frames_FKD: Tensor) -> list[Tensor]:
        """The cells of some frames' patches, (F, S, D) each scale."""
        if not self.factors:
            return []  # a frame may then have any number of patches, or none
        grid = patch_grid(frames_FKD.shape[1])
        cells_per_scale(grid, self.factors)
        # Channels last: patch tokens lie in memory as that format wants them, so this is a view.
        patches_FGGD = frames_FKD[:, 1:].reshape(len(frames_FKD), grid, grid, -1)
        return cast(list[Tensor], self.pyramid(patches_FGGD.permute(0, 3, 1, 2)))


def patch_grid(tokens_per_frame: int) -> int:
    """G, patches along one side.

    Raises:
        UsageError: If ``tokens_per_frame`` is not one more than a square.
    """
    grid = math.isqrt(max(tokens_per_frame - 1, 0))
    if grid < 1 or grid * grid != tokens_per_frame - 1:
        raise UsageError(
            f"{tokens_per_frame} tokens a frame: expected one class token and a square of patches"
        )
    return grid


def _new_block(config: HeadConfig, place: int, scan: ScanBackend) -> ResMambaBlock:
    """Dropout grows linearly from 0 at the first block to its full rate at the last."""
    mixer = new_mixer(
        config.mixer,
        config.dim,
        d_state=config.d_state,
        d_conv=config.d_conv,
        expand=config.expand,
        scan=scan,
    )
    rate = config.dropout * place / max(1, config.depth - 1)
    return ResMambaBlock(config.dim, mixer, dropout=rate, residual=config.residual)


def _init_normal(module: nn.Module) -> None:
    """The initialiser that the published code runs over a finished model.

    It overwrites Mamba's own weights: with a bias of 0, Δ is softplus(0) = 0.693 in every channel,
    and a state fades by half to 2^-16 from one token to the next.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=NORMAL_INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
