"""What tests share: videos made here, a tiny CLIP, third-party media, randomness of their own.

A made video tells each frame's index by its colour, so a test can read back which frames were
decoded after any crop, resize and codec. Nothing of third parties is stored in the repository.
"""

import functools
import gc
import json
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 32,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
_NUM_THREADS = int(os.environ.get("OMP_NUM_THREADS", "0"))
_LEVELS, _STEP, _DARKEST = 8, 30, 20  # each colour channel is an octal digit of the frame's index


# -- the time that tests take besides their own ----------------------------------------------------


class _OpenClipAlone(MetaPathFinder):
    """While open_clip is imported there is no transformers, which it then does without.

    It would load it, 2 s, for text towers that no default test has; who imports it later finds it.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        spec = getattr(sys.modules.get("open_clip"), "__spec__", None)
        if name == "transformers" and getattr(spec, "_initializing", False):
            raise ModuleNotFoundError(f"no {name} while open_clip is imported", name=name)


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is collected: what is imported stays
    if config.option.markexpr == "not slow and not gpu":  # other tiers have the whole open_clip
        sys.meta_path.insert(0, _OpenClipAlone())


def pytest_collection_finish() -> None:
    """What each test would otherwise pay for the modules that are loaded by now.

    The collector of garbage needs not look at them again. And pytest adds its handlers, six times
    a test, to each logger that hands nothing on to the root's: torch has 45 of them.
    """
    gc.enable()
    gc.freeze()
    gc.set_threshold(10_000)  # of 700, at which it looks through what open_clip will load
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.split(".")[0] == "torch":
            logger.propagate = True


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    """The global random states are after each test what they were before, and torch's threads.

    A fixture of the whole session comes before this one and may have extracted a store, for which
    torch takes all cores. Two test processes with two threads each spend most of their time waiting
    for each other, so the number that was asked for is set again before each test, too.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch and _NUM_THREADS:
        torch.set_num_threads(_NUM_THREADS)
    torch_state = (torch.get_rng_state(), torch.get_num_threads()) if torch else None
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    if torch and torch_state:
        torch.set_rng_state(torch_state[0])
        torch.set_num_threads(torch_state[1])


@pytest.fixture
def cuda() -> Any:
    """The CUDA device; without one the test is skipped, or fails under MUSE_REQUIRE_CUDA=1."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("MUSE_REQUIRE_CUDA") == "1":
        pytest.fail("MUSE_REQUIRE_CUDA=1, but torch sees no CUDA device")
    pytest.skip("no CUDA device (MUSE_REQUIRE_CUDA=1 turns this into a failure)")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of third-party media: MUSE_REAL_DATA, else ``shared/data`` beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MUSE_REAL_DATA", default))
    if not (folder / "msvd" / "videos").is_dir():
        pytest.skip(f"no third-party media at {folder} (set MUSE_REAL_DATA)")
    return folder


# -- videos --------------------------------------------------------------------------------------


def _colour_of(index: int) -> NDArray[np.uint8]:
    """An RGB colour for each index below 512, far from all others."""
    digits = [index // _LEVELS**place % _LEVELS for place in range(3)]
    return np.array([_DARKEST + _STEP * digit for digit in digits], dtype=np.uint8)


@pytest.fixture(scope="session")
def frame_index() -> Callable[[NDArray[np.uint8]], int]:
    """The index that `make_video` painted a frame with, read from an (H, W, 3) RGB image."""

    def read(image: NDArray[np.uint8]) -> int:
        mean = image.reshape(-1, 3).mean(axis=0)
        digits = np.round((mean - _DARKEST) / _STEP).astype(int).tolist()
        return sum(digit * _LEVELS**place for place, digit in enumerate(digits))

    return read


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """`_make_video` below."""
    return _make_video


def _make_video(
    path: Path,
    *,
    num_frames: int = 20,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    image: NDArray[np.uint8] | None = None,
) -> Path:
    """Writes a video of plain frames whose colours count them, and returns its path.

    Args:
        path: Its extension chooses the container.
        num_frames: Below 512.
        fps: Also the time base: one tick is 1 / fps seconds.
        size: (width, height).
        codec: Any encoder of libav.
        pix_fmt: Of the stream.
        codec_options: Such as ``{"bf": "2"}``.
        container_options: Such as ``{"movflags": "+faststart"}``.
        pts: Ticks at which the frames begin; 0, 1, 2 ... without.
        image: (H, W, 3) to show in every frame in place of a colour.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=codec_options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1  # with more, libvpx takes 1.2 s for what takes 0.03 s
        for index in range(num_frames):
            pixels = np.empty((size[1], size[0], 3), dtype=np.uint8)
            pixels[:] = _colour_of(index) if image is None else image
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = pts[index] if pts else index
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def two_second_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames at 10 a second, 64x48, H.264 in .mp4; frame i is painted i."""
    return _make_video(tmp_path_factory.mktemp("video") / "clip.mp4")


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five good videos of 1 to 3 seconds and, third by name, one that is text."""
    folder = tmp_path_factory.mktemp("videos")
    for place, name in enumerate(("a", "b", "d", "e", "f")):
        _make_video(folder / f"{name}.mp4", num_frames=10 + 5 * place, size=(64 + 8 * place, 48))
    (folder / "c.mp4").write_text("not a video\n" * 40, encoding="utf-8")
    return folder


# -- encoders ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The spec of a random CLIP ViT with 2 x 2 patches and D = 32, known in this process only.

    Models that muse refuses lie beside it: muse-tiny-avg, muse-tiny-wide and muse-tiny-resnet; and
    muse-tiny-late-norm, of which open_clip hands out patches before their last norm.
    """
    import open_clip

    vision = TINY_CLIP["vision_cfg"]
    others = {
        "muse-tiny-avg": {"pool_type": "avg"},
        "muse-tiny-wide": {"image_size": [64, 96]},
        "muse-tiny-late-norm": {"final_ln_after_pool": True},
        "muse-tiny-resnet": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
    }
    folder = tmp_path_factory.mktemp("model_configs")
    (folder / "muse-tiny.json").write_text(json.dumps(TINY_CLIP), encoding="utf-8")
    for name, change in others.items():
        config = {**TINY_CLIP, "vision_cfg": {**vision, **change}}
        (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder)
    with pytest.MonkeyPatch.context() as patch:  # its 49,000 merges are read once
        made_once = functools.cache(open_clip.SimpleTokenizer)
        patch.setattr(open_clip.factory, "SimpleTokenizer", made_once)
        # How quick the device is does not matter: a 4096th of the products that runs measure it by.
        patch.setattr("muse.pipeline.speed.device_probe._SIDE_CPU", 64)
        yield "openclip:muse-tiny/random:0"


@pytest.fixture(scope="session")
def tiny_clip_folder(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as files, in the form that ``local-dir:`` takes in any process."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model("muse-tiny", pretrained=None)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocessing = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
