"""Every disk operation of a run fails once, in every way a disk fails: nothing wrong is ever read.

After each fault the store opens, verifies, gives right rows only, and the same command then ends
with the bytes of a run that nothing disturbed.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from faulty_disk import Fault, FaultyDisk, PowerCutError, Remains
from runs import WithoutProcess

from muse.errors import StoreError
from muse.pipeline import schedule_local, shards, zarr_layout
from muse.pipeline.decoding.decoder import DecodeTask, decode_failure
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling, StoreHeader
from muse.pipeline.records import Caption, Clip, Failure, Listing, VideoRef
from muse.pipeline.redo import RedoRules
from muse.pipeline.schedule import Workers
from muse.pipeline.sources import source_of
from muse.pipeline.storage.files import LocalStorage
from muse.pipeline.store import HEADER_FILE
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import verify

FRAMES = 3


class NotesAsVideos(WithoutProcess):
    """In place of a decoder: a file's text gives the colours of its frames, ``broken`` none."""

    def __init__(self, limits: object) -> None:
        pass

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        path = task.video.path
        if path is None or "broken" in path.read_text(encoding="utf-8"):
            reason = "missing" if path is None else "not_a_video"
            return decode_failure(task.video, reason=reason, message=f"{path}: broken")
        text = path.read_text(encoding="utf-8")
        frames = np.zeros((FRAMES, 32, 32, 3), np.uint8)
        for frame in range(FRAMES):
            frames[frame] = (sum(text.encode()) + 40 * frame) % 256
        return Clip(
            video_id=task.video.video_id,
            frames_THWC=frames,
            pts_seconds_T=np.arange(FRAMES, dtype=np.float64) + len(text) / 64,
            source=source_of(path, wants_sha256=task.wants_sha256),
            thumbnails=tuple(
                f"{text} at {frame}".encode() for frame in range(FRAMES) if task.thumbnail_side
            ),
            whole_frames={0: frames[0]} if task.keeps_whole else {},
        )


@pytest.fixture(scope="module", autouse=True)
def _run_here(plain_encoder: Callable[..., Encoder]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule_local, "IsolatedDecoder", NotesAsVideos)
        patch.setattr(shards, "build_encoder", plain_encoder)
        # To save time: thousands of runs describe a dozen different stores, and most end well.
        patch.setattr(zarr_layout, "array_metadata", _remembered(zarr_layout.array_metadata))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _remembered(
    array_metadata: Callable[[StoreHeader], dict[str, bytes]],
) -> Callable[[StoreHeader], dict[str, bytes]]:
    known: dict[tuple[int, int], dict[str, bytes]] = {}

    def remembered(header: StoreHeader) -> dict[str, bytes]:
        key = (header.num_videos, header.num_captions)
        if key not in known:
            known[key] = array_metadata(header)
        return known[key]

    return remembered


# -- what is extracted ---------------------------------------------------------------------------


@dataclass
class World:
    """Videos, a store that may hold some of them already, and the command that is to be run."""

    videos: Path
    base: Path
    command: ExtractConfig
    missing: tuple[str, ...] = ()

    def listing(self) -> Listing:
        """Of all files, with a caption or two each, and of the missing ones."""
        ids = sorted({file.stem for file in self.videos.iterdir()} | set(self.missing))
        paths = {video_id: self.videos / f"{video_id}.mp4" for video_id in ids}
        return Listing(
            protocol="folder",
            videos=tuple(
                VideoRef(video_id=i, path=path if path.exists() else None)
                for i, path in paths.items()
            ),
            captions=tuple(
                Caption(video_id=i, text=f"{number} songs of {i}", split="test")
                for i in ids
                for number in range(1 + len(ids) % 2)
            ),
        )

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.videos / f"{name}.mp4").write_text(text, encoding="utf-8")

    def extract_base(self) -> None:
        extract(dataclasses.replace(self.command, out=self.base), self.listing())

    def run(self, out: Path) -> None:
        extract(dataclasses.replace(self.command, out=out), self.listing())


def _fresh(world: World) -> None:
    world.write(a="a song", b="broken", c="a cat", d="two dogs", e="rain")
    world.missing = ("gone",)


def _duplicates(world: World) -> None:
    world.write(a="a song", b="broken", c="a song", d="two dogs", e="rain", f="rain", g="broken")


def _retry_failed(world: World) -> None:
    _fresh(world)
    world.write(f="broken", g="broken")
    world.extract_base()
    world.write(b="a boat", gone="a dog", f="fire")
    world.command = dataclasses.replace(world.command, redo=RedoRules(failed=("all",)))


def _append(world: World) -> None:
    world.write(a="a song", b="broken", c="a cat", d="two dogs")
    world.extract_base()
    world.write(aa="a boat", e="rain", f="two dogs")
    world.command = dataclasses.replace(world.command, append=True)


def _changed(world: World) -> None:
    _duplicates(world)
    world.extract_base()
    world.write(a="another song", d="broken", g="green")
    world.command = dataclasses.replace(world.command, redo=RedoRules(changed="stat"))


def _all_at_once(world: World) -> None:
    _retry_failed(world)
    world.write(a="another song", h="rain", i="wind")
    world.command = dataclasses.replace(
        world.command, append=True, redo=RedoRules(failed=("all",), changed="stat")
    )


def _thumbnails(world: World) -> None:
    world.command = dataclasses.replace(world.command, thumbnails=True)
    _all_at_once(world)


WORLDS: dict[str, Callable[[World], None]] = {
    "fresh": _fresh,
    "duplicates": _duplicates,
    "retry failed": _retry_failed,
    "append": _append,
    "changed": _changed,
    "all at once": _all_at_once,
    "thumbnails": _thumbnails,
}


def make_world(name: str, folder: Path) -> World:
    config = ExtractConfig(
        out=folder / "nowhere",
        encoder="plain",
        engine="local",
        device="cpu",
        precision="fp32",
        sampling=Sampling(num_frames=FRAMES),
        shard_size=3,
        batch_videos=2,
        workers=Workers(num_decoders=1),
    )
    world = World(videos=folder / "videos", base=folder / "base", command=config)
    world.videos.mkdir()
    WORLDS[name](world)
    return world


# -- what must hold ------------------------------------------------------------------------------

_Row = tuple[object, ...]


def readable_rows(folder: Path) -> dict[object, _Row]:
    """All that a reader can get: each video's file, features and thumbnails, each embedding."""
    store = ZarrStore.open(folder)
    found: dict[object, _Row] = {}
    for row in np.flatnonzero(store.has_features_N).tolist():
        clip, source = store.read_clip(row), store.sources[row]
        arrays = (clip.tokens_TKD, clip.valid_T, clip.pts_seconds_T)
        identity = (source.size_bytes, source.mtime_ns)
        pictures = store.read_thumbnails(row)
        found[clip.video_id] = (identity, pictures, *(array.tobytes() for array in arrays))
    for row in np.flatnonzero(store.has_embedding_Q).tolist():
        embedding = store.read_caption_embeddings(np.array([row]))
        found[row, store.captions[row]] = (embedding.tobytes(),)
    return found


def written(folder: Path) -> dict[str, bytes]:
    """Bytes of all files but those that tell times."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
        and file.parent.name != "receipts"
        and file.name not in ("store.json", "run.json", ".lock")
    }


@dataclass
class Expected:
    """The store of a run that nothing disturbed, and what readers may see on the way there."""

    world: World
    operations: list[str]
    root_sha256: str
    files: dict[str, bytes]
    rows: tuple[dict[object, _Row], dict[object, _Row]]
    """Before the command and after it."""

    def check_half_done(self, out: Path) -> None:
        if not (out / HEADER_FILE).exists():
            assert not self.world.base.exists(), "a store has disappeared"
            return
        assert verify(ZarrStore.open(out)).problems == ()
        before, after = self.rows
        for key, row in readable_rows(out).items():
            assert row in (before.get(key), after.get(key)), key

    def check_done(self, out: Path) -> None:
        store = ZarrStore.open(out)
        assert (store.root_sha256, verify(store).problems) == (self.root_sha256, ())
        assert store.counts().pending == 0
        assert not list(out.rglob("*.partial"))
        assert written(out) == self.files


def undisturbed(world: World, out: Path) -> Expected:
    before = readable_rows(world.base) if world.base.exists() else {}
    with put_back(world, out).watched() as disk:
        world.run(out)
    return Expected(
        world=world,
        operations=disk.operations,
        root_sha256=ZarrStore.open(out).root_sha256,
        files=written(out),
        rows=(before, readable_rows(out)),
    )


def put_back(world: World, out: Path, **settings: object) -> FaultyDisk:
    """The store as it was before the command, on a disk with a fault."""
    shutil.rmtree(out, ignore_errors=True)
    if world.base.exists():
        shutil.copytree(world.base, out)
    return FaultyDisk(out, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def expected_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Expected]:
    known: dict[str, Expected] = {}

    def expected(name: str) -> Expected:
        if name not in known:
            folder = tmp_path_factory.mktemp("world")
            known[name] = undisturbed(make_world(name, folder), folder / "undisturbed")
        return known[name]

    return expected


def disturb(expected: Expected, out: Path, *, fault: Fault, at: int) -> None:
    """The command on a disk that fails: it ends with one line that names the store."""
    disk = put_back(expected.world, out, fault=fault, at=at)
    with disk.watched():
        words = _error_of(expected.world, out)
    if words is None:  # what was to be tidied up may be lost
        expected.check_done(out)
    else:
        assert (str(out) in words, len(words.splitlines())) == (True, 1), words


def _error_of(world: World, out: Path) -> str | None:
    try:
        world.run(out)
    except StoreError as error:
        return str(error)
    return None


def cut(expected: Expected, out: Path, *, at: int, remains: Remains) -> None:
    disk = put_back(expected.world, out, fault="cut", at=at)
    with disk.watched(), pytest.raises(PowerCutError):
        expected.world.run(out)
    disk.restart(remains)


# -- tests ---------------------------------------------------------------------------------------

_ALL_KINDS = ("fresh", "all at once")  # the others are their parts: two kinds of fault will do
FAULTS = [
    (name, fault)
    for name in WORLDS
    for fault in (("full", "read-only", "error") if name in _ALL_KINDS else ("error",))
]
CUTS = [
    (name, remains)
    for name in WORLDS
    for remains in (("all", "names", "synced") if name in _ALL_KINDS else ("synced",))
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_disk_that_fails_at_any_operation_costs_nothing_that_was_committed(
    name: str, fault: Fault, expected_of: Callable[[str], Expected], tmp_path: Path
) -> None:
    expected, out = expected_of(name), tmp_path / "store"
    for at in range(1, len(expected.operations) + 1):
        disturb(expected, out, fault=fault, at=at)
        expected.check_half_done(out)
        expected.world.run(out)
        expected.check_done(out)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "remains"), CUTS)
def test_a_power_cut_at_any_operation_costs_nothing_that_was_committed(
    name: str, remains: Remains, expected_of: Callable[[str], Expected], tmp_path: Path
) -> None:
    expected, out = expected_of(name), tmp_path / "store"
    for at in range(1, len(expected.operations) + 1):
        cut(expected, out, at=at, remains=remains)
        expected.check_half_done(out)
        expected.world.run(out)
        expected.check_done(out)


def test_a_power_cut_in_a_run_that_changes_everything_costs_nothing(
    expected_of: Callable[[str], Expected], tmp_path: Path
) -> None:
    expected, out = expected_of("all at once"), tmp_path / "store"
    for at in range(2, len(expected.operations) + 1, 50):  # each of them is slower, and above
        cut(expected, out, at=at, remains="synced")
        expected.check_half_done(out)
        expected.world.run(out)
        expected.check_done(out)


def test_a_row_is_right_while_its_shard_is_written_again_with_a_row_before_it(
    expected_of: Callable[[str], Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, out = expected_of("retry failed"), tmp_path / "store"
    put_back(expected.world, out)
    reader, row = ZarrStore.open(out), 2  # the video before it has failed, and is mended now
    assert reader.has_features_N[:3].tolist() == [True, False, True]
    before = reader.read_clip(row)  # from here on the reader knows where the rows lie
    read_into = LocalStorage.read_into

    def after_a_run(storage: LocalStorage, name: str, buffer: memoryview, *, offset: int) -> int:
        monkeypatch.setattr(LocalStorage, "read_into", read_into)
        expected.world.run(out)
        return read_into(storage, name, buffer, offset=offset)

    monkeypatch.setattr(LocalStorage, "read_into", after_a_run)
    assert reader.read_clip(row).tokens_TKD.tobytes() == before.tokens_TKD.tobytes()
    assert ZarrStore.open(out).has_features_N[:3].all(), "the run came in between"


def test_a_growth_that_was_cut_off_is_undone_by_the_command_without_append(
    expected_of: Callable[[str], Expected], tmp_path: Path
) -> None:
    """Longer tables are no harm; hashes are promised again as soon as a run looks at them."""
    expected, out = expected_of("append"), tmp_path / "store"
    listing = expected.world.listing()
    known = set(ZarrStore.open(expected.world.base).video_ids)
    old = Listing(
        protocol="folder",
        videos=tuple(video for video in listing.videos if video.video_id in known),
        captions=tuple(ZarrStore.open(expected.world.base).captions),
    )
    before = ZarrStore.open(expected.world.base)
    names = [line.split()[1] for line in expected.operations]
    cut(expected, out, at=names.index("videos.parquet") + 2, remains="all")
    assert ZarrStore.open(out).header.files == {}
    extract(dataclasses.replace(expected.world.command, out=out, append=False), old)
    after = ZarrStore.open(out)
    assert (after.header.files, after.root_sha256) == (before.header.files, before.root_sha256)
    assert verify(after).problems == ()


@pytest.mark.parametrize("name", ["fresh", "append"])
def test_what_a_run_has_done_survives_a_power_cut_right_after_it(
    name: str, expected_of: Callable[[str], Expected], tmp_path: Path
) -> None:
    expected, out = expected_of(name), tmp_path / "store"
    disk = put_back(expected.world, out)
    with disk.watched():
        expected.world.run(out)
    disk.restart("synced")
    expected.check_done(out)
