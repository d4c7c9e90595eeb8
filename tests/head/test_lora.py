"""Adapters of a CLIP: nothing at the start, all that is trained, and all that is kept."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_store import make_header
from safetensors.torch import save_file

from muse.errors import UsageError
from muse.head.checkpoint import RunConfig, load_weights, write_config
from muse.head.finetune import FinetunedHead, head_over_towers
from muse.head.head_config import HeadConfig
from muse.head.lora import add_adapters
from muse.head.model import RetrievalHead
from muse.head.optimizer import HeadOptimizer
from muse.head.reencoder import load_reencoder
from muse.head.train_config import TrainConfig
from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.header import StoreHeader

BELOW, RANK = "block:6", 3  # of a tower of eight blocks
HEAD = HeadConfig(dim=128, factors=(), depth=1, d_state=2)
TRAIN = TrainConfig(finetune="top:2", lora=RANK, clip_lr=1e-2, device="cpu")
VALID_BT = torch.tensor([[True, True], [True, False]])


@pytest.fixture(scope="module")
def header() -> StoreHeader:
    info = build_encoder("openclip:muse-nano", device="cpu", precision="fp32").info
    made = make_header(num_videos=2, num_captions=2)
    return dataclasses.replace(made, encoder=info, views=("tokens", BELOW))


@pytest.fixture(scope="module")
def maps_BTKW(header: StoreHeader) -> torch.Tensor:
    """As float16 rounds them, which is how a store keeps them."""
    shape = (2, 2, header.encoder.tokens_per_frame, header.encoder.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).half().float()


def new_head(header: StoreHeader, *, lora: int, with_text: bool = False) -> FinetunedHead:
    torch.manual_seed(0)
    head = RetrievalHead(HEAD, scan="reference").eval()
    return head_over_towers(head, header, finetune="top:2", with_text=with_text, lora=lora).eval()


def trained_head(header: StoreHeader, maps_BTKW: torch.Tensor) -> FinetunedHead:
    """After two steps: after one, only B has moved."""
    head = new_head(header, lora=RANK)
    optimizer = HeadOptimizer(
        head, peak_lr=1e-2, warmup=0.0, num_steps=9, weight_decay=0.0, max_grad_norm=1e9
    )
    for step in range(2):
        head.embed_videos(maps_BTKW, VALID_BT)[:, 0].sum().backward()
        optimizer.update(step)
    return head


@pytest.mark.slow  # loads peft, which loads transformers
def test_at_the_start_adapters_change_no_bit(header: StoreHeader, maps_BTKW: torch.Tensor) -> None:
    plain, adapted = (new_head(header, lora=rank, with_text=True) for rank in (0, RANK))
    with torch.no_grad():
        found, wanted = (one.embed_videos(maps_BTKW, VALID_BT) for one in (adapted, plain))
        assert torch.equal(found, wanted)
        ids = plain.token_ids(["a red square"])
        assert ids is not None
        assert torch.equal(adapted.embed_texts(ids), plain.embed_texts(ids))


@pytest.mark.slow  # loads peft, which loads transformers
def test_only_adapters_and_the_head_learn(header: StoreHeader, maps_BTKW: torch.Tensor) -> None:
    before, after = new_head(header, lora=RANK), trained_head(header, maps_BTKW)
    start = dict(before.named_parameters())
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, start[n])}
    of_towers = {name for name in start if name.startswith("towers.")}
    adapters = {name for name in of_towers if ".lora_" in name}
    assert moved & of_towers == adapters
    assert len(adapters) == 2 * 3 * 2  # blocks, matrices, A and B
    assert moved - of_towers
    assert set(after.peak_rates(1.0, layer_decay=1.0)) == adapters


@pytest.mark.slow  # loads peft, which loads transformers
def test_a_checkpoint_holds_adapters_alone_and_loads(
    header: StoreHeader, maps_BTKW: torch.Tensor
) -> None:
    head = trained_head(header, maps_BTKW)
    state = head.state_dict()
    of_towers = {name: tensor for name, tensor in state.items() if name.startswith("towers.")}
    assert all(".lora_" in name for name in of_towers)
    width = header.encoder.width
    numbers = RANK * ((width + 3 * width) + 2 * (width + 4 * width))
    assert sum(tensor.numel() for tensor in of_towers.values()) == 2 * numbers
    loaded = new_head(header, lora=RANK)
    load_weights(loaded, state, source=Path("head"))
    loaded.load_state_dict(state)  # strict
    with torch.no_grad():
        found, wanted = (one.embed_videos(maps_BTKW, VALID_BT) for one in (loaded, head))
    assert torch.equal(found, wanted)


@pytest.mark.slow  # loads peft, which loads transformers
def test_forward_leaves_the_held_weights_as_they_are(
    header: StoreHeader, maps_BTKW: torch.Tensor
) -> None:
    head = trained_head(header, maps_BTKW)
    start = dict(new_head(header, lora=RANK).named_parameters())
    head.embed_videos(maps_BTKW, VALID_BT)
    held = {name: p for name, p in head.named_parameters() if not p.requires_grad}
    assert held
    assert all(torch.equal(p, start[name]) for name, p in held.items())


@pytest.mark.slow  # loads peft, which loads transformers
def test_a_store_is_encoded_by_the_merged_matrices(
    header: StoreHeader, maps_BTKW: torch.Tensor, tmp_path: Path
) -> None:
    head, run = trained_head(header, maps_BTKW), tmp_path / "run"
    write_config(run, _config(header))
    state = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    towers = {name: state.pop(name) for name in [*state] if name.startswith("towers.")}
    save_file(towers, run / "towers.safetensors")
    save_file(state, run / "head.safetensors")
    made = load_reencoder(run, device="cpu").encode_clips(maps_BTKW.numpy(), VALID_BT.numpy())
    with torch.no_grad():
        wanted = head.encode_maps(maps_BTKW, VALID_BT)[VALID_BT].numpy()
        plain = new_head(header, lora=0).encode_maps(maps_BTKW, VALID_BT)[VALID_BT].numpy()
    np.testing.assert_allclose(made[VALID_BT.numpy()], wanted, atol=5e-3)
    assert np.abs(wanted - plain).max() > 0.05


def _config(header: StoreHeader) -> RunConfig:
    return RunConfig(
        head=HEAD,
        train=dataclasses.asdict(TRAIN),
        store=header,
        view=BELOW,
        root_sha256="",
        timestamps_sha256="",
        num_videos=2,
        num_captions=2,
        ran_on={},
        command=(),
    )


def test_what_can_t_be_adapted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="lora 4 without finetune"):
        TrainConfig(lora=4)
    with pytest.raises(UsageError, match="lora -1: choose a rank of at least 1"):
        TrainConfig(finetune="top:1", lora=-1)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install 'muse-retrieval\[lora\]'"):
        add_adapters(torch.nn.Identity(), rank=4)
