"""Decoding of what a video folder of the wild holds: every file ends in its expected state.

One decoding process takes all of them, and after each a good video, whose bits never change.
"""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from adversarial import CASES, EVERY_FRAME, PREPROCESSING, WORDS_OF_A_NEXT_STEP, Case
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray

from muse.pipeline import shards
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder
from muse.pipeline.decoding.picture import without_far_ends
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.records import FAILURE_REASONS, Clip, Failure, Listing, VideoRef, printable
from muse.pipeline.schedule import Workers
from muse.pipeline.store import FeatureStore, open_store

MakeVideo = Callable[..., Path]
FrameIndex = Callable[[NDArray[np.uint8]], int]
Outcome = list[int] | int | str


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(DecodeLimits(timeout_seconds=60.0))
    yield decoder
    decoder.close()


def decoded(decoder: IsolatedDecoder, path: Path) -> Clip | Failure:
    return decoder(
        DecodeTask(
            video=VideoRef(video_id="case", path=path),
            sampling=EVERY_FRAME,
            preprocessing=PREPROCESSING,
        )
    )


def made(case: Case, folder: Path, make_video: MakeVideo) -> Path:
    path = folder / case.name
    try:
        case.make(path, make_video)
    except UnknownCodecError as error:
        pytest.skip(f"{case.name}: this libav has no encoder {error}")
    return path


def parameters() -> list[object]:
    """All cases: every third is tried at every save, the others in the slow tier."""
    slow = [pytest.mark.slow]
    return [
        pytest.param(
            case, id=ascii(case.name)[1:-1], marks=slow if case.is_slow or place % 3 else []
        )
        for place, case in enumerate(CASES)
    ]


@pytest.fixture(scope="module")
def good_clip(decoder: IsolatedDecoder, two_second_video: Path) -> Clip:
    clip = decoded(decoder, two_second_video)
    assert isinstance(clip, Clip)
    return clip


@pytest.mark.filterwarnings("default")  # encoders that PyAV calls deprecated
@pytest.mark.parametrize("case", parameters())
def test_each_file_ends_in_the_state_that_a_user_expects(
    case: Case,
    decoder: IsolatedDecoder,
    good_clip: Clip,
    two_second_video: Path,
    make_video: MakeVideo,
    frame_index: FrameIndex,
    tmp_path: Path,
) -> None:
    path = made(case, tmp_path, make_video)
    result = decoded(decoder, path)
    outcome: Outcome
    if isinstance(result, Failure):
        outcome = result.reason
        assert is_helpful(result.message, path)
    elif isinstance(case.expects, int):
        outcome = len(result.frames_THWC)
    else:
        outcome = [frame_index(frame) for frame in result.frames_THWC]
        assert (np.diff(result.pts_seconds_T) > 0).all()
    assert outcome == case.expects, result

    again = decoded(decoder, two_second_video)
    assert isinstance(again, Clip)
    assert again.frames_THWC.tobytes() == good_clip.frames_THWC.tobytes()
    assert again.pts_seconds_T.tobytes() == good_clip.pts_seconds_T.tobytes()


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {url}\n"],
)
def test_a_playlist_under_a_video_s_name_reaches_no_server(
    text: str, decoder: IsolatedDecoder, tmp_path: Path
) -> None:
    path = tmp_path / "playlist.mp4"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        path.write_text(text.format(url=url), encoding="utf-8")
        result = decoded(decoder, path)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert isinstance(result, Failure)
    assert result.reason == "not_a_video"


def is_helpful(message: str, path: Path) -> bool:
    """One line that names the file first and the next step last."""
    last = message.rstrip(".").split(". ")[-1].split("; ")[-1]
    has_next_step = last.startswith(WORDS_OF_A_NEXT_STEP)
    names = (f"{path}: ", f"{printable(path)}: ")
    return message.startswith(names) and "\n" not in message and has_next_step


def test_the_table_names_each_file_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_table_expects_known_reasons_only() -> None:
    reasons = {case.expects for case in CASES if isinstance(case.expects, str)}
    assert reasons <= set(FAILURE_REASONS)


def test_a_clock_that_jumps_three_years_makes_no_long_video(
    make_video: MakeVideo, decoder: IsolatedDecoder, tmp_path: Path
) -> None:
    (jump,) = (case for case in CASES if case.name == "jump_of_three_years.mkv")
    clip = decoded(decoder, made(jump, tmp_path, make_video))
    assert isinstance(clip, Clip)
    assert clip.pts_seconds_T.tolist() == pytest.approx([index / 10 for index in range(10)])


@pytest.mark.parametrize(
    ("size", "most_levels"),
    [
        # Whole multiples of the short side lose nothing; others are rounded in resizing.
        ((16, 16 * 260), 0),
        ((1, 999), 0),
        ((901, 3), 1),
    ],
)
def test_a_strip_without_its_far_ends_gives_the_pixels_of_the_whole(
    size: tuple[int, int], most_levels: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    middle = np.ascontiguousarray(without_far_ends(image))
    assert middle.size < image.size * 0.8
    difference = crop_to_input(middle, PREPROCESSING).astype(int) - crop_to_input(
        image, PREPROCESSING
    )
    assert np.abs(difference).max() <= most_levels


@pytest.mark.parametrize("size", [(100, 100), (16, 16 * 256), (16 * 256, 16), (1, 1)])
def test_a_picture_of_common_shape_keeps_its_ends(size: tuple[int, int]) -> None:
    assert without_far_ends(np.zeros((*size, 3), np.uint8)).shape == (*size, 3)


AS_NOBODY = """
import os, sys
from pathlib import Path
from muse.pipeline.decoding.decoder import DecodeTask, attempt
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import VideoRef
preprocessing = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
if os.getuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    video = VideoRef(video_id="case", path=Path(name))
    result = attempt(DecodeTask(video=video, sampling=Sampling(), preprocessing=preprocessing))
    print(getattr(result, "reason", "ok"), "Permission denied" in getattr(result, "message", ""))
"""


@pytest.mark.slow
def test_what_may_not_be_read_is_unreadable(make_video: MakeVideo) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is root's alone
        folder = Path(name)
        folder.chmod(0o755)
        files = [
            make_video(folder / place, num_frames=2)
            for place in ("open.mp4", "closed.mp4", "closed/inside.mp4")
        ]
        files[1].chmod(0)
        files[2].parent.chmod(0)
        try:
            output = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, *map(str, files)],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            files[2].parent.chmod(0o755)
    assert output.stdout.split("\n")[:3] == ["ok False", "unreadable True", "unreadable True"]


def test_a_name_longer_than_a_name_can_be_is_no_crash(
    decoder: IsolatedDecoder, tmp_path: Path
) -> None:
    result = decoded(decoder, tmp_path / ("x" * 300))
    assert isinstance(result, Failure)
    assert result.reason == "unreadable"


# -- the run never stops -------------------------------------------------------------------------

GOOD_AMONG_BAD = (0, 7, 31, 32, 60, 90, 118)  # places in the listing


@pytest.fixture(scope="module")
def corpus(
    make_video: MakeVideo, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Listing, dict[str, Outcome]]:
    """Every case that can be made here, with good videos between, and what is expected of each."""
    folder = tmp_path_factory.mktemp("corpus")
    files: list[tuple[Path, Outcome]] = []
    for case in CASES:
        path = folder / case.name
        try:
            case.make(path, make_video)
        except UnknownCodecError:
            continue
        files.append((path, case.expects))
    for number, place in enumerate(GOOD_AMONG_BAD):
        good = make_video(folder / f"good{number}.mp4", num_frames=20 + number)
        files.insert(place, (good, list(range(20 + number))))
    ids = [
        f"{place:03}-{'good' if path.name.startswith('good') else 'case'}"
        for place, (path, _) in enumerate(files)
    ]
    videos = tuple(
        VideoRef(video_id=video_id, path=path)
        for video_id, (path, _) in zip(ids, files, strict=True)
    )
    expected = {video_id: outcome for video_id, (_, outcome) in zip(ids, files, strict=True)}
    return Listing(protocol="adversarial", videos=videos, captions=()), expected


@pytest.fixture(scope="module")
def run(
    plain_encoder: Callable[..., Encoder], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Listing], FeatureStore]]:
    """A whole extraction with real decoding processes; the encoder alone is a plain one."""

    def extracted(listing: Listing) -> FeatureStore:
        config = ExtractConfig(
            out=tmp_path_factory.mktemp("store") / "store",
            encoder="plain",
            engine="local",
            device="cpu",
            precision="fp32",
            sampling=EVERY_FRAME,
            shard_size=16,
            batch_videos=4,
            workers=Workers(num_decoders=2, limits=DecodeLimits(timeout_seconds=60.0)),
        )
        extract(config, listing)
        return open_store(config.out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "build_encoder", plain_encoder)
        yield extracted


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_run_over_all_of_them_ends_with_each_in_its_state_and_the_good_ones_untouched(
    corpus: tuple[Listing, dict[str, Outcome]], run: Callable[[Listing], FeatureStore]
) -> None:
    listing, expected = corpus
    store = run(listing)

    found: dict[str, Outcome] = {failure.video_id: failure.reason for failure in store.failures}
    for row in np.flatnonzero(store.has_features_N).tolist():
        found[store.video_ids[row]] = int(store.read_clip(row).valid_T.sum())
    numbers = {k: len(v) if isinstance(v, list) else v for k, v in expected.items()}
    names = {video.video_id: printable(video.path) for video in listing.videos}
    wrong = {names[k]: (found.get(k), v) for k, v in numbers.items() if found.get(k) != v}
    assert wrong == {}

    counts = store.counts()
    num_failed = sum(isinstance(outcome, str) for outcome in expected.values())
    assert (counts.listed, counts.failed, counts.pending) == (len(expected), num_failed, 0)
    assert counts.listed == counts.ok + counts.failed + counts.skipped

    good = tuple(video for video in listing.videos if video.video_id.endswith("good"))
    alone = run(Listing(protocol="good", videos=good, captions=()))
    assert alone.counts().ok == len(GOOD_AMONG_BAD)
    for row, video_id in enumerate(alone.video_ids):
        here, there = alone.read_clip(row), store.read_clip(store.video_ids.index(video_id))
        for name in ("tokens_TKD", "valid_T", "pts_seconds_T"):
            assert getattr(here, name).tobytes() == getattr(there, name).tobytes(), video_id
