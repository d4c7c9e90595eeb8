"""A forward pass over the weights of open_clip's transformers, in few kernels.

In open_clip's own pass QuickGELU is three kernels, a residual sum and its norm are two, and the
first convolution in bfloat16 takes a fifth of a small batch's time (docs/adr/0039). Here an
activation is one kernel, a sum with its norm another, and the convolution, whose patches don't
overlap, a matrix product. Each weight is read from its module at each call. Which models this is
the pass of, `muse.pipeline.encoders.known_vit` says. Knows nothing of videos.
"""

# Legend: N frames or texts, K tokens each, W width, H heads, E width of a head, S side of the
# input, G patches a side, p side of a patch, P = G * G patches, C token ids of a text, D width of
# the joint space.

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse.pipeline.kernels.quick_gelu import quick_gelu
from muse.pipeline.kernels.row_norm import add_norm


def runs_on(device: torch.device) -> bool:
    """Whether towers on a device make this pass.

    On a CPU they make open_clip's own, with which stores keep their bytes.
    """
    return device.type == "cuda"


def run_image_tower(
    visual: Any, pixels_N3SS: Tensor, *, kept: Collection[int] = ()
) -> tuple[dict[int, Tensor], Tensor]:
    """Outputs of some blocks by number, and that of the last one after ``ln_post``, (N, K, W)."""
    tokens_NKW = embed_patches(visual, pixels_N3SS)
    return run_blocks(visual.transformer.resblocks, tokens_NKW, visual.ln_post, kept=kept)


def run_open_clip_tower(
    visual: Any, pixels_N3SS: Tensor, *, kept: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """The same by open_clip's own pass; ``kept`` ascends and has the last block's number."""
    outputs = visual.forward_intermediates(
        pixels_N3SS,
        indices=[number - 1 for number in kept],
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    prefixes, patches = outputs["image_intermediates_prefix"], outputs["image_intermediates"]
    of_block = {
        number: torch.cat([class_token, of_patches], dim=1)
        for number, class_token, of_patches in zip(kept, prefixes, patches, strict=True)
    }
    return of_block, visual.ln_post(of_block[kept[-1]])


def embed_patches(visual: Any, pixels_N3SS: Tensor) -> Tensor:
    """(N, K, W) input of the first block, class token first.

    Args:
        visual: Has ``conv1``, ``class_embedding``, ``positional_embedding`` and ``ln_pre``.
        pixels_N3SS: Normalised; S is a multiple of the patch's side.
    """
    conv, class_W = visual.conv1, visual.class_embedding
    patches_NPW = F.linear(
        _patches(pixels_N3SS, conv.kernel_size[0]), conv.weight.flatten(1), conv.bias
    )
    class_N1W = class_W.to(patches_NPW.dtype).expand(len(patches_NPW), 1, -1)
    tokens_NKW = torch.cat([class_N1W, patches_NPW], dim=1)
    embedded_NKW: Tensor = tokens_NKW + visual.positional_embedding
    if isinstance(visual.ln_pre, nn.Identity):
        return embedded_NKW
    return _add_norm(embedded_NKW, None, visual.ln_pre, embedded_NKW.dtype)[1]


def _patches(pixels_N3SS: Tensor, side: int) -> Tensor:
    """(N, P, 3 p p) in reading order, each as the convolution's weights lie."""
    num, channels, size, _ = pixels_N3SS.shape
    grid = size // side
    cut_N3GpGp = pixels_N3SS.view(num, channels, grid, side, grid, side)
    return cut_N3GpGp.permute(0, 2, 4, 1, 3, 5).reshape(num, grid * grid, -1)


def run_blocks(
    blocks: Iterable[Any],
    tokens_NKW: Tensor,
    last_norm: Any,
    *,
    causal_mask_KK: Tensor | None = None,
    kept: Collection[int] = (),
    recompute: bool = False,
) -> tuple[dict[int, Tensor], Tensor]:
    """Outputs of some blocks, and that of the last one after a norm.

    Sums between blocks keep the dtype of the tokens; what goes into a matrix product has that of
    autocast where it is on. So in training the sums are float32, as in open_clip's pass.

    Args:
        blocks: At least one.
        tokens_NKW: (N, K, W) input of the first.
        last_norm: A LayerNorm.
        causal_mask_KK: Of a text tower: what is added to the scores so that no token sees those
            behind it.
        kept: Numbers of the blocks whose outputs are wanted; the first block is 1.
        recompute: Whether each block's activations are made again for the gradient.

    Returns:
        (N, K, W) by number, in the dtype of the tokens; and (N, K, W) in that of matrix products.
    """
    blocks = list(blocks)
    if recompute and torch.is_grad_enabled():
        return _recomputed(blocks, tokens_NKW, last_norm, causal_mask_KK, kept)
    norms = [*(block.ln_1 for block in blocks[1:]), last_norm]
    outputs: dict[int, Tensor] = {}
    sum_NKW, normed_NKW = _add_norm(tokens_NKW, None, blocks[0].ln_1)
    for number, (block, next_norm) in enumerate(zip(blocks, norms, strict=True), start=1):
        sum_NKW, branch_NKW = _branches(block, sum_NKW, normed_NKW, causal_mask_KK)
        sum_NKW, normed_NKW = _add_norm(sum_NKW, branch_NKW, next_norm)
        if number in kept:
            outputs[number] = sum_NKW
    return outputs, normed_NKW


def _recomputed(
    blocks: Sequence[Any],
    tokens_NKW: Tensor,
    last_norm: Any,
    mask_KK: Tensor | None,
    kept: Collection[int],
) -> tuple[dict[int, Tensor], Tensor]:
    """`run_blocks` with nothing kept for the gradient but each block's input."""

    def run(block: Any, tokens_NKW: Tensor) -> Tensor:
        sum_NKW, normed_NKW = _add_norm(tokens_NKW, None, block.ln_1)
        sum_NKW, branch_NKW = _branches(block, sum_NKW, normed_NKW, mask_KK)
        return sum_NKW + branch_NKW

    outputs: dict[int, Tensor] = {}
    for number, block in enumerate(blocks, start=1):
        tokens_NKW = checkpoint(run, block, tokens_NKW, use_reentrant=False)
        if number in kept:
            outputs[number] = tokens_NKW
    return outputs, _add_norm(tokens_NKW, None, last_norm)[1]


def _branches(
    block: Any, tokens_NKW: Tensor, normed_NKW: Tensor, mask_KK: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The tokens after a block's attention, and what its MLP adds to them."""
    attended_NKW = _attention(block, normed_NKW, mask_KK)
    sum_NKW, normed_NKW = _add_norm(tokens_NKW, attended_NKW, block.ln_2)
    mlp = block.mlp
    # Called, not read: an adapter may lie over a layer.
    hidden = _activated(mlp.gelu, mlp.c_fc(normed_NKW))
    return sum_NKW, mlp.c_proj(hidden)


def _attention(block: Any, normed_NKW: Tensor, mask_KK: Tensor | None) -> Tensor:
    attention = block.attn
    if type(attention) is not nn.MultiheadAttention:
        # An adapter of its weights, which it adds to them only while it is called.
        called: Tensor = block.attention(normed_NKW, attn_mask=mask_KK)
        return called
    qkv = F.linear(normed_NKW, attention.in_proj_weight, attention.in_proj_bias)
    by_head = qkv.view(*qkv.shape[:2], 3, attention.num_heads, attention.head_dim)
    q_NHKE, k_NHKE, v_NHKE = by_head.permute(2, 0, 3, 1, 4).unbind(0)
    mixed_NHKE = F.scaled_dot_product_attention(
        q_NHKE, k_NHKE, v_NHKE, is_causal=mask_KK is not None
    )
    out = attention.out_proj
    return F.linear(mixed_NHKE.transpose(1, 2).flatten(2), out.weight, out.bias)


def _activated(activation: nn.Module, hidden: Tensor) -> Tensor:
    """open_clip's QuickGELU by its kernel; torch's GELU is one already."""
    if type(activation).__name__ == "QuickGELU":
        return quick_gelu(hidden)
    made: Tensor = activation(hidden)
    return made


def _add_norm(
    tokens_NKW: Tensor, added_NKW: Tensor | None, norm: Any, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Their sum, and its norm in the dtype that matrix products have if no other is named."""
    return add_norm(
        tokens_NKW, added_NKW, norm.weight, norm.bias, norm.eps, dtype or _product_dtype(tokens_NKW)
    )


def _product_dtype(tokens: Tensor) -> torch.dtype:
    kind = tokens.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype


def embed_texts(model: Any, ids_NC: Tensor) -> Tensor:
    """(N, D) embeddings of the ends of texts, not normalised.

    Args:
        model: open_clip's, or what is left of it without its image tower.
        ids_NC: (N, C) int64, C the model's context; the end has the largest id.
    """
    embedded_NCW = model.token_embedding(ids_NC) + model.positional_embedding
    _, normed_NCW = run_blocks(
        model.transformer.resblocks, embedded_NCW, model.ln_final, causal_mask_KK=model.attn_mask
    )
    rows = torch.arange(len(ids_NC), device=ids_NC.device)
    embeddings: Tensor = normed_NCW[rows, ids_NC.argmax(dim=-1)] @ model.text_projection
    return embeddings
