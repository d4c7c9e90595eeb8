"""Of which models of open_clip `muse.pipeline.encoders.vit_forward` is the forward pass.

Every property that the pass relies on is looked at; a model with another is left to open_clip's own
pass. Classes are compared by name: open_clip has one importer, and subclasses may compute other
things.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)
_NORMS = ("LayerNorm", "LayerNormFp32")
_MLP = ("c_fc", "gelu", "c_proj")


def is_known_image(visual: Any, *, spec: str) -> bool:
    """Whether the pass computes all of an encoder's image tower; if not, the log says why."""
    reason = why_unknown_image(visual)
    if reason is not None:
        logger.info("encoder %s: its forward pass is open_clip's own, as %s", spec, reason)
    return reason is None


def why_unknown_image(visual: Any) -> str | None:
    """What of an image tower the pass does not compute, or None if it computes all of it."""
    return next(_of_image(visual), None)


def why_unknown_text(model: Any) -> str | None:
    """What of a text tower the pass does not compute, or None if it computes all of it."""
    return next(_of_text(model), None)


def _of_image(visual: Any) -> Iterator[str]:
    if type(visual).__name__ != "VisionTransformer":
        yield f"it is a {type(visual).__name__}"
        return
    yield from _of_conv(visual.conv1, visual.image_size)
    if not isinstance(visual.patch_dropout, nn.Identity):
        yield "it drops patches"
    if not isinstance(visual.ln_pre, nn.Identity):
        yield from _of_norm("ln_pre", visual.ln_pre)
    yield from _of_norm("ln_post", visual.ln_post)
    yield from _of_transformer(visual.transformer)


def _of_conv(conv: Any, image_size: tuple[int, int]) -> Iterator[str]:
    height, width = image_size
    if type(conv) is not nn.Conv2d:
        yield f"conv1 is a {type(conv).__name__}"
        return
    side = conv.kernel_size[0]
    plain = (conv.padding, conv.dilation, conv.groups) == ((0, 0), (1, 1), 1)
    if not plain or conv.kernel_size != (side, side) or conv.stride != conv.kernel_size:
        yield "the patches of conv1 are no squares side by side"
    if height != width or height % side:
        yield f"its input, {height}x{width}, is no square of whole patches"


def _of_text(model: Any) -> Iterator[str]:
    if type(model).__name__ != "CLIP":
        yield f"it is a {type(model).__name__}"
        return
    if model.text_pool_type != "argmax":
        yield f"its texts are pooled by {model.text_pool_type!r}"
    if not isinstance(model.text_projection, nn.Parameter):
        yield "its text projection is no matrix"
    mask = model.attn_mask
    if mask is None or not torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1)):
        yield "its mask is not causal"
    yield from _of_norm("ln_final", model.ln_final)
    yield from _of_transformer(model.transformer)


def _of_transformer(transformer: Any) -> Iterator[str]:
    if type(transformer).__name__ != "Transformer" or not transformer.batch_first:
        yield "its transformer is another"
        return
    for number, block in enumerate(transformer.resblocks, start=1):
        yield from (f"in block {number} {reason}" for reason in _of_block(block))


def _of_block(block: Any) -> Iterator[str]:
    if type(block).__name__ != "ResidualAttentionBlock" or hasattr(block, "ln_1_kv"):
        yield "there are other parts"
        return
    for name in ("ln_1", "ln_2"):
        yield from _of_norm(name, getattr(block, name))
    if not all(isinstance(scale, nn.Identity) for scale in (block.ls_1, block.ls_2)):
        yield "branches are scaled"
    yield from _of_attention(block.attn)
    yield from _of_mlp(block.mlp)


def _of_norm(name: str, norm: Any) -> Iterator[str]:
    # Both of open_clip's norms compute in float32 on a GPU, as ours does.
    is_known = isinstance(norm, nn.LayerNorm) and type(norm).__name__ in _NORMS
    if not is_known or norm.weight is None or norm.bias is None or len(norm.weight.shape) != 1:
        yield f"{name} is no LayerNorm with weight and bias"


def _of_attention(attention: Any) -> Iterator[str]:
    if type(attention) is not nn.MultiheadAttention:
        yield f"the attention is a {type(attention).__name__}"
        return
    weights = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.bias)
    if any(weight is None for weight in weights) or attention.bias_k is not None:
        yield "the attention has other weights"
    if attention.add_zero_attn or attention.dropout or not attention.batch_first:
        yield "the attention is set otherwise"


def _of_mlp(mlp: Any) -> Iterator[str]:
    if tuple(name for name, _ in mlp.named_children()) != _MLP:
        yield "the MLP has other parts"
        return
    if type(mlp.c_fc) is not nn.Linear or type(mlp.c_proj) is not nn.Linear:
        yield "the MLP's layers are not linear"
    if type(mlp.gelu) is not nn.GELU and type(mlp.gelu).__name__ != "QuickGELU":
        yield f"the activation is a {type(mlp.gelu).__name__}"
