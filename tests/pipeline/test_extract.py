"""``extract`` from a listing to a store: once, twice, and after a kill."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import WithoutProcess
from torch import Tensor

from muse.errors import IncompatibleStoreError, ManifestError, StoreError, UsageError
from muse.pipeline import extract as extract_module
from muse.pipeline import schedule_local, shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decode import decode_clip
from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, attempt
from muse.pipeline.encoders import batches
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.encoders.exact_resize import resized_levels
from muse.pipeline.encoders.pil_resize import Resize
from muse.pipeline.extract import ExtractConfig, ExtractSummary, Progress, extract
from muse.pipeline.header import Sampling
from muse.pipeline.records import Clip, Failure, Listing
from muse.pipeline.schedule import Workers
from muse.pipeline.storage.files import LocalStorage
from muse.pipeline.store import open_store
from muse.pipeline.store_zarr import ZarrStore

BytesOf = Callable[[Path], dict[str, bytes]]
SameStore = Callable[[Path, Path], bool]


@pytest.fixture(scope="module", autouse=True)
def _run_here(plain_encoder: Callable[..., Encoder]) -> Iterator[None]:
    """Decoding in this process and a plain encoder: test_schedule.py has the real ones."""

    class DecoderHere(WithoutProcess):
        def __init__(self, limits: DecodeLimits) -> None:
            self.limits = limits

        def __call__(self, task: DecodeTask) -> Clip | Failure:
            return attempt(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule_local, "IsolatedDecoder", DecoderHere)
        patch.setattr(shards, "build_encoder", plain_encoder)
        patch.setattr("os.fsync", lambda descriptor: None)  # tested with the storage
        yield


@pytest.fixture(scope="module")
def listing(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """Six files of which one is text, one missing video, four captions."""
    captions = tmp_path_factory.mktemp("captions") / "captions.csv"
    captions.write_text(
        "video,caption\nf,a cat\na,a song\ngone,a dog\na,another song\n", encoding="utf-8"
    )
    return list_folder(video_folder, captions)


@dataclass(frozen=True)
class Finished:
    """A run from start to end. Its store is shared by tests: read it, or copy it first."""

    config: ExtractConfig
    summary: ExtractSummary
    progress: list[Progress]

    @property
    def path(self) -> Path:
        return Path(self.config.out)


@pytest.fixture(scope="module")
def finished(listing: Listing, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = ExtractConfig(
        out=tmp_path_factory.mktemp("finished") / "store",
        encoder="plain",
        engine="local",
        device="cpu",
        precision="fp32",
        sampling=Sampling(fps=4.0, num_frames=3),
        shard_size=3,
        batch_videos=2,
        workers=Workers(num_decoders=1),
    )
    progress: list[Progress] = []
    summary = extract(config, listing, on_progress=progress.append)
    return Finished(config=config, summary=summary, progress=progress)


@pytest.fixture
def config(finished: Finished, tmp_path: Path) -> ExtractConfig:
    """The finished run's, for a store of the test's own."""
    return dataclasses.replace(finished.config, out=tmp_path / "store")


@pytest.fixture
def unfinished(finished: Finished, config: ExtractConfig) -> ExtractConfig:
    """A copy of the finished store in which the second shard has no receipt."""
    shutil.copytree(finished.path, config.out)
    Path(config.out, "receipts", "videos-000001.json").unlink()
    return config


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- one run -------------------------------------------------------------------------------------


def test_every_video_that_decodes_has_features(finished: Finished) -> None:
    store = open_store(finished.path)
    here = dict(zip(store.video_ids, store.has_features_N.tolist(), strict=True))
    absent = {name for name, has_features in here.items() if not has_features}
    assert (len(here), absent) == (7, {"c.mp4", "gone"})


def test_a_video_s_tokens_are_those_of_its_frames(
    finished: Finished, listing: Listing, plain_encoder: Callable[..., Encoder]
) -> None:
    store = open_store(finished.path)
    encoder = plain_encoder("plain")
    for row, video in enumerate(sorted(listing.videos, key=lambda video: video.video_id)):
        if store.has_features_N[row]:
            clip = decode_clip(
                video,
                sampling=finished.config.sampling,
                preprocessing=encoder.info.preprocessing,
            )
            found, expected = (
                store.read_clip(row),
                encoder.encode_frames(clip.frames_THWC, ["tokens"]),
            )
            np.testing.assert_allclose(
                found.tokens_TKD[found.valid_T], expected["tokens"], atol=5e-3
            )


def test_a_caption_s_embedding_is_that_of_its_text(
    finished: Finished, plain_encoder: Callable[..., Encoder]
) -> None:
    store = open_store(finished.path)
    encoder = plain_encoder("plain")
    rows = np.flatnonzero(store.has_embedding_Q)
    texts = [store.captions[row].text for row in rows]
    assert texts == ["a song", "another song", "a cat"]
    found = store.read_caption_embeddings(rows)
    np.testing.assert_allclose(found, encoder.encode_texts(texts), atol=5e-3)


def test_the_summary_counts_every_listed_video(finished: Finished) -> None:
    counts = finished.summary.counts
    assert (counts.listed, counts.ok, counts.failed, counts.skipped, counts.pending) == (
        7, 5, 2, 0, 0,
    )  # fmt: skip
    assert (counts.captions, counts.captions_embedded) == (4, 3)
    assert finished.summary.num_new_videos == 7


def test_every_failed_video_has_its_line(finished: Finished, video_folder: Path) -> None:
    text, missing = lines_of(finished.path / "failures.jsonl")
    path = str(video_folder / "c.mp4")
    assert text.pop("message").startswith(f"{path}: can't be opened as a video")
    assert text == {"video_id": "c.mp4", "path": path, "stage": "decode", "reason": "not_a_video"}
    assert missing.pop("message").startswith("gone: no such file")
    assert missing == {"video_id": "gone", "path": "", "stage": "listing", "reason": "missing"}


def test_every_shard_s_receipt_tells_its_seconds(finished: Finished) -> None:
    store = ZarrStore.open(finished.path)
    receipts = [*store.video_receipts, *store.caption_receipts]
    assert [(r.kind, r.index, r.num_rows, len(r.failures)) for r in receipts] == [
        ("videos", 0, 3, 1),
        ("videos", 1, 3, 0),
        ("videos", 2, 1, 1),
        ("captions", 0, 4, 0),
    ]
    assert all(set(receipt.seconds) == {"wait", "encode", "write"} for receipt in receipts)


def test_the_run_s_settings_and_versions_are_beside_the_store(finished: Finished) -> None:
    record = json.loads((finished.path / "run.json").read_text(encoding="utf-8"))
    assert record["config"]["sampling"] == {"kind": "fps", "num_frames": 3, "fps": 4.0}
    assert {"muse", "torch", "av", "open_clip_torch"} <= set(record["versions"])


def test_progress_ends_with_every_video_done(finished: Finished) -> None:
    last = finished.progress[-1]
    done = (last.num_videos, last.num_decoded, last.num_committed, last.num_failed)
    assert (done, last.seconds_left) == ((7, 7, 7, 2), 0.0)


def test_progress_never_goes_back(finished: Finished) -> None:
    steps = [(seen.num_decoded, seen.num_committed) for seen in finished.progress]
    assert steps == sorted(steps)


def test_a_folder_without_captions_is_extracted(config: ExtractConfig, video_folder: Path) -> None:
    assert extract(config, list_folder(video_folder, None)).counts.captions == 0


def test_an_empty_listing_leaves_no_folder(config: ExtractConfig) -> None:
    with pytest.raises(ManifestError, match="0 videos"):
        extract(config, Listing(protocol="folder", videos=(), captions=()))
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shard_size": 0}, "shard_size 0"),
        ({"batch_videos": -1}, "batch_videos -1"),
        ({"engine": "dask"}, "engine 'dask'"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    settings: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        ExtractConfig(out=tmp_path, **settings)


# -- further runs --------------------------------------------------------------------------------


def test_a_second_run_builds_nothing_and_changes_nothing(
    finished: Finished, listing: Listing, bytes_of: BytesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(*settings: object) -> None:
        pytest.fail("an engine was started")

    monkeypatch.setattr(extract_module, "LocalEngine", no_engine)
    before = bytes_of(finished.path)
    summary = extract(finished.config, listing)
    assert (summary.num_new_videos, summary.was_complete) == (0, True)
    assert bytes_of(finished.path) == before


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_bytes(
    finished: Finished, config: ExtractConfig, listing: Listing, same_store: SameStore
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.num_committed == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(config, listing, on_progress=interrupt)
    assert extract(config, listing).num_new_videos == 4
    assert same_store(Path(config.out), finished.path)


def test_a_run_that_was_cut_off_leaves_videos_pending_and_not_failed(
    config: ExtractConfig, listing: Listing
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.num_committed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(config, listing, on_progress=interrupt)
    counts = open_store(config.out).counts()
    assert (counts.ok, counts.failed, counts.pending) == (2, 1, 4)


def test_a_shard_whose_receipt_is_removed_is_written_again(
    finished: Finished, unfinished: ExtractConfig, listing: Listing, same_store: SameStore
) -> None:
    assert extract(unfinished, listing).num_new_videos == 3
    assert same_store(Path(unfinished.out), finished.path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": Sampling(kind="uniform", num_frames=3)}, "sampling = 'fps', this run has"),
        ({"sampling": Sampling(fps=2.0, num_frames=3)}, "fps = 4.0, this run has 2.0"),
        ({"sampling": Sampling(fps=4.0, num_frames=5)}, "num_frames = 3, this run has 5"),
        ({"views": ("tokens", "int8")}, "views = 'tokens', this run has 'tokens,int8'"),
        ({"batch_videos": 3}, "batch_videos = 2, this run has 3"),
        ({"shard_size": 4}, "shard_size = 3, this run has 4"),
        ({"encoder": "conse"}, "encoder = 'plain', this run has 'conse'"),
    ],
)
def test_other_settings_on_the_same_store_are_refused_by_name(
    finished: Finished, listing: Listing, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(IncompatibleStoreError, match=named):
        extract(dataclasses.replace(finished.config, **change), listing)


def test_another_precision_on_an_unfinished_store_is_refused_by_name(
    unfinished: ExtractConfig, listing: Listing
) -> None:
    with pytest.raises(IncompatibleStoreError, match=r"encoder\.precision is 'fp32'"):
        extract(dataclasses.replace(unfinished, precision="bf16"), listing)


# -- a run and its folder ------------------------------------------------------------------------


def test_frames_that_the_encoder_resizes_make_the_same_store(
    config: ExtractConfig,
    make_video: Callable[..., Path],
    same_store: SameStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (36, 44, 3), dtype=np.uint8)
    for name, size in (("a", (44, 36)), ("b", (36, 44)), ("c", (640, 480))):
        picture = None if name == "c" else (noise if name == "a" else noise.transpose(1, 0, 2))
        make_video(tmp_path / "videos" / f"{name}.mp4", size=size, image=picture)
    listing = list_folder(tmp_path / "videos", None)
    extract(config, listing)
    resized: list[tuple[int, ...]] = []

    def noted(parts: Tensor, resize: Resize) -> Tensor:
        resized.append(tuple(parts.shape[1:3]))
        return resized_levels(parts, resize)

    monkeypatch.setattr(shards.ShardEncoder, "resizes", True)
    monkeypatch.setattr(batches, "resized_levels", noted)
    other = dataclasses.replace(config, out=tmp_path / "other")
    extract(other, listing)
    assert {min(size) for size in resized} == {36}  # of a and b; c is larger than its resize
    certificate = ZarrStore.open(other.out).header.parity
    assert certificate is not None
    assert (certificate.num_videos, certificate.pixels) == (3, 0.0)
    assert same_store(Path(other.out), Path(config.out))


def test_a_second_run_at_the_same_time_is_refused(config: ExtractConfig, listing: Listing) -> None:
    refused = []

    def run_again(progress: Progress) -> None:
        with pytest.raises(StoreError, match=r"another run .* is writing to it") as caught:
            extract(config, listing)
        refused.append(caught)

    extract(config, listing, on_progress=run_again)
    assert refused


def test_a_run_whose_folder_is_taken_away_stops(config: ExtractConfig, listing: Listing) -> None:
    def take_away(progress: Progress) -> None:
        if progress.num_committed == 3:
            shutil.rmtree(config.out, ignore_errors=True)  # it is noticed at the next commit

    with pytest.raises(StoreError, match=r"disappeared|was removed or replaced"):
        extract(config, listing, on_progress=take_away)
    assert not Path(config.out).exists()


def test_a_folder_of_something_else_is_left_as_it_is(
    config: ExtractConfig, listing: Listing, bytes_of: BytesOf
) -> None:
    out = Path(config.out)
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "download.partial").write_text("half of it", encoding="utf-8")
    with pytest.raises(StoreError, match="not a feature store, and not empty"):
        extract(config, listing)
    assert list(bytes_of(out)) == ["mine/download.partial"]


def test_what_a_killed_writer_left_is_removed(unfinished: ExtractConfig, listing: Listing) -> None:
    partial = Path(unfinished.out, "receipts", "videos-000001.json.12ab.partial")
    partial.touch()
    extract(unfinished, listing)
    assert not partial.exists()


def test_what_a_worker_that_was_lost_in_this_run_left_is_removed(
    config: ExtractConfig, listing: Listing
) -> None:
    partial = Path(config.out, "videos-000001.json.12ab.partial")
    extract(config, listing, on_progress=lambda progress: partial.touch())
    assert not partial.exists()


def test_failures_are_listed_also_after_a_run_that_was_cut_off_at_its_end(
    finished: Finished, unfinished: ExtractConfig, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(unfinished.out, "failures.jsonl")
    file.unlink()
    write = LocalStorage.write

    def cut_off(storage: LocalStorage, name: str, content: bytes) -> None:
        if name == "failures.jsonl":
            raise KeyboardInterrupt
        write(storage, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            extract(unfinished, listing)
    assert extract(unfinished, listing).was_complete
    assert file.read_bytes() == (finished.path / "failures.jsonl").read_bytes()


# -- a kill --------------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.schedule import Workers
out, encoder, folder = sys.argv[1:]
config = ExtractConfig(
    out=Path(out), encoder=encoder, engine="local", device="cpu", shard_size=1, batch_videos=1,
    workers=Workers(num_decoders=1),
)
extract(config, list_folder(Path(folder), None))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_at_the_first_unfinished_shard(
    video_folder: Path, tiny_clip_folder: Path, tmp_path: Path, same_store: SameStore
) -> None:
    command = [sys.executable, "-c", RUN]
    rest = [f"openclip:local-dir:{tiny_clip_folder}", str(video_folder)]
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    run = subprocess.Popen([*command, str(killed), *rest])
    deadline = time.monotonic() + 120
    while not list(killed.glob("receipts/videos-*.json")):
        assert run.poll() is None, "it ended before it wrote a receipt"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert open_store(killed).counts().pending > 0
    first = {file.name: file.stat().st_mtime_ns for file in killed.glob("receipts/*.json")}

    subprocess.run([*command, str(killed), *rest], check=True, timeout=200)
    subprocess.run([*command, str(undisturbed), *rest], check=True, timeout=200)

    assert same_store(killed, undisturbed)
    for name, written_ns in first.items():  # what was committed was not done again
        assert (killed / "receipts" / name).stat().st_mtime_ns == written_ns
