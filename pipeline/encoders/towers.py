"""The trainable parts of a CLIP: the top of its image tower, and its text tower.

Below the top nothing is computed: its input is what a store keeps as view ``block:k``. Weights are
float32, whatever the store was encoded with: at CLIP's rates a step is smaller than the last bit of
a half-precision weight (docs/head.md). Imports no open_clip: a model comes from its encoder.
"""

# Legend: N frames, K = 1 + P tokens a frame, W width before the projection, D width after it, Q
# texts, C token ids a text.

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse.errors import EncoderError
from muse.pipeline.encoders.open_clip import OpenClipEncoder
from muse.pipeline.header import EncoderInfo, require_same_encoder

_OPENCLIP = "openclip:"


class ImageTop(nn.Module):
    """The last blocks of a Vision Transformer, its ``ln_post`` and its projection.

    Args:
        visual: The image tower of an `OpenClipEncoder`; its modules become this one's.
        num_blocks: K of ``top:K``, at least 1 and fewer than the tower has.
    """

    def __init__(self, visual: nn.Module, num_blocks: int) -> None:
        super().__init__()
        transformer: nn.Module = visual.transformer  # type: ignore[assignment]
        self.blocks = nn.ModuleList(list(transformer.resblocks)[-num_blocks:])  # type: ignore[arg-type]
        self.ln_post: nn.Module = visual.ln_post  # type: ignore[assignment]
        self.proj: nn.Parameter = visual.proj  # type: ignore[assignment]
        self._is_batch_first = bool(transformer.batch_first)
        self.recompute = False
        """Whether each block's activations are made again for the gradient rather than kept."""

    def forward(self, map_NKW: Tensor) -> Tensor:
        """(N, K, D) tokens as `OpenClipEncoder` gives them, from the block's output below."""
        tokens = map_NKW if self._is_batch_first else map_NKW.transpose(0, 1)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        tokens_NKW = tokens if self._is_batch_first else tokens.transpose(0, 1)
        projected: Tensor = self.ln_post(tokens_NKW) @ self.proj
        return projected


class TextTower(nn.Module):
    """A CLIP without its image tower: token ids to the embedding of the end of the text.

    Args:
        model: Of an `OpenClipEncoder`, whose image tower and temperature it loses.
        tokenise: (Q, C) int64 token ids of some texts.
    """

    def __init__(self, model: nn.Module, tokenise: Callable[[Sequence[str]], Tensor]) -> None:
        super().__init__()
        del model.visual
        for name in ("logit_scale", "logit_bias"):
            setattr(model, name, None)
        self.model = model
        self.tokenise = tokenise

    def forward(self, ids_QC: Tensor) -> Tensor:
        """(Q, D) text embeddings, not normalised."""
        embedded: Tensor = self.model.encode_text(ids_QC.long())  # type: ignore[operator]
        return embedded


class Towers(nn.Module):
    """What of a CLIP is trained with a head."""

    def __init__(self, image: ImageTop, text: TextTower | None) -> None:
        super().__init__()
        self.image = image
        self.text = text

    def depth_of(self, name: str) -> int:
        """How far below the head a parameter lies, for rates that fall layer by layer.

        0 for projections and last norms, then 1 for the last block, 2 for the one below it; a text
        tower's embeddings lie below its first block.
        """
        parts = name.split(".")
        blocks = self._blocks(parts[0])
        for before, part in itertools.pairwise(parts):
            if before in ("blocks", "resblocks") and part.isdecimal():
                return len(blocks) - int(part)
        is_embedding = "token_embedding" in parts or "positional_embedding" in parts
        return 1 + len(blocks) if is_embedding else 0

    def _blocks(self, tower: str) -> Sequence[nn.Module]:
        if tower == "image" or self.text is None:
            return list(self.image.blocks)
        return list(self.text.model.transformer.resblocks)  # type: ignore[union-attr, arg-type]


def load_towers(
    encoder: EncoderInfo, *, num_blocks: int, with_text: bool, text_length: int | None
) -> Towers:
    """Towers with the weights that a store was encoded with, float32, on the CPU.

    Args:
        encoder: Of the store's header.
        num_blocks: K of ``top:K``.
        with_text: Whether the text tower is among them.
        text_length: Of the store's header: where its captions are cut.

    Raises:
        EncoderError: If the encoder is no CLIP of open_clip, or can't be loaded here.
        IncompatibleStoreError: If other weights are found under its name.
    """
    if not encoder.spec.startswith(_OPENCLIP):
        raise EncoderError(
            f"encoder {encoder.spec}: it has no towers to train. Extract with an openclip: encoder."
        )
    built = OpenClipEncoder.build(
        encoder.spec.removeprefix(_OPENCLIP), device="cpu", precision="fp32"
    )
    found = dataclasses.replace(built.info, precision=encoder.precision)
    require_same_encoder(found, encoder, what="the encoder at hand")
    image = ImageTop(built.model.visual, num_blocks)

    def tokenise(texts: Sequence[str]) -> Tensor:
        return built.tokenise(list(texts), text_length)

    return Towers(image, TextTower(built.model, tokenise) if with_text else None)
