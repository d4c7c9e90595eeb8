"""Runs that are killed, starved or robbed of a folder end with the bytes of one that is not."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Driver, Run, decoders_of, descendants, is_alive, kill, title, wait_until

from muse.pipeline.redo import RedoRules
from muse.pipeline.storage.files import open_storage
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),  # of ray
]
NUM_VIDEOS = 20
NUM_KILLS = 20
SECONDS_TO_DIE = 10.0  # of what outlives its driver; "a few", and the machine may be busy


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """Twenty small files: seventeen videos, two copies, and one that is text."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS - 3):
        name, size = f"v{number:02}.mp4", (32 + 2 * number, 32)
        make_video(folder / name, num_frames=4 + number, size=size, codec="mpeg4")
    shutil.copy(folder / "v01.mp4", folder / "copy_of_v01.mp4")
    shutil.copy(folder / "v07.mp4", folder / "copy_of_v07.mp4")
    (folder / "broken.mp4").write_text("no video\n" * 9, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ZarrStore:
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    assert Driver(Run(out=out, videos=videos, num_decoders=1)).outcome() == "done"
    store = ZarrStore.open(out)
    counts = store.counts()
    assert (counts.listed, counts.ok, counts.failed, counts.pending) == (21, 19, 2, 0)
    return store


def assert_same(out: Path, undisturbed: ZarrStore) -> None:
    store = ZarrStore.open(out)
    reasons = {failure.video_id: failure.reason for failure in store.failures}
    assert reasons == {"broken": "not_a_video", "gone": "missing"}
    assert store.counts() == undisturbed.counts()
    assert store.root_sha256 == undisturbed.root_sha256
    assert verify(store).problems == ()
    assert not list(out.rglob("*.partial"))


def assert_sound(out: Path) -> None:
    """Of a store in the middle: it opens, promises nothing wrong, and its sum adds up."""
    if (out / "store.json").exists():
        store = ZarrStore.open(out)
        assert verify(store).problems == ()
        counts = store.counts()
        assert counts.listed == counts.ok + counts.failed + counts.skipped + counts.pending


def has_receipts(out: Path, num: int = 1) -> bool:
    return len(list(out.glob("receipts/videos-*.json"))) >= num


def assert_lock_is_free(out: Path) -> None:
    with open_storage(out).lock():
        pass


def is_one_line(words: str, start: str, part: str = "") -> bool:
    """True for a message as a user would see it."""
    return words.startswith(start) and part in words and "\n" not in words


def survivors(pids: list[int]) -> list[str]:
    """Of some processes, those that outlast the time they have."""
    wait_until(lambda: not any(map(is_alive, pids)), timeout=SECONDS_TO_DIE)
    return [f"{pid} {title(pid)}" for pid in pids if is_alive(pid)]


# -- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_decoders", [2, 4])
def test_the_number_of_decoders_and_the_order_of_the_listing_change_nothing(
    num_decoders: int, videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    run = Run(out=tmp_path / "store", videos=videos, num_decoders=num_decoders, seed=num_decoders)
    assert Driver(run).outcome() == "done"
    assert_same(run.out, undisturbed)


# -- kill -9, without Ray ------------------------------------------------------------------------


def test_a_local_run_survives_twenty_kills(
    videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    generator = random.Random(9)
    targets = ["driver"] * 8 + ["decoder"] * 12
    generator.shuffle(targets)
    num_stores = 0
    while targets:
        run = Run(out=tmp_path / f"store{num_stores}", videos=videos, seed=num_stores)
        _kill_until_done(run, targets, generator)
        assert_same(run.out, undisturbed)
        num_stores += 1


def _kill_until_done(run: Run, targets: list[str], generator: random.Random) -> None:
    """A run that is started until it ends; takes the kills that it had off the targets."""
    driver = Driver(run)
    while True:
        time.sleep(generator.uniform(0.1, 0.7))
        if targets and targets[-1] == "decoder" and _kill_a_decoder(driver, generator):
            targets.pop()
        if not driver.is_running:
            words = driver.outcome()
            if words == "done":
                return
            # No decoder lived long enough to start: an end, and not one that blames a video.
            assert is_one_line(words, "WorkerError: a decoding process can't be started"), words
            driver = Driver(run)
        elif targets and targets[-1] == "driver":
            family = descendants(driver.pid)
            driver.kill()
            targets.pop()
            assert survivors(family) == []
            assert_sound(run.out)
            assert_lock_is_free(run.out)
            driver = Driver(run)


def _kill_a_decoder(driver: Driver, generator: random.Random) -> bool:
    """Kills one as soon as there is one; False if the driver ended before."""
    wait_until(lambda: not driver.is_running or any(decoders_of(descendants(driver.pid))))
    decoders = list(decoders_of(descendants(driver.pid)))
    return bool(decoders) and kill(generator.choice(decoders))


def test_a_second_run_is_refused_until_the_first_one_is_killed(
    videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    run = Run(out=tmp_path / "store", videos=videos)
    first = Driver(run)
    assert wait_until(lambda: has_receipts(run.out))
    words = Driver(run).outcome()
    assert is_one_line(words, "StoreError: ", f"pid {first.pid}"), words
    assert first.is_running
    first.kill()
    assert Driver(run).outcome() == "done"
    assert_same(run.out, undisturbed)


# -- folders -------------------------------------------------------------------------------------


def test_a_store_that_is_removed_in_the_middle_ends_the_run_and_is_not_made_again(
    videos: Path, tmp_path: Path
) -> None:
    run = Run(out=tmp_path / "store", videos=videos)
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out))
    run.out.rename(tmp_path / "removed")  # at once, as a busy folder can't be
    assert is_one_line(words := driver.outcome(), "StoreError: ", str(run.out)), words
    assert not run.out.exists()


def test_a_store_that_was_away_for_a_while_is_finished_where_it_is_put(
    videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    run = Run(out=tmp_path / "store", videos=videos)
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out))
    run.out.rename(tmp_path / "moved")
    driver.outcome()
    moved = Run(out=tmp_path / "moved", videos=videos)
    assert_sound(moved.out)
    assert Driver(moved).outcome() == "done"
    assert_same(moved.out, undisturbed)


def test_a_run_whose_store_was_replaced_by_another_one_leaves_that_alone(
    videos: Path, tmp_path: Path, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    other = Run(out=tmp_path / "other", videos=videos, settings={"finds_duplicates": False})
    assert Driver(other).outcome() == "done"
    before = bytes_of(other.out)
    run = Run(out=tmp_path / "store", videos=videos, num_decoders=1)
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out))
    run.out.rename(tmp_path / "moved")
    other.out.rename(run.out)
    assert is_one_line(words := driver.outcome(), "StoreError: ", str(run.out)), words
    assert bytes_of(run.out) == before


def test_videos_that_disappear_in_the_middle_are_done_when_they_are_back(
    videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    run = Run(out=tmp_path / "store", videos=tmp_path / "videos")
    shutil.copytree(videos, run.videos)
    driver = Driver(run)
    assert wait_until(lambda: has_receipts(run.out))
    run.videos.rename(away)
    assert driver.outcome() == "done"
    assert_sound(run.out)
    counts = ZarrStore.open(run.out).counts()
    assert (counts.failed > 2, counts.pending) == (True, 0)
    away.rename(run.videos)
    again = {"redo": RedoRules(failed=("all",))}
    assert Driver(Run(out=run.out, videos=run.videos, settings=again)).outcome() == "done"
    assert_same(run.out, undisturbed)


# -- disks ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Callable[[str], None]]:
    """A mount on a folder, and what changes its options."""
    folder.mkdir(exist_ok=True)
    _mount(*arguments, str(folder))
    try:
        yield lambda options: _mount("-o", f"remount,{options}", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(
    videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=128k", "tmpfs") as remount:
        run = Run(out=disk / "store", videos=videos)
        assert is_one_line(words := Driver(run).outcome(), "StoreError: ", str(run.out)), words
        assert "No space left" in words
        assert_sound(run.out)
        remount("size=16m")
        assert Driver(run).outcome() == "done"
        assert_same(run.out, undisturbed)


def test_a_read_only_disk_ends_the_run_and_its_store_can_be_read(
    videos: Path, undisturbed: ZarrStore, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "tmpfs") as remount:
        run = Run(out=disk / "store", videos=videos)
        driver = Driver(run)
        assert wait_until(lambda: has_receipts(run.out))
        driver.kill()
        remount("ro")
        assert is_one_line(words := Driver(run).outcome(), "StoreError: ", str(run.out)), words
        assert "Read-only" in words
        assert_sound(run.out)
        words = Driver(Run(out=disk / "new", videos=videos)).outcome()
        assert is_one_line(words, "StoreError: ", str(disk / "new")), words
        remount("rw")
        assert Driver(run).outcome() == "done"
        assert_same(run.out, undisturbed)
