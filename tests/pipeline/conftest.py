"""What tests of the pipeline share: the parts of a small store, and runs over files of one word."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from own_reference import reference_by_itself
from runs import Runs, WithoutProcess, clip_of_word
from small_store import SmallStore
from torch import Tensor

from muse.pipeline import plan, schedule_local, shards, store_writer, verify, zarr_layout
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask
from muse.pipeline.encoders.reference import Reference
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling, StoreHeader
from muse.pipeline.listing import ListedRows, rows_of_new_store, sorted_listing
from muse.pipeline.plan import header_of
from muse.pipeline.records import (
    Caption,
    Clip,
    ClipFeatures,
    ClipTokens,
    Failure,
    Listing,
    VideoRef,
)
from muse.pipeline.storage.names import LOCK_FILE
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore

FRAMES, TOKENS, DIM = 3, 5, 4


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(
        size=32,
        resize_to=32,
        interpolation="bicubic",
        mean=(0.5, 0.4, 0.3),
        std=(0.3, 0.2, 0.1),
    )


@pytest.fixture
def encoder_info(preprocessing: Preprocessing) -> EncoderInfo:
    return EncoderInfo(
        spec="openclip:some-model/tag",
        weights_sha256="12ab",
        dim=DIM,
        tokens_per_frame=TOKENS,
        grid=2,
        width=DIM,
        num_blocks=2,
        precision="fp32",
        logit_scale=2.5,
        preprocessing=preprocessing,
    )


@pytest.fixture
def make_rows() -> Callable[..., ListedRows]:
    """The rows of videos v0, v1, ... with some captions each; some videos are missing."""

    def make(num_videos: int, *, captions_each: int = 2, missing: Sequence[int] = ()) -> ListedRows:
        ids = [f"v{number}" for number in range(num_videos)]
        listing = Listing(
            protocol="folder",
            videos=tuple(
                VideoRef(
                    video_id=video_id,
                    path=None if number in missing else Path(f"/videos/{video_id}.mp4"),
                )
                for number, video_id in enumerate(ids)
            ),
            captions=tuple(
                Caption(video_id=video_id, text=f"text {number} of {video_id}", split="test")
                for video_id in ids
                for number in range(captions_each)
            ),
        )
        return rows_of_new_store(sorted_listing(listing))

    return make


@pytest.fixture
def make_header(encoder_info: EncoderInfo) -> Callable[..., StoreHeader]:
    """The header of a small store: 3 frames, 5 tokens of width 4."""

    def make(rows: ListedRows, *, shard_size: int = 2) -> StoreHeader:
        return header_of(
            rows,
            encoder=encoder_info,
            sampling=Sampling(num_frames=FRAMES),
            shard_size=shard_size,
            batch_videos=2,
        )

    return make


@pytest.fixture
def make_tokens() -> Callable[..., ClipTokens]:
    """The tokens of video number n: every value tells number, frame and token."""

    def make(number: int, *, num_valid: int = FRAMES) -> ClipTokens:
        tokens = np.zeros((FRAMES, TOKENS, DIM), dtype=np.float16)
        pts_seconds = np.full(FRAMES, np.nan)
        for frame in range(num_valid):
            pts_seconds[frame] = number + frame / 4
            for token in range(TOKENS):
                tokens[frame, token] = 100 * number + 10 * frame + token + 1
        return ClipTokens(
            video_id=f"v{number}",
            tokens_TKD=tokens,
            valid_T=np.arange(FRAMES) < num_valid,
            pts_seconds_T=pts_seconds,
        )

    return make


@pytest.fixture
def make_features(make_tokens: Callable[..., ClipTokens]) -> Callable[..., ClipFeatures]:
    """Video number n as it is written: `make_tokens`, in the arrays of a store."""

    def make(number: int, *, num_valid: int = FRAMES) -> ClipFeatures:
        clip = make_tokens(number, num_valid=num_valid)
        return ClipFeatures(
            video_id=clip.video_id,
            arrays={"tokens": clip.tokens_TKD},
            valid_T=clip.valid_T,
            pts_seconds_T=clip.pts_seconds_T,
        )

    return make


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power is tested with the storage, not with every small store."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def store_of(
    tmp_path: Path, make_header: Callable[..., StoreHeader], no_waiting_for_the_disk: None
) -> Callable[..., SmallStore]:
    """A new store of some rows in ``tmp_path / name``; two videos a shard."""

    def make(rows: ListedRows, *, name: str = "store") -> SmallStore:
        return SmallStore(StoreWriter.create(tmp_path / name, make_header(rows), rows), rows)

    return make


@pytest.fixture
def make_store(
    make_rows: Callable[..., ListedRows], store_of: Callable[..., SmallStore]
) -> Callable[..., SmallStore]:
    """A new store of videos v0, v1, ... of `make_rows`."""

    def make(num_videos: int = 5, *, name: str = "store", **rows: Any) -> SmallStore:
        return store_of(make_rows(num_videos, **rows), name=name)

    return make


@pytest.fixture
def four_captions_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of 4096."""
    for module in (plan, store_writer, zarr_layout, verify):
        monkeypatch.setattr(module, "CAPTIONS_PER_SHARD", 4)


@pytest.fixture
def make_failure() -> Callable[[int], Failure]:
    def make(number: int) -> Failure:
        path = f"/videos/v{number}.mp4"
        return Failure(
            video_id=f"v{number}",
            path=path,
            stage="decode",
            reason="not_a_video",
            message=f"{path}: nothing to see",
        )

    return make


@pytest.fixture(scope="session")
def bytes_of() -> Callable[[Path], dict[str, bytes]]:
    """The bytes of all files below a folder, by their path in it; locks are no content."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(folder)): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != LOCK_FILE
        }

    return read


class PlainEncoder:
    """An encoder without weights: mean colours of a frame and its quarters, letters of a text."""

    def __init__(self, info: EncoderInfo) -> None:
        self.info = info

    def encode_frames(
        self, frames_BHWC: NDArray[np.uint8], views: Sequence[str] = ("tokens",)
    ) -> dict[str, NDArray[np.float16]]:
        quarters = [frames_BHWC] + [
            frames_BHWC[:, top : top + 16, left : left + 16]
            for top, left in ((0, 0), (0, 16), (16, 0), (16, 16))
        ]
        tokens = np.zeros((len(frames_BHWC), TOKENS, DIM), dtype=np.float16)
        for place, quarter in enumerate(quarters):
            tokens[:, place, :3] = quarter.mean(axis=(1, 2)) / 255 + 0.25
        return {"tokens": tokens}

    def frame_maps(
        self, frames_BHWC: Tensor, views: Sequence[str] = ("tokens",)
    ) -> dict[str, Tensor]:
        maps = self.encode_frames(frames_BHWC.numpy(), views)
        return {view: torch.from_numpy(tokens) for view, tokens in maps.items()}

    def encode_texts(
        self, texts: Sequence[str], text_length: int | None = None
    ) -> NDArray[np.float16]:
        """Its tokens are letters."""
        cut = [text[:text_length] for text in texts]
        return np.array([[len(text), *map(text.count, "aeo")] for text in cut], np.float16)

    def reference(self) -> Reference:
        return reference_by_itself(self)


@pytest.fixture(scope="session")
def plain_encoder() -> Callable[..., PlainEncoder]:
    """What stands in for `build_encoder`: the same arguments, ready at once."""

    def build(spec: str, *, device: str = "cpu", precision: str = "fp32") -> PlainEncoder:
        preprocessing = Preprocessing(
            size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
        )
        info = EncoderInfo(
            spec=spec,
            weights_sha256="none",
            dim=DIM,
            tokens_per_frame=TOKENS,
            grid=2,
            width=DIM,
            num_blocks=2,
            precision="fp32" if precision == "auto" else precision,  # type: ignore[arg-type]
            logit_scale=2.5,
            preprocessing=preprocessing,
        )
        return PlainEncoder(info)

    return build


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a file of tests may keep what many of them begin with (`Runs.begin_as`)."""
    return tmp_path_factory.mktemp("kept") / "runs"


@pytest.fixture(scope="session", autouse=True)
def _arrays_described_once() -> Iterator[None]:
    """Zarr takes milliseconds to describe a store's arrays, which are alike in most tests."""
    known: dict[Any, dict[str, bytes]] = {}

    def described(header: StoreHeader) -> dict[str, bytes]:
        numbers = (header.num_videos, header.num_captions, header.shard_size)
        views = (header.views, header.encoder, header.sampling.num_frames)
        key = (*numbers, *views, zarr_layout.CAPTIONS_PER_SHARD)
        if key not in known:
            known[key] = real(header)
        return known[key]

    real = zarr_layout.array_metadata
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_layout, "array_metadata", described)
        yield


@pytest.fixture
def runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain_encoder: Callable[..., PlainEncoder],
    no_waiting_for_the_disk: None,
) -> Runs:
    """No file and no store yet."""
    made = Runs(folder=tmp_path / "videos", out=tmp_path / "store")
    made.folder.mkdir()

    class DecoderOfWords(WithoutProcess):
        def __init__(self, limits: DecodeLimits) -> None:
            pass

        def __call__(self, task: DecodeTask) -> Clip | Failure:
            if not task.keeps_whole:  # the certificate's
                made.decoded.append(task.video.video_id)
            return clip_of_word(task)

    monkeypatch.setattr(schedule_local, "IsolatedDecoder", DecoderOfWords)
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)
    return made


@pytest.fixture(scope="session")
def same_store(bytes_of: Callable[[Path], dict[str, bytes]]) -> Callable[[Path, Path], bool]:
    """True if two stores hold the same: by their roots, and by the bytes of all their arrays.

    Receipts differ: they tell seconds and times of files.
    """

    def compare(left: Path, right: Path) -> bool:
        roots = {ZarrStore.open(path).root_sha256 for path in (left, right)}
        arrays = [bytes_of(path / "features.zarr") for path in (left, right)]
        return len(roots) == 1 and arrays[0] == arrays[1]

    return compare
