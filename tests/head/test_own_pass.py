"""Finetuned towers by muse's own forward pass: the gradients of open_clip's modules."""

from typing import Any

import numpy as np
import pytest
import torch
from finetune_stores import COLOURS, NUM_VIDEOS, store_below
from memory_store import MemoryStore
from torch import Tensor

from muse.head.finetune import FinetunedHead, new_finetuned_head
from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.pipeline.encoders import image_tower, towers, vit_forward
from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.encoders.open_clip import OpenClipEncoder

pytestmark = pytest.mark.slow  # loads open_clip; with adapters peft, which loads transformers

HEAD = HeadConfig(dim=128, factors=(), depth=1, d_state=2, dropout=0.0)


@pytest.fixture(scope="module")
def stores() -> dict[str, MemoryStore]:
    """By what reads them."""
    encoder = build_encoder("openclip:muse-nano", device="cpu", precision="fp32")
    assert isinstance(encoder, OpenClipEncoder)
    return {finetune: store_below(finetune, encoder) for finetune in ("top:2", "all")}


def new_head(store: MemoryStore, finetune: str, *, recompute: bool, lora: int) -> FinetunedHead:
    torch.manual_seed(0)
    head = RetrievalHead(HEAD, scan="reference").eval()
    made = new_finetuned_head(
        head, store, finetune=finetune, with_text=True, recompute=recompute, lora=lora
    )
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if ".lora_B." in name:  # zeros send no gradient to A
                weight += 0.01 * torch.randn_like(weight)
    return made


def outputs_of(head: FinetunedHead, store: MemoryStore) -> tuple[Tensor, Tensor]:
    """Tokens of all frames and embeddings of all captions, each (N, D)."""
    clips = [store.read_clip(row) for row in range(NUM_VIDEOS)]
    maps = torch.from_numpy(np.stack([clip.tokens_TKD for clip in clips]))
    valid_BT = torch.from_numpy(np.stack([clip.valid_T for clip in clips]))
    ids = head.token_ids([f"a {colour} square" for colour in COLOURS])
    assert ids is not None
    device = next(head.parameters()).device
    maps, valid_BT, ids = (tensor.to(device) for tensor in (maps, valid_BT, ids))
    return head.encode_maps(maps, valid_BT).flatten(0, 2), head.embed_texts(ids)


def gradients_of(head: FinetunedHead, outputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of the towers' trained weights; every value counts otherwise."""
    shares = torch.Generator().manual_seed(1)
    own = {n: w for n, w in head.towers.named_parameters() if w.requires_grad}
    drawn = [torch.randn(made.shape, generator=shares).to(made.device) for made in outputs]
    total = sum((made.float() * its).sum() for made, its in zip(outputs, drawn, strict=True))
    assert isinstance(total, Tensor)
    return dict(zip(own, torch.autograd.grad(total, [*own.values()]), strict=True))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.fixture
def own_pass(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts it in open_clip's place, on a CPU too, and counts the blocks that it ran."""
    ran: list[str] = []

    def branches(block: Any, *arguments: Any) -> Any:
        ran.append(type(block.attn).__name__)
        return run(block, *arguments)

    run = vit_forward._branches

    def start() -> list[str]:
        for module in (image_tower, towers):
            monkeypatch.setattr(module, "runs_on", lambda device: True)
        monkeypatch.setattr(vit_forward, "_branches", branches)
        return ran

    return start


@pytest.mark.parametrize("finetune", ["top:2", "all"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", [0, 2])
def test_gradients_are_those_of_open_clip_s_modules(
    finetune: str, recompute: bool, lora: int, stores: dict[str, MemoryStore], own_pass: Any
) -> None:
    store = stores[finetune]
    head = new_head(store, finetune, recompute=recompute, lora=lora)
    wanted = outputs_of(head, store)
    wanted_gradients = gradients_of(head, wanted)
    ran = own_pass()
    found = outputs_of(head, store)
    of_image, of_text = len(head.towers.image.blocks), 4
    assert len(ran) == of_image + of_text
    gradients = gradients_of(head, found)
    assert len(ran) == (1 + recompute) * of_image + of_text
    assert all(relative_error(*pair) < 1e-5 for pair in zip(found, wanted, strict=True))
    errors = {n: relative_error(gradients[n], wanted_gradients[n]) for n in wanted_gradients}
    assert [name for name, error in errors.items() if not error < 1e-4] == []
    assert any(".lora_A." in name for name in errors) == bool(lora)


def test_a_merged_adapter_is_seen(stores: dict[str, MemoryStore], own_pass: Any) -> None:
    from muse.head.lora import merge_adapters

    head = new_head(stores["top:2"], "top:2", recompute=False, lora=2)
    own_pass()
    with torch.no_grad():
        wanted = outputs_of(head, stores["top:2"])
        merge_adapters(head.towers)
        found = outputs_of(head, stores["top:2"])
    assert all(relative_error(*pair) < 1e-5 for pair in zip(found, wanted, strict=True))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", [0, 2])
def test_under_autocast_gradients_are_as_near_to_float32_as_open_clip_s(
    recompute: bool, lora: int, stores: dict[str, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores["all"]
    head = new_head(store, "all", recompute=recompute, lora=lora)
    exact = gradients_of(head, outputs_of(head, store))
    head.cuda()
    gradients = []
    for is_own in (True, False):
        for module in (image_tower, towers):
            monkeypatch.setattr(module, "runs_on", lambda device, is_own=is_own: is_own)
        with torch.autocast("cuda", torch.bfloat16):
            outputs = outputs_of(head, store)
        gradients.append(gradients_of(head, outputs))
    for name, wanted in exact.items():
        own, theirs = (relative_error(its[name].cpu(), wanted) for its in gradients)
        assert own < 1.5 * theirs + 5e-3, name
