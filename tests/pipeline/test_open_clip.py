"""open_clip's encoder, against the model's own parts; and what it refuses, with the next step."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from muse.errors import EncoderError
from muse.pipeline.encoders.base import (
    Encoder,
    build_encoder,
    normalised_input,
)

pytestmark = pytest.mark.slow  # open_clip takes seconds to load: no test here loads it on import

WEIGHTS = "open_clip_model.safetensors"


def build(spec: str, **settings: Any) -> Encoder:
    return build_encoder(spec, **{"device": "cpu", "precision": "fp32", **settings})


def tokens_of(encoder: Encoder, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
    return encoder.encode_frames(frames)["tokens"]


def refused(spec: str) -> str:
    with pytest.raises(EncoderError) as caught:
        build(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def encoder(tiny_clip: str) -> Encoder:
    return build(tiny_clip)


@pytest.fixture
def model(tiny_clip_folder: Path) -> Any:
    """open_clip's model with the same weights, loaded without muse."""
    import open_clip

    model = open_clip.create_model("muse-tiny", pretrained=None)
    model.load_state_dict(load_file(tiny_clip_folder / WEIGHTS))
    return model.eval()


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size=(3, 64, 64, 3), dtype=np.uint8)


# -- what it computes ----------------------------------------------------------------------------


@torch.no_grad()
def test_the_class_token_is_the_model_s_own_image_embedding(
    encoder: Encoder, model: Any, frames: NDArray[np.uint8]
) -> None:
    pixels = normalised_input(frames, encoder.info.preprocessing, device="cpu")
    expected = model.encode_image(pixels).numpy()
    np.testing.assert_allclose(tokens_of(encoder, frames)[:, 0], expected, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_all_tokens_are_the_last_block_s_after_norm_and_projection(
    encoder: Encoder, model: Any, frames: NDArray[np.uint8]
) -> None:
    visual = model.visual
    pixels = normalised_input(frames, encoder.info.preprocessing, device="cpu")
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.expand(len(frames), 1, -1)
    hidden = torch.cat([class_token, patches], dim=1) + visual.positional_embedding
    hidden = visual.ln_pre(hidden)
    for block in visual.transformer.resblocks:
        hidden = block(hidden)
    expected = (visual.ln_post(hidden) @ visual.proj).numpy()
    np.testing.assert_allclose(tokens_of(encoder, frames), expected, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_every_view_is_what_its_part_of_the_model_gives_in_one_pass(
    encoder: Encoder, model: Any, frames: NDArray[np.uint8]
) -> None:
    seen: dict[str, torch.Tensor] = {}
    for number, block in enumerate(model.visual.transformer.resblocks, start=1):
        block.register_forward_hook(
            lambda _, __, output, name=f"block:{number}": seen.update({name: output})
        )
    model.visual.ln_post.register_forward_hook(
        lambda _, inputs, __: seen.update(before_norm=inputs[0])
    )
    model.encode_image(normalised_input(frames, encoder.info.preprocessing, device="cpu"))
    views = ("tokens", "unprojected", "block:1", "block:2")
    maps = encoder.encode_frames(frames, views)
    assert tuple(maps) == views
    for name in ("block:1", "block:2"):
        np.testing.assert_allclose(maps[name], seen[name].numpy(), atol=2e-3, rtol=1e-3)
    unprojected = model.visual.ln_post(seen["block:2"]).numpy()
    np.testing.assert_allclose(maps["unprojected"], unprojected, atol=2e-3, rtol=1e-3)


def test_tokens_have_the_same_bits_whatever_else_is_kept(
    encoder: Encoder, frames: NDArray[np.uint8]
) -> None:
    alone = tokens_of(encoder, frames)
    beside = encoder.encode_frames(frames, ("tokens", "unprojected", "block:1"))["tokens"]
    assert alone.tobytes() == beside.tobytes()


def test_patch_tokens_are_in_reading_order(encoder: Encoder) -> None:
    plain = np.full((1, 64, 64, 3), 128, dtype=np.uint8)
    changed = plain.copy()
    changed[:, :32, 32:] = 255  # the second of two by two patches
    shift = np.abs(tokens_of(encoder, changed) - tokens_of(encoder, plain)).sum(axis=2)[0]
    assert int(shift[1:].argmax()) == 1


@torch.no_grad()
def test_a_caption_s_embedding_is_the_model_s_own(encoder: Encoder, model: Any) -> None:
    import open_clip

    texts = ["a man sings", "Ein Hund läuft!"]
    expected = model.encode_text(open_clip.get_tokenizer("muse-tiny")(texts)).numpy()
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=2e-3, rtol=1e-3)


def test_a_text_that_is_too_long_is_cut_and_keeps_its_end_token(encoder: Encoder) -> None:
    # Start, "a", "man" and end are four tokens.
    cut = encoder.encode_texts(["a man sings a long song", "a man"], 4)
    uncut = encoder.encode_texts(["a man", "a man"])
    assert cut.tobytes() == uncut.tobytes()


@pytest.mark.parametrize("text_length", [8, 16, 77])
def test_a_text_that_is_not_too_long_has_the_bits_that_it_has_uncut(
    encoder: Encoder, text_length: int
) -> None:
    texts = ["a man sings a song.", "one"]  # eight tokens
    cut = encoder.encode_texts(texts, text_length)
    assert cut.tobytes() == encoder.encode_texts(texts).tobytes()


def test_info_says_the_shapes_of_the_tokens(encoder: Encoder, frames: NDArray[np.uint8]) -> None:
    info = encoder.info
    assert tokens_of(encoder, frames).shape == (3, info.tokens_per_frame, info.dim)
    assert info.tokens_per_frame == 1 + info.grid**2


def test_info_has_the_model_s_own_preprocessing(encoder: Encoder) -> None:
    import open_clip

    crop = encoder.info.preprocessing
    assert (crop.size, crop.resize_to, crop.interpolation) == (64, 64, "bicubic")
    assert crop.mean == open_clip.OPENAI_DATASET_MEAN


def test_bf16_tokens_are_near_those_of_fp32(
    encoder: Encoder, tiny_clip: str, frames: NDArray[np.uint8]
) -> None:
    full = tokens_of(encoder, frames).astype(np.float32)
    half = tokens_of(build(tiny_clip, precision="bf16"), frames).astype(np.float32)
    assert np.linalg.norm(half - full) < 0.03 * np.linalg.norm(full)


# -- weights -------------------------------------------------------------------------------------


def test_a_weight_file_gives_the_tokens_of_its_weights(
    encoder: Encoder, tiny_clip_folder: Path, frames: NDArray[np.uint8]
) -> None:
    loaded = build(f"openclip:muse-tiny/{tiny_clip_folder / WEIGHTS}")
    assert np.array_equal(tokens_of(loaded, frames), tokens_of(encoder, frames))


def test_a_local_folder_gives_the_tokens_of_its_weights(
    encoder: Encoder, tiny_clip_folder: Path, frames: NDArray[np.uint8]
) -> None:
    loaded = build(f"openclip:local-dir:{tiny_clip_folder}")
    assert np.array_equal(tokens_of(loaded, frames), tokens_of(encoder, frames))


def test_random_weights_follow_their_seed(tiny_clip: str) -> None:
    seeds = ("random", "random:0", "random:1")
    hashes = [build(f"openclip:muse-tiny/{seed}").info.weights_sha256 for seed in seeds]
    assert (hashes[0] == hashes[1], hashes[1] == hashes[2]) == (True, False)


def test_random_weights_leave_the_global_random_state_alone(tiny_clip: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(tiny_clip)
    assert torch.equal(torch.rand(3), expected)


def test_the_hash_changes_when_one_weight_changes(tiny_clip_folder: Path, tmp_path: Path) -> None:
    weights = load_file(tiny_clip_folder / WEIGHTS)
    weights["visual.proj"][0, 0] += 1e-3
    save_file(weights, tmp_path / "changed.safetensors")
    before = build(f"openclip:muse-tiny/{tiny_clip_folder / WEIGHTS}")
    after = build(f"openclip:muse-tiny/{tmp_path / 'changed.safetensors'}")
    assert before.info.weights_sha256 != after.info.weights_sha256


# -- what is refused -----------------------------------------------------------------------------


def test_an_unknown_model_is_refused_with_how_to_list_them() -> None:
    assert "list_models()" in refused("openclip:ViT-B-33/openai")


def test_a_model_without_weights_named_is_refused_with_its_tags() -> None:
    assert "tags: openai, " in refused("openclip:ViT-B-32-quickgelu")


def test_an_unknown_tag_is_refused_with_the_known_ones() -> None:
    message = refused("openclip:ViT-B-32/laion3b")
    assert ("neither a file nor one of the tags" in message, "laion2b" in message) == (True, True)


def test_a_weight_file_that_is_not_there_is_refused_by_name(tiny_clip: str, tmp_path: Path) -> None:
    assert str(tmp_path / "no.pt") in refused(f"openclip:muse-tiny/{tmp_path / 'no.pt'}")


@pytest.mark.parametrize("content", [b"", b"not weights" * 20])
def test_a_weight_file_that_does_not_load_is_refused_by_name(
    tiny_clip: str, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    assert f"{file} does not load into muse-tiny" in refused(f"openclip:muse-tiny/{file}")


def test_weights_of_another_model_are_refused(tiny_clip: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"visual.proj": torch.zeros(2, 2)}, file)
    assert "Check that the file belongs to that model" in refused(f"openclip:muse-tiny/{file}")


def test_openai_s_weights_in_a_model_without_quickgelu_are_refused_with_the_right_name() -> None:
    assert "Write openclip:ViT-B-16-quickgelu/openai" in refused("openclip:ViT-B-16/openai")


def test_a_seed_that_is_no_number_is_refused(tiny_clip: str) -> None:
    assert "Write openclip:muse-tiny/random:0" in refused("openclip:muse-tiny/random:x")


def test_a_network_without_patch_tokens_is_refused(tiny_clip: str) -> None:
    assert "Choose a CLIP ViT" in refused("openclip:muse-tiny-resnet/random")


def test_a_network_that_pools_otherwise_is_refused(tiny_clip: str) -> None:
    assert "differs from encode_image" in refused("openclip:muse-tiny-avg/random")


def test_a_grid_that_is_not_square_is_refused(tiny_clip: str) -> None:
    assert "patch grid is 2x3" in refused("openclip:muse-tiny-wide/random")


def test_a_preprocessing_that_squashes_is_refused(tiny_clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "squash"
    shutil.copytree(tiny_clip_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "resizes by 'squash'" in refused(f"openclip:local-dir:{folder}")


def test_a_local_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused(f"openclip:local-dir:{tmp_path / 'nowhere'}")


def test_weights_that_can_t_be_downloaded_are_refused_with_what_to_do(
    tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from open_clip import pretrained

    # The hub's package reads its environment once, when it is imported.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(pretrained._PRETRAINED, "muse-tiny", {"tag": {"hf_hub": "no-one/muse/"}})
    message = refused("openclip:muse-tiny/tag")
    next_steps = ("--encoder openclip:muse-tiny/FILE", "--encoder conse", "muse-retrieval[offline]")
    assert all(step in message for step in next_steps)


def test_a_real_model_is_refused_without_patch_tokens() -> None:
    assert "ModifiedResNet has no class and patch tokens" in refused("openclip:RN50/random")
