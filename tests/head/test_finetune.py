"""A head with the top of its CLIP: the same as training those layers from pixels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_stores import NUM_FRAMES, NUM_VIDEOS, TOP, inputs_of, kept_frames, store_below
from memory_store import MemoryStore
from numpy.typing import NDArray
from safetensors.torch import load_file

from muse.errors import EncoderError, IncompatibleStoreError, UsageError
from muse.head.checkpoint import load_head
from muse.head.embeddings import embed_captions, embed_videos
from muse.head.finetune import FinetunedHead, new_finetuned_head, view_below
from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.head.train import StepReport, train
from muse.head.train_config import Augment, TrainConfig
from muse.pipeline.encoders.base import build_encoder, normalised_input
from muse.pipeline.encoders.open_clip import OpenClipEncoder

HEAD = HeadConfig(dim=128, factors=(), depth=1, d_state=2, dropout=0.1)
CONFIG = TrainConfig(
    epochs=2, batch_size=4, device="cpu", finetune="top:2", clip_lr=1e-3, max_grad_norm=1e9
)

BOTH = ["top:2", pytest.param("all", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    built = build_encoder("openclip:muse-nano", device="cpu", precision="fp32")
    assert isinstance(built, OpenClipEncoder)
    return built


@pytest.fixture(scope="module")
def frames_BHWC(encoder: OpenClipEncoder) -> NDArray[np.uint8]:
    return inputs_of(kept_frames(), encoder)


@pytest.fixture
def store(request: pytest.FixtureRequest, encoder: OpenClipEncoder) -> MemoryStore:
    """Below ``top:2``, or what a test is parametrised with."""
    return store_below(getattr(request, "param", "top:2"), encoder)


def finetune_of(store: MemoryStore) -> str:
    return "all" if store.token_view == "frames:uint8" else "top:2"


def new_head(store: MemoryStore, *, with_text: bool = False) -> FinetunedHead:
    torch.manual_seed(0)
    head = RetrievalHead(HEAD, scan="reference").eval()
    return new_finetuned_head(head, store, finetune=finetune_of(store), with_text=with_text)


def batch_of(store: MemoryStore) -> tuple[torch.Tensor, torch.Tensor]:
    clips = [store.read_clip(row) for row in range(NUM_VIDEOS)]
    tokens = torch.from_numpy(np.stack([clip.tokens_TKD for clip in clips]))
    return tokens, torch.from_numpy(np.stack([clip.valid_T for clip in clips]))


def pixels_to_vectors(
    encoder: OpenClipEncoder,
    head: FinetunedHead,
    frames_BHWC: NDArray[np.uint8],
    valid_BT: torch.Tensor,
) -> torch.Tensor:
    """The same video vectors from pixels: open_clip's own forward through all blocks."""
    pixels = normalised_input(frames_BHWC, encoder.info.preprocessing, device="cpu")
    visual = encoder.model.visual
    _, maps = visual.transformer.forward_intermediates(visual._embeds(pixels), indices=1)
    tokens_NKD = visual.ln_post(maps[-1]) @ visual.proj
    tokens_BTKD = tokens_NKD.view(NUM_VIDEOS, NUM_FRAMES, *tokens_NKD.shape[1:])
    return RetrievalHead.embed_videos(head, tokens_BTKD, valid_BT)


def test_training_the_top_from_the_store_is_training_it_from_pixels(
    encoder: OpenClipEncoder, store: MemoryStore, frames_BHWC: NDArray[np.uint8]
) -> None:
    head = new_head(store)
    tokens_BTKW, valid_BT = batch_of(store)
    direction_BD = torch.randn(NUM_VIDEOS, 128, generator=torch.Generator().manual_seed(1))
    cached = head.embed_videos(tokens_BTKW, valid_BT)
    (cached * direction_BD).sum().backward()
    encoder.model.zero_grad(set_to_none=True)
    vectors = pixels_to_vectors(encoder, head, frames_BHWC, valid_BT)
    torch.testing.assert_close(cached, vectors, atol=2e-3, rtol=0)
    (vectors * direction_BD).sum().backward()
    ours = dict(head.towers.image.named_parameters())
    blocks = encoder.model.visual.transformer.resblocks[-TOP:]
    theirs = {f"blocks.{name}": p for name, p in blocks.named_parameters()}
    theirs |= {"proj": encoder.model.visual.proj}
    theirs |= {f"ln_post.{n}": p for n, p in encoder.model.visual.ln_post.named_parameters()}
    assert theirs.keys() == ours.keys()
    for name, parameter in theirs.items():
        assert relative_error(ours[name].grad, parameter.grad) < 1e-2, name
    encoder.model.zero_grad(set_to_none=True)


def relative_error(found: torch.Tensor | None, wanted: torch.Tensor | None) -> float:
    assert found is not None
    assert wanted is not None
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.slow
@pytest.mark.parametrize("store", BOTH, indirect=True)
def test_what_a_padded_frame_holds_changes_nothing(store: MemoryStore) -> None:
    head = new_head(store)
    tokens_BTKW, valid_BT = batch_of(store)
    changed = tokens_BTKW.clone()
    changed[~valid_BT] = 7
    assert torch.equal(
        head.embed_videos(tokens_BTKW, valid_BT), head.embed_videos(changed, valid_BT)
    )


@pytest.mark.slow
@pytest.mark.parametrize("store", BOTH, indirect=True)
def test_activations_made_again_give_the_same_gradient(store: MemoryStore) -> None:
    gradients = []
    for recompute in (False, True):
        head = new_head(store)
        head.towers.image.recompute = recompute
        head.embed_videos(*batch_of(store))[:, 0].sum().backward()
        gradients.append(head.towers.image.blocks[0].ln_1.weight.grad)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.slow
def test_a_text_tower_gives_the_embeddings_that_the_store_has(store: MemoryStore) -> None:
    rows = np.arange(NUM_VIDEOS)
    cached = torch.from_numpy(store.read_caption_embeddings(rows).astype(np.float32))
    found = embed_captions(store, rows, new_head(store, with_text=True))
    torch.testing.assert_close(found, cached, atol=2e-3, rtol=2e-3)
    assert torch.equal(embed_captions(store, rows, new_head(store)), cached)


def test_rates_fall_from_layer_to_layer(store: MemoryStore) -> None:
    rates = new_head(store, with_text=True).peak_rates(1.0, layer_decay=0.5)
    assert rates["towers.image.proj"] == rates["towers.image.ln_post.bias"] == 1.0
    assert rates["towers.image.blocks.1.ln_1.weight"] == 0.5
    assert rates["towers.image.blocks.0.mlp.c_fc.weight"] == 0.25
    text = "towers.text.model."
    assert rates[text + "text_projection"] == rates[text + "ln_final.weight"] == 1.0
    assert rates[text + "transformer.resblocks.3.ln_1.weight"] == 0.5
    assert rates[text + "transformer.resblocks.0.ln_1.weight"] == 0.5**4
    assert rates[text + "token_embedding.weight"] == 0.5**5


@pytest.mark.slow
@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("store", BOTH, indirect=True)
def test_a_run_moves_the_towers_and_is_loaded_as_it_ended(
    with_text: bool, store: MemoryStore, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        CONFIG,
        finetune=finetune_of(store),
        batch_size=6,
        lr=1e-4,
        clip_lr=1e-4,
        epochs=12,
        finetune_text=with_text,
    )
    losses: list[float] = []
    train(
        store, tmp_path, config=config, head=HEAD, on_step=lambda report: losses.append(report.loss)
    )
    assert losses[-1] < losses[0]
    loaded = load_head(tmp_path, store)
    assert isinstance(loaded, FinetunedHead)
    start, end = new_head(store, with_text=with_text).state_dict(), loaded.state_dict()
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    image = [name for name in start if name.startswith("towers.image.")]
    assert {"towers.image.conv1.weight" in image} == {finetune_of(store) == "all"}
    assert set(image) <= moved
    assert any(name.startswith("towers.text.") for name in moved) == with_text
    assert not [name for name in load_file(tmp_path / "head.safetensors") if "towers" in name]
    assert all(name.startswith("towers.") for name in load_file(tmp_path / "towers.safetensors"))
    rows = np.arange(NUM_VIDEOS)
    found = embed_videos(store, rows, loaded, device=torch.device("cpu"))
    assert found.shape == (NUM_VIDEOS, 128)


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 2])
def test_a_pyramid_that_is_not_trained_is_saved_all_the_same(
    lora: int, store: MemoryStore, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, epochs=1, lora=lora)
    head = dataclasses.replace(HEAD, factors=(1.0,), pyramid="frozen", init="normal")
    train(store, tmp_path / "run", head=head, config=config)
    saved = load_file(tmp_path / "run" / "head.safetensors")
    loaded = load_head(tmp_path / "run", store).state_dict()
    frozen = [name for name in loaded if name.startswith("aggregator.pyramid.")]
    assert frozen
    assert all(torch.equal(loaded[name], saved[name]) for name in frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "augment", "lora"),
    [("top:2", "none", 0), ("top:2", "none", 2), ("all", "crop", 0)],
    indirect=["store"],
)
def test_a_run_that_was_cut_short_ends_with_the_bits_of_one_that_was_not(
    store: MemoryStore, augment: Augment, lora: int, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        CONFIG,
        finetune=finetune_of(store),
        augment=augment,
        epochs=3,
        finetune_text=True,
        checkpoint_every=1,
        videos_at_once=2,
        lora=lora,
    )

    def kill(report: StepReport) -> None:
        if report.step == 1:
            raise KilledError

    train(store, tmp_path / "whole", config=config, head=HEAD)
    with pytest.raises(KilledError):
        train(store, tmp_path / "cut", config=config, head=HEAD, on_step=kill)
    train(store, tmp_path / "cut", config=config, head=HEAD)
    for name in ("head", "towers", "state"):
        file = f"{name}.safetensors"
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        ("top:8", "has 8 blocks.*Choose top:1 to top:7"),
        (
            "top:3",
            "reads view block:5, the store has tokens, block:6, for top:2. Extract with --views",
        ),
        ("top:0", "choose none, all, or top:K"),
    ],
)
def test_what_can_t_be_trained_is_refused(finetune: str, words: str, store: MemoryStore) -> None:
    with pytest.raises(UsageError, match=words):
        view_below(finetune, store.header)


def test_a_store_that_is_open_on_another_view_is_refused(store: MemoryStore) -> None:
    store.token_view = "tokens"
    with pytest.raises(IncompatibleStoreError, match=r"open on view 'tokens'.*reads 'block:6'"):
        new_head(store)


def test_other_weights_under_the_encoder_s_name_are_refused(store: MemoryStore) -> None:
    encoder = dataclasses.replace(store.header.encoder, weights_sha256="0" * 64)
    store.header = dataclasses.replace(store.header, encoder=encoder)
    with pytest.raises(IncompatibleStoreError, match="weights_sha256"):
        new_head(store)


def test_an_encoder_without_towers_is_refused(store: MemoryStore) -> None:
    encoder = dataclasses.replace(store.header.encoder, spec="conse")
    store.header = dataclasses.replace(store.header, encoder=encoder)
    with pytest.raises(EncoderError, match="no towers to train"):
        new_head(store)


def test_an_adapter_wider_than_the_tower_is_refused_before_a_folder_is_made(
    store: MemoryStore, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, lora=129)
    with pytest.raises(UsageError, match=r"lora 129: the image tower of .* is 128 wide"):
        train(store, tmp_path / "run", head=HEAD, config=config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [{"clip_lr": 1e-5}, {"layer_decay": 0.9}])
def test_a_rate_of_weights_that_are_not_trained_is_refused(rate: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"without finetune: it is a rate of CLIP's weights"):
        TrainConfig(**rate)
    TrainConfig(finetune="top:1", **rate)
