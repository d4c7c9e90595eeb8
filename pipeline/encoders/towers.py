"""The trainable parts of a CLIP: its image tower or the top of it, and its text tower.

Below a top nothing is computed: its input is what a store keeps as view ``block:k``. Weights are
float32, whatever the store was encoded with: at CLIP's rates a step is smaller than the last bit of
a half-precision weight (docs/finetuning.md). Imports no open_clip: a model comes from its encoder.
"""

# Legend: D width of the joint space, Q texts, C token ids a text.

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from muse.errors import EncoderError
from muse.pipeline.encoders.image_tower import ImageTop, ImageTower
from muse.pipeline.encoders.known_vit import why_unknown_text
from muse.pipeline.encoders.open_clip import OpenClipEncoder
from muse.pipeline.encoders.vit_forward import embed_texts, runs_on
from muse.pipeline.header import EncoderInfo, require_same_encoder

_OPENCLIP = "openclip:"
_EMBEDDINGS = {"conv1", "class_embedding", "ln_pre", "token_embedding", "positional_embedding"}


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
        self._is_known = why_unknown_text(model) is None

    def forward(self, ids_QC: Tensor) -> Tensor:
        """(Q, D) text embeddings, not normalised."""
        if self._is_known and runs_on(ids_QC.device):
            return embed_texts(self.model, ids_QC.long())
        embedded: Tensor = self.model.encode_text(ids_QC.long())  # type: ignore[operator]
        return embedded


class Towers(nn.Module):
    """What of a CLIP is trained with a head."""

    def __init__(self, image: ImageTop | ImageTower, text: TextTower | None) -> None:
        super().__init__()
        self.image = image
        self.text = text

    def depth_of(self, name: str) -> int:
        """How far below the head a parameter lies, for rates that fall layer by layer.

        0 for projections and last norms, then 1 for the last block, 2 for the one below it; a
        tower's embeddings lie below its first block.
        """
        parts = name.split(".")
        blocks = self._blocks(parts[0])
        for before, part in itertools.pairwise(parts):
            if before in ("blocks", "resblocks") and part.isdecimal():
                return len(blocks) - int(part)
        return 0 if _EMBEDDINGS.isdisjoint(parts) else 1 + len(blocks)

    def _blocks(self, tower: str) -> Sequence[nn.Module]:
        if tower == "image" or self.text is None:
            return list(self.image.blocks)
        return list(self.text.model.transformer.resblocks)  # type: ignore[union-attr, arg-type]


def load_towers(
    encoder: EncoderInfo,
    *,
    num_blocks: int | None,
    with_text: bool,
    text_length: int | None,
    random_crops: bool = False,
) -> Towers:
    """Towers with the weights that a store was encoded with, float32, on the CPU.

    Args:
        encoder: Of the store's header.
        num_blocks: K of ``top:K``; None for the whole image tower, which reads kept frames.
        with_text: Whether the text tower is among them.
        text_length: Of the store's header: where its captions are cut.
        random_crops: Of a whole image tower, as `ImageTower`'s.

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
    image: ImageTop | ImageTower
    if num_blocks is None:
        image = ImageTower(built.model.visual, encoder.preprocessing, random_crops=random_crops)
    else:
        image = ImageTop(built.model.visual, num_blocks)

    def tokenise(texts: Sequence[str]) -> Tensor:
        return built.tokenise(list(texts), text_length)

    return Towers(image, TextTower(built.model, tokenise) if with_text else None)
