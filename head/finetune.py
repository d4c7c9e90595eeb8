"""A head that is trained together with the CLIP below it, or with the top of that.

What it reads is what lies below the part that is trained, as a store keeps it: a block's output
(view ``block:k``), or frames (``frames:…``). So no epoch computes a block that is not trained, or
decodes a video unless the store keeps no frames. Knows nothing of steps or files; of CLIP only
`muse.pipeline.encoders.towers`, the one part of the encoders that muse.head imports.
"""

# Legend: B videos, T frames, N frames that are no padding, K = 1 + P tokens a frame, W width before
# the projection, D after it, S side of a kept frame, Q captions.

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from muse.errors import IncompatibleStoreError, UsageError
from muse.head.lora import add_adapters
from muse.head.model import RetrievalHead
from muse.head.run_files import TOWERS
from muse.head.train_config import ALL_FINETUNE, NO_FINETUNE
from muse.pipeline.header import StoreHeader
from muse.pipeline.store import FeatureStore
from muse.pipeline.views import FRAMES_DECODED, FRAMES_JPEG, PIXEL_VIEWS, block_number

if TYPE_CHECKING:
    from muse.pipeline.encoders.towers import Towers

logger = logging.getLogger(__name__)
_TOP = re.compile(r"top:([1-9][0-9]*)")
CAPTIONS_AT_A_TIME = 256


class FinetunedHead(RetrievalHead):
    """A head with a trained image tower or its top below it, and a trained text tower or none."""

    def __init__(self, head: RetrievalHead, towers: "Towers") -> None:
        nn.Module.__init__(self)  # the head is there already: nothing is drawn anew
        self.config, self.name = head.config, head.name
        self.aggregator, self.logit_scale = head.aggregator, head.logit_scale
        self.towers = towers
        # What adapters leave as it was is in no checkpoint: the encoder has it.
        self.register_state_dict_post_hook(_without_held)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_not_missing_held)  # type: ignore[no-untyped-call]

    def embed_videos(self, tokens_BTKD: Tensor, valid_BT: Tensor) -> Tensor:
        """One vector a video.

        Args:
            tokens_BTKD: As ``maps_BTKW`` of `encode_maps`.
            valid_BT: (B, T) bool, False for padded frames, which are not computed.

        Returns:
            (B, D) unit vectors in the dtype of the weights.

        Raises:
            UsageError: As `RetrievalHead.embed_videos`.
        """
        return super().embed_videos(self.encode_maps(tokens_BTKD, valid_BT), valid_BT)

    def encode_maps(self, maps_BTKW: Tensor, valid_BT: Tensor) -> Tensor:
        """(B, T, K, D) tokens that the head reads, in the dtype of the weights; 0 for padding.

        Args:
            maps_BTKW: (B, T, K, W) of any floating dtype, the block's output below the top; or for
                a whole tower (B, T, S, S, 3) uint8 RGB, which is cut at random only in training.
            valid_BT: (B, T) bool, False for padded frames, which are not computed.
        """
        wide, (video_N, _) = self.logit_scale.dtype, valid_BT.nonzero(as_tuple=True)
        tokens_NKD: Tensor = self.towers.image(maps_BTKW[valid_BT], video_N).to(wide)
        shape = (*valid_BT.shape, *tokens_NKD.shape[1:])
        return tokens_NKD.new_zeros(shape).masked_scatter(valid_BT[:, :, None, None], tokens_NKD)

    def embed_texts(self, texts: Tensor) -> Tensor:
        """(B, D): token ids (B, C) through the text tower; without one, cached embeddings."""
        return texts if self.towers.text is None else self.towers.text(texts)

    def token_ids(self, texts: Sequence[str]) -> Tensor | None:
        """(Q, C) int32 of Q texts for `embed_texts`; None without a trained text tower."""
        if self.towers.text is None:
            return None
        ids = [
            self.towers.text.tokenise(texts[start : start + CAPTIONS_AT_A_TIME])
            for start in range(0, len(texts), CAPTIONS_AT_A_TIME)
        ]
        return torch.cat(ids).int()

    def peak_rates(self, rate: float, *, layer_decay: float) -> Mapping[str, float]:
        """The peak learning rate of each of the towers' weights, by their names here.

        ``rate`` times ``layer_decay`` to the power of how far below the head a weight lies.
        """
        return {
            TOWERS + name: rate * layer_decay ** self.towers.depth_of(name)
            for name, parameter in self.towers.named_parameters()
            if parameter.requires_grad
        }


def _held(module: nn.Module) -> list[str]:
    """What of the towers is not trained; a pyramid that is not belongs to the head all the same."""
    return [
        name
        for name, weight in module.named_parameters()
        if name.startswith(TOWERS) and not weight.requires_grad
    ]


def _without_held(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    for name in _held(module):
        state.pop(prefix + name, None)


def _not_missing_held(module: nn.Module, found: Any) -> None:
    held = set(_held(module))
    found.missing_keys[:] = [name for name in found.missing_keys if name not in held]


def finetuned_blocks(finetune: str) -> int | None:
    """K of ``top:K``; None for ``all``, 0 for ``none``.

    Raises:
        UsageError: If it is none of these.
    """
    if finetune == NO_FINETUNE:
        return 0
    if finetune == ALL_FINETUNE:
        return None
    found = _TOP.fullmatch(finetune)
    if not found:
        raise UsageError(f"finetune {finetune!r}: choose none, all, or top:K such as top:2")
    return int(found[1])


def view_below(finetune: str, header: StoreHeader) -> str | None:
    """The view that a training reads: below ``top:K`` ``block:k``, below ``all`` one of frames.

    None for any. Of views of frames ``frames:uint8``, which takes no time to decode, where there
    are both; with a warning ``frames:decoded`` where there is none.

    Raises:
        UsageError: If the encoder has not so many blocks, or the store has no such view.
    """
    view = _view_below(finetune, header)
    if view == FRAMES_DECODED:
        logger.warning(
            "finetune %s: the store keeps no frames, so every epoch decodes every video again. "
            "Extract with --views %s into another --out to decode once.",
            *(finetune, ",".join([*header.views, FRAMES_JPEG])),
        )
    return view


def _view_below(finetune: str, header: StoreHeader) -> str | None:
    num_blocks, last = finetuned_blocks(finetune), header.encoder.num_blocks
    if num_blocks == 0:
        return None
    if num_blocks is not None and num_blocks >= last:
        raise UsageError(
            f"finetune {finetune}: the image tower of {header.encoder.spec} has {last} blocks, and "
            f"a store keeps what is above the first. Choose top:1 to top:{max(1, last - 1)}, or "
            "all, which reads frames."
        )
    if num_blocks is None:
        return next((view for view in PIXEL_VIEWS if view in header.views), FRAMES_DECODED)
    wanted = f"block:{last - num_blocks}"
    if wanted not in header.views:
        raise UsageError(
            f"finetune {finetune}: reads view {wanted}, the store has {', '.join(header.views)}"
            f"{_what_is_there(header)}. Extract with --views {','.join([*header.views, wanted])} "
            "into another --out."
        )
    return wanted


def _what_is_there(header: StoreHeader) -> str:
    """Which other choices the store's views allow, in words."""
    numbers = [block_number(view) for view in header.views if view.startswith("block:")]
    tops = [
        f"top:{header.encoder.num_blocks - k}" for k in numbers if k < header.encoder.num_blocks
    ]
    return f", for {' or '.join(tops)}" if tops else ""


def new_finetuned_head(
    head: RetrievalHead,
    store: FeatureStore,
    *,
    finetune: str,
    with_text: bool,
    recompute: bool = False,
    lora: int = 0,
    random_crops: bool = False,
) -> FinetunedHead:
    """A head over towers with the weights that the store was encoded with.

    Args:
        head: What is above the towers.
        store: Open on the view that is read; of views of frames any will do.
        finetune: ``top:K`` or ``all``.
        with_text: Whether the text tower is trained too.
        recompute: Whether blocks' activations are made again for the gradient.
        random_crops: Whether ``all`` sees a random square of each video's frames in training.

    Raises:
        IncompatibleStoreError: If the store is not open on the view that is read, or the encoder
            at hand is another than its own.
        EncoderError: If the encoder has no towers, or can't be loaded here.
        UsageError: If ``lora`` asks for adapters and peft is not installed.
    """
    view = _view_below(finetune, store.header)
    is_frames = view in PIXEL_VIEWS and store.token_view in PIXEL_VIEWS
    if store.token_view != view and not is_frames:
        raise IncompatibleStoreError(
            f"{store.location}: open on view {store.token_view!r}, but finetune {finetune} reads "
            f"{view!r}. Open it with open_store(path, view={view!r})."
        )
    return head_over_towers(
        head,
        store.header,
        finetune=finetune,
        with_text=with_text,
        recompute=recompute,
        lora=lora,
        random_crops=random_crops,
    )


def head_over_towers(
    head: RetrievalHead,
    header: StoreHeader,
    *,
    finetune: str,
    with_text: bool,
    recompute: bool = False,
    lora: int = 0,
    random_crops: bool = False,
) -> FinetunedHead:
    """The same of a store that is not at hand, from its header.

    Args:
        head: Goes over the towers.
        header: Of the store.
        finetune: ``top:K`` or ``all``.
        with_text: Whether the text tower is among them.
        recompute: Whether activations are made again for the gradient.
        lora: Rank of adapters that are trained instead of the towers; 0: the towers are.
        random_crops: Whether training cuts a video's frames at a random place.

    Raises:
        IncompatibleStoreError: If the encoder at hand is another than the store's.
        EncoderError: If the encoder has no towers, or can't be loaded here.
    """
    from muse.pipeline.encoders.towers import load_towers  # loads open_clip

    towers = load_towers(
        header.encoder,
        num_blocks=finetuned_blocks(finetune),
        with_text=with_text,
        text_length=header.text_length,
        random_crops=random_crops,
    )
    towers.image.recompute = recompute
    if lora:
        add_adapters(towers, rank=lora)
    return FinetunedHead(head, towers)
