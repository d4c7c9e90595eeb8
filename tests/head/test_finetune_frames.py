"""A head over a whole image tower: the same as training open_clip's own from the same pixels."""

import dataclasses

import numpy as np
import pytest
import torch
from finetune_stores import NUM_FRAMES, NUM_VIDEOS, TOP, inputs_of, kept_frames, store_below
from memory_store import MemoryStore
from torch import Tensor

from muse.errors import UsageError
from muse.head.finetune import FinetunedHead, new_finetuned_head, view_below
from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.head.train_config import TrainConfig
from muse.pipeline.encoders.base import build_encoder, normalised_input
from muse.pipeline.encoders.image_tower import ImageTower
from muse.pipeline.encoders.open_clip import OpenClipEncoder

HEAD = HeadConfig(dim=128, factors=(), depth=1, d_state=2, dropout=0.0)


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    built = build_encoder("openclip:muse-nano", device="cpu", precision="fp32")
    assert isinstance(built, OpenClipEncoder)
    return built


@pytest.fixture(scope="module")
def store(encoder: OpenClipEncoder) -> MemoryStore:
    return store_below("all", encoder)


def new_head(
    store: MemoryStore, *, finetune: str = "all", random_crops: bool = False
) -> FinetunedHead:
    torch.manual_seed(0)
    head = RetrievalHead(HEAD, scan="reference").eval()
    return new_finetuned_head(
        head, store, finetune=finetune, with_text=False, random_crops=random_crops
    )


def tower_of(head: FinetunedHead) -> ImageTower:
    assert isinstance(head.towers.image, ImageTower)
    return head.towers.image


def batch_of(store: MemoryStore) -> tuple[Tensor, Tensor]:
    clips = [store.read_clip(row) for row in range(NUM_VIDEOS)]
    maps = torch.from_numpy(np.stack([clip.tokens_TKD for clip in clips]))
    return maps, torch.from_numpy(np.stack([clip.valid_T for clip in clips]))


def gradients(parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in parameters.items()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.slow
def test_training_the_tower_is_training_open_clip_s_own(
    encoder: OpenClipEncoder, store: MemoryStore
) -> None:
    head = new_head(store)
    frames_BTSSC, valid_BT = batch_of(store)
    tokens_NKD = head.encode_maps(frames_BTSSC, valid_BT)[valid_BT]
    direction_NKD = torch.randn(tokens_NKD.shape, generator=torch.Generator().manual_seed(1))
    (tokens_NKD * direction_NKD).sum().backward()
    pixels = normalised_input(
        inputs_of(frames_BTSSC[valid_BT].numpy(), encoder),
        encoder.info.preprocessing,
        device="cpu",
    )
    visual = encoder.model.visual
    _, maps = visual.transformer.forward_intermediates(visual._embeds(pixels), indices=1)
    wanted_NKD = visual.ln_post(maps[-1]) @ visual.proj
    torch.testing.assert_close(tokens_NKD, wanted_NKD, atol=0.05, rtol=0)
    (wanted_NKD * direction_NKD).sum().backward()
    names = {"top.": "", "blocks.": "transformer.resblocks."}
    ours = {}
    for name, gradient in gradients(dict(tower_of(head).named_parameters())).items():
        for old, new in names.items():
            name = name.replace(old, new)
        ours[name] = gradient
    theirs = gradients(dict(visual.named_parameters()))
    encoder.model.zero_grad(set_to_none=True)
    assert theirs.keys() == ours.keys()
    errors = {name: relative_error(ours[name], gradient) for name, gradient in theirs.items()}
    assert max(errors.values()) < 0.03, errors


@pytest.mark.slow
def test_the_top_s_gradient_is_that_of_the_top_alone(
    encoder: OpenClipEncoder, store: MemoryStore
) -> None:
    found = []
    for head, read in (
        (new_head(store), store),
        (new_head(top := store_below("top:2", encoder), finetune="top:2"), top),
    ):
        direction_BD = torch.randn(NUM_VIDEOS, 128, generator=torch.Generator().manual_seed(1))
        (head.embed_videos(*batch_of(read)) * direction_BD).sum().backward()
        blocks = list(head.towers.image.blocks)[-TOP:]
        found.append([p.grad for block in blocks for p in block.parameters()])
    for whole, alone in zip(*found, strict=True):
        assert whole is not None
        assert alone is not None
        assert relative_error(whole, alone) < 0.05


@pytest.mark.slow
def test_padded_frames_are_not_computed(store: MemoryStore) -> None:
    head = new_head(store)
    seen: list[int] = []
    tower_of(head).conv1.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    frames_BTSSC, valid_BT = batch_of(store)
    tokens_BTKD = head.encode_maps(frames_BTSSC, valid_BT)
    assert seen == [NUM_VIDEOS * NUM_FRAMES - 1]
    assert not tokens_BTKD[~valid_BT].any()


def test_a_batch_without_frames_has_no_tokens(store: MemoryStore) -> None:
    frames_BTSSC, valid_BT = batch_of(store)
    tokens_BTKD = new_head(store).encode_maps(frames_BTSSC, torch.zeros_like(valid_BT))
    assert tokens_BTKD.shape == (NUM_VIDEOS, NUM_FRAMES, store.header.encoder.tokens_per_frame, 128)
    assert not tokens_BTKD.any()


def test_embeddings_lie_below_the_first_block(store: MemoryStore) -> None:
    rates = new_head(store).peak_rates(1.0, layer_decay=0.5)
    image = "towers.image."
    assert rates[image + "top.proj"] == rates[image + "top.ln_post.bias"] == 1.0
    assert rates[image + "top.blocks.7.ln_1.weight"] == 0.5
    assert rates[image + "top.blocks.0.ln_1.weight"] == 0.5**8
    for name in ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.bias"):
        assert rates[image + name] == 0.5**9


def inputs(head: FinetunedHead, frames_NSSC: Tensor, video_N: list[int]) -> Tensor:
    return tower_of(head).input_of(frames_NSSC, torch.tensor(video_N))


@pytest.fixture(scope="module")
def frame_SSC() -> Tensor:
    return torch.from_numpy(kept_frames()[0])


@pytest.mark.slow
def test_a_crop_is_one_video_s_and_another_each_time(store: MemoryStore, frame_SSC: Tensor) -> None:
    head = new_head(store, random_crops=True).train()
    same_NSSC = frame_SSC.expand(4, -1, -1, -1)
    first, second = (inputs(head, same_NSSC, [0, 0, 1, 1]) for _ in range(2))
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[2], first[3])
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first, second)


def test_the_same_random_state_gives_the_same_crops(store: MemoryStore, frame_SSC: Tensor) -> None:
    head = new_head(store, random_crops=True).train()
    state = torch.get_rng_state()
    first = inputs(head, frame_SSC[None], [0])
    torch.set_rng_state(state)
    assert torch.equal(first, inputs(head, frame_SSC[None], [0]))


@pytest.mark.slow
@pytest.mark.parametrize(("random_crops", "is_training"), [(False, True), (True, False)])
def test_without_crops_or_training_nothing_is_drawn(
    random_crops: bool, is_training: bool, store: MemoryStore, encoder: OpenClipEncoder
) -> None:
    head = new_head(store, random_crops=random_crops).train(is_training)
    state = torch.get_rng_state()
    frames_BTSSC, valid_BT = batch_of(store)
    found = head.encode_maps(frames_BTSSC, valid_BT)
    assert torch.equal(torch.get_rng_state(), state)
    plain = new_head(store).eval().encode_maps(frames_BTSSC, valid_BT)
    assert torch.equal(found, plain)


def test_either_view_of_frames_is_read_and_uint8_is_preferred(store: MemoryStore) -> None:
    header = dataclasses.replace(store.header, views=("tokens", "frames:uint8", "frames:jpeg"))
    assert view_below("all", header) == "frames:uint8"
    header = dataclasses.replace(store.header, views=("tokens", "frames:jpeg"))
    assert view_below("all", header) == "frames:jpeg"


def test_a_store_without_frames_has_its_videos_decoded_and_that_is_said(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    header = dataclasses.replace(store.header, views=("tokens", "block:6"))
    assert view_below("all", header) == "frames:decoded"
    (warning,) = caplog.messages
    assert "every epoch decodes every video again" in warning
    assert "Extract with --views tokens,block:6,frames:jpeg" in warning


def test_cutting_what_is_no_frame_is_refused() -> None:
    with pytest.raises(UsageError, match=r"augment crop with finetune top:2.*finetune all"):
        TrainConfig(finetune="top:2", augment="crop")
