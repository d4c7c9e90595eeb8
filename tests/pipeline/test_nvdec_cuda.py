"""What a real NVDEC gives: the bits of software, of every kind of clip, or nothing."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_clips import EXACT, OTHER, MadeClip, decoded, made, same_clip, turn_clockwise

from muse.errors import DecodeError
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.decoding.decoder_choice import chosen_decoder, opened_decoder
from muse.pipeline.decoding.nvdec import Nvdec, nvdec
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.schedule import Workers
from muse.pipeline.store_zarr import ZarrStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("cuda"),
    pytest.mark.filterwarnings("default"),  # libav on time stamps
]
HD = [
    MadeClip(name="hd.mp4", size=(1920, 1080), options={"g": "12", "bf": "3"}),  # 1088 rows coded
    MadeClip(name="tall.mp4", size=(1080, 1920), options={"g": "12"}),
    MadeClip(
        name="hd_hevc.mp4",
        codec="libx265",
        size=(1920, 1080),
        options={"x265-params": "keyint=12:log-level=none", "preset": "ultrafast"},
    ),
]
INTERLACED = MadeClip(name="fields.mp4", options={"flags": "+ildct+ilme", "g": "12"})


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Nvdec:
    """One that decodes; without it tests are skipped, or fail under MUSE_REQUIRE_CUDA=1."""
    found = nvdec()
    path = made(EXACT[0], tmp_path_factory.mktemp("first"))
    if found is None or decoded(path, found).decoder != "nvdec":
        missing = "CUDA does not open in libav" if found is None else "no libnvcuvid, or no engine"
        if os.environ.get("MUSE_REQUIRE_CUDA") == "1":
            pytest.fail(f"MUSE_REQUIRE_CUDA=1, but NVDEC decodes nothing: {missing}")
        pytest.skip(f"NVDEC decodes nothing: {missing}")
    return found


@pytest.mark.parametrize("clip", [*EXACT, *HD], ids=lambda clip: clip.name)
@pytest.mark.parametrize("num_frames", [3, 12, 40])
def test_nvdec_gives_the_bits_of_software(
    tmp_path: Path, device: Nvdec, clip: MadeClip, num_frames: int
) -> None:
    path = made(clip, tmp_path)
    found = decoded(path, device, num_frames=num_frames)
    assert found.decoder == "nvdec"
    assert same_clip(found, decoded(path, None, num_frames=num_frames))


@pytest.mark.parametrize("clip", [*OTHER, INTERLACED], ids=lambda clip: clip.name)
def test_other_streams_are_software_s(tmp_path: Path, device: Nvdec, clip: MadeClip) -> None:
    path = made(clip, tmp_path)
    found = decoded(path, device)
    assert found.decoder == "cpu"
    assert same_clip(found, decoded(path, None))


def test_a_stream_that_is_cut_at_its_left_and_top_is_shown_as_by_software(
    tmp_path: Path, device: Nvdec
) -> None:
    crop = MadeClip(name="crop.mp4", options={"x264-params": "crop-rect=16,8,4,2:keyint=12"})
    path = made(crop, tmp_path)
    assert same_clip(decoded(path, device), decoded(path, None))


def test_a_turned_video_is_turned(tmp_path: Path, device: Nvdec) -> None:
    path = made(MadeClip(name="turned.mp4", size=(160, 144)), tmp_path)
    turn_clockwise(path)
    found = decoded(path, device)
    assert found.decoder == "nvdec"
    assert same_clip(found, decoded(path, None))


def test_a_video_whose_first_picture_is_gone_is_refused_as_by_software(
    tmp_path: Path, device: Nvdec
) -> None:
    path = made(EXACT[0], tmp_path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 4000] = bytes(4000)
    path.write_bytes(content)
    words = []
    for each in (device, None):
        with pytest.raises(DecodeError) as caught:
            decoded(path, each)
        words.append((caught.value.reason, str(caught.value)))
    assert words[0] == words[1]


def test_many_videos_in_one_process_leave_no_memory_behind(tmp_path: Path, device: Nvdec) -> None:
    import torch

    path = made(EXACT[1], tmp_path)
    free = []
    for _ in range(30):
        assert decoded(path, device).decoder == "nvdec"
        free.append(torch.cuda.mem_get_info()[0])
    assert min(free[-5:]) > free[4] - 64_000_000  # libav keeps a context, and one decoder at most


def test_a_trial_with_real_processes_compares_and_measures(
    tmp_path: Path, device: Nvdec, preprocessing: Preprocessing
) -> None:
    tasks = []
    for clip in (EXACT[0], HD[0]):
        made(clip, tmp_path)
    for video in list_folder(tmp_path, None).videos:
        tasks.append(
            DecodeTask(video=video, sampling=Sampling(num_frames=4), preprocessing=preprocessing)
        )
    choice = chosen_decoder(
        "auto",
        tasks,
        num_decoders=2,
        num_cores=2,
        has_gpu=True,
        limits=DecodeLimits(),
        opened=opened_decoder,
    )
    assert re.search("of [12] videos NVDEC decodes", choice.because)  # as many as a second allows


@pytest.mark.slow
def test_a_store_has_the_root_of_one_decoded_in_software(
    tmp_path: Path, device: Nvdec, same_store: Callable[[Path, Path], bool]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for clip in (*EXACT, *OTHER):
        made(clip, folder)
    (folder / "text.mp4").write_text("not a video", encoding="utf-8")
    stores = {}
    for name in ("cpu", "nvdec"):
        config = ExtractConfig(
            out=tmp_path / name,
            encoder="openclip:muse-nano",
            engine="local",
            sampling=Sampling(kind="uniform", num_frames=8),
            workers=Workers(num_decoders=2, decoder=name),  # type: ignore[arg-type]
        )
        summary = extract(config, list_folder(folder, None))
        assert summary.speed is not None
        stores[name] = summary.speed.of("decode")
    assert same_store(tmp_path / "cpu", tmp_path / "nvdec")
    assert stores["nvdec"] is not None
    assert stores["nvdec"].num_on_gpu == len(EXACT)
    assert len(ZarrStore.open(str(tmp_path / "nvdec")).failures) == 1
