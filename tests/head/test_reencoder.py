"""What a finetuned run encodes a store with: its towers, found from its folder alone."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_store import make_header
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from muse.errors import CheckpointError, EncoderError
from muse.head import reencoder
from muse.head.checkpoint import RunConfig, write_config
from muse.head.finetune import head_over_towers
from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.head.reencoder import RunEncoder, load_reencoder
from muse.head.train_config import TrainConfig
from muse.pipeline.encoders.base import build_encoder
from muse.pipeline.encoders.open_clip import OpenClipEncoder

BELOW = "block:7"  # of a tower of eight blocks
NUM_VIDEOS, NUM_FRAMES = 2, 3
TEXTS = ["a red square", "a blue circle"]


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    built = build_encoder("openclip:muse-nano", device="cpu", precision="fp32")
    assert isinstance(built, OpenClipEncoder)
    return built


@pytest.fixture(scope="module")
def maps(encoder: OpenClipEncoder) -> dict[str, NDArray[np.float16]]:
    """(N * T, K, W or D) of coarse noise: what is read, and what an untrained top makes of it."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (NUM_VIDEOS * NUM_FRAMES, 7, 7, 3), dtype=np.uint8)
    frames_BHWC = coarse.repeat(32, axis=1).repeat(32, axis=2)
    return encoder.encode_frames(frames_BHWC, (BELOW, "tokens"))


@pytest.fixture
def maps_NTKW(maps: dict[str, NDArray[np.float16]]) -> NDArray[np.float16]:
    below = maps[BELOW]
    return below.reshape(NUM_VIDEOS, NUM_FRAMES, *below.shape[1:]).copy()


@pytest.fixture
def valid_NT() -> NDArray[np.bool_]:
    """The second video has one frame less."""
    return np.array([[True, True, True], [True, True, False]])


def write_run(run: Path, encoder: OpenClipEncoder, *, with_text: bool = False) -> Path:
    """A run that has not moved its towers yet."""
    header = make_header(num_videos=NUM_VIDEOS, num_captions=len(TEXTS))
    header = dataclasses.replace(header, encoder=encoder.info, views=("tokens", BELOW))
    train = TrainConfig(finetune="top:1", finetune_text=with_text, device="cpu")
    config = RunConfig(
        head=HeadConfig(dim=encoder.info.dim, factors=(), depth=1, d_state=2),
        train=dataclasses.asdict(train),
        store=header,
        view=BELOW,
        root_sha256="",
        timestamps_sha256="",
        num_videos=NUM_VIDEOS,
        num_captions=len(TEXTS),
        ran_on={},
        command=(),
    )
    write_config(run, config)
    head = head_over_towers(
        RetrievalHead(config.head, scan="reference"), header, finetune="top:1", with_text=with_text
    )
    towers = {n: t.contiguous() for n, t in head.state_dict().items() if n.startswith("towers.")}
    rest = {n: t for n, t in head.state_dict().items() if n not in towers}
    save_file(towers, run / "towers.safetensors")
    save_file(rest, run / "head.safetensors")
    return run


@pytest.fixture(scope="module")
def _run(encoder: OpenClipEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("written") / "run", encoder)


@pytest.fixture(scope="module")
def reencoding(_run: Path) -> RunEncoder:
    return load_reencoder(_run, device="cpu")


@pytest.fixture
def run(_run: Path, tmp_path: Path) -> Path:
    """The same run, this test's own."""
    return Path(shutil.copytree(_run, tmp_path / "run"))


def test_towers_that_have_not_moved_make_the_tokens_of_the_store(
    reencoding: RunEncoder,
    maps: dict[str, NDArray[np.float16]],
    maps_NTKW: NDArray[np.float16],
    valid_NT: NDArray[np.bool_],
) -> None:
    made = reencoding.encode_clips(maps_NTKW, valid_NT)
    assert made.dtype == np.float16
    tokens = maps["tokens"].reshape(made.shape)
    np.testing.assert_allclose(made[valid_NT], tokens[valid_NT], atol=4e-3)


def test_a_video_s_tokens_do_not_depend_on_its_neighbours(
    reencoding: RunEncoder, maps_NTKW: NDArray[np.float16], valid_NT: NDArray[np.bool_]
) -> None:
    whole = reencoding.encode_clips(maps_NTKW, valid_NT)
    maps_NTKW[1], valid_NT[1] = 0, False
    assert np.array_equal(reencoding.encode_clips(maps_NTKW, valid_NT)[0], whole[0])


def test_frames_go_through_the_towers_in_parts(
    reencoding: RunEncoder,
    maps_NTKW: NDArray[np.float16],
    valid_NT: NDArray[np.bool_],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = reencoding.encode_clips(maps_NTKW, valid_NT)
    monkeypatch.setattr(reencoder, "FRAMES_AT_A_TIME", 4)
    parts = reencoding.encode_clips(maps_NTKW, valid_NT)
    np.testing.assert_allclose(parts[valid_NT], whole[valid_NT], atol=4e-3)


def test_tokens_that_are_not_finite_are_refused_and_padding_is_not_asked(
    reencoding: RunEncoder, maps_NTKW: NDArray[np.float16], valid_NT: NDArray[np.bool_]
) -> None:
    maps_NTKW[1, 2] = np.inf
    reencoding.encode_clips(maps_NTKW, valid_NT)
    valid_NT[1, 2] = True
    with pytest.raises(EncoderError, match=r"run: \d+ of \d+ values of its tokens are not finite"):
        reencoding.encode_clips(maps_NTKW, valid_NT)


@pytest.mark.slow
def test_texts_are_its_own_only_where_their_tower_was_trained(
    encoder: OpenClipEncoder, reencoding: RunEncoder, tmp_path: Path
) -> None:
    assert reencoding.encode_texts(TEXTS) is None
    trained = load_reencoder(write_run(tmp_path / "text", encoder, with_text=True), device="cpu")
    made = trained.encode_texts(TEXTS)
    assert made is not None
    np.testing.assert_allclose(made, encoder.encode_texts(TEXTS), atol=4e-3)


def test_its_encoder_has_a_name_and_weights_of_its_own(
    encoder: OpenClipEncoder, run: Path, reencoding: RunEncoder
) -> None:
    theirs, own = encoder.info, reencoding.info
    assert own.spec == "finetuned:openclip:muse-nano"
    assert own == dataclasses.replace(theirs, spec=own.spec, weights_sha256=own.weights_sha256)
    assert load_reencoder(run, device="cpu").info == own
    towers = load_file(run / "towers.safetensors")
    towers["towers.image.ln_post.bias"] += torch.finfo(torch.float32).eps
    save_file(towers, run / "towers.safetensors")
    hashes = {own.weights_sha256, load_reencoder(run, device="cpu").info.weights_sha256}
    assert len(hashes | {theirs.weights_sha256}) == 3


def test_a_run_without_towers_or_weights_is_refused(run: Path) -> None:
    (run / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights yet"):
        load_reencoder(run, device="cpu")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"top:1"', '"none"'))
    with pytest.raises(CheckpointError, match="not finetuned, so it reads the store"):
        load_reencoder(run, device="cpu")
