"""One suite over a folder, memory and an S3 server; then what only some of them promise."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipeline.storage_s3 import s3_bucket

from muse.errors import StoreError, UsageError
from muse.pipeline.storage import lease as storage_lease
from muse.pipeline.storage.files import LocalStorage, Storage, open_storage
from muse.pipeline.storage.lease import Lease
from muse.pipeline.storage.object_store import FsspecStorage

KINDS = ("local", "memory", pytest.param("s3", marks=pytest.mark.slow))
HOLD = """
import sys, time
from muse.pipeline.storage.files import open_storage
with open_storage(sys.argv[1]).lock() as lock:
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_WITH_CHILDREN = """
import os, subprocess, sys, time
from muse.pipeline.storage.files import open_storage
with open_storage(sys.argv[1]).lock() as lock:
    print("held", flush=True)
    print(subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid, flush=True)
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.close(1)
    time.sleep(60)
"""
WRITE_FOR_EVER = """
import itertools, sys
from muse.pipeline.storage.files import open_storage
storage = open_storage(sys.argv[1])
print("writing", flush=True)
for number in itertools.count():
    storage.write("a/file", bytes([number % 256]) * 300_000)
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket() as url:
        yield url


@pytest.fixture
def location(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}/my störe"
    return f"memory:/{tmp_path}/my störe" if kind == "memory" else str(tmp_path / "my störe")


@pytest.fixture
def storage(location: str) -> Storage:
    storage = open_storage(location)
    storage.create()
    return storage


@pytest.fixture
def folder(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "store")
    storage.create()
    return storage


def _start(program: str, location: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", program, location],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # it is under way
    return process


def _end(process: "subprocess.Popen[str]", *, kill: bool = False) -> None:
    if kill:
        process.kill()
    process.communicate()


@pytest.mark.parametrize("kind", KINDS)
class TestEveryStorage:
    def test_what_was_written_is_read(self, storage: Storage) -> None:
        storage.write("receipts/a b é.json", b"three")
        assert storage.read("receipts/a b é.json") == b"three"
        assert storage.size("receipts/a b é.json") == 5

    def test_several_buffers_follow_each_other(self, storage: Storage) -> None:
        numbers = np.arange(6, dtype="<f2").reshape(2, 3)
        storage.write("rows", [b"head", numbers.data, memoryview(b""), b"tail"])
        assert storage.read("rows") == b"head" + numbers.tobytes() + b"tail"
        storage.write("rows", numbers.data)
        assert storage.read("rows") == numbers.tobytes()

    def test_a_file_may_be_empty(self, storage: Storage) -> None:
        storage.write("empty", b"")
        assert storage.read("empty") == b""
        assert storage.size("empty") == 0
        assert storage.read_into("empty", memoryview(bytearray(3)), offset=0) == 0

    def test_a_range_lands_in_an_array(self, storage: Storage) -> None:
        numbers = np.arange(40, dtype="<f4")
        storage.write("rows", numbers.data)
        row = np.empty((2, 5), "<f4")
        assert storage.read_into("rows", row.data, offset=4 * 10) == row.nbytes
        np.testing.assert_array_equal(row, numbers[10:20].reshape(2, 5))

    def test_a_range_is_short_only_where_the_file_ends(self, storage: Storage) -> None:
        storage.write("file", b"0123456789")
        buffer = bytearray(b"......")
        assert storage.read_into("file", memoryview(buffer), offset=8) == 2
        assert bytes(buffer) == b"89...."
        assert storage.read_into("file", memoryview(buffer), offset=10) == 0
        assert storage.read_into("file", memoryview(buffer), offset=99) == 0
        assert storage.read_into("file", memoryview(b""), offset=0) == 0

    def test_a_file_that_is_not_there_says_so(self, storage: Storage) -> None:
        storage.write("folder/file", b"x")
        for name in ("none", "folder/none", "folder/file/none"):
            with pytest.raises(OSError, match="none"):
                storage.read(name)
            assert storage.size(name) is None
            assert storage.identity(name) is None
        with pytest.raises(FileNotFoundError, match="none"):
            storage.read_into("none", memoryview(bytearray(1)), offset=0)
        assert storage.size("folder") is None

    def test_identity_changes_with_the_file_and_only_then(self, storage: Storage) -> None:
        storage.write("file", b"old")
        old = storage.identity("file")
        storage.write("other", b"new")
        assert storage.identity("file") == old is not None
        storage.write("file", b"new")
        assert storage.identity("file") != old

    def test_a_list_has_what_is_below_a_folder(self, storage: Storage) -> None:
        names = ["b", "a/two", "a/one", "a/deep/er", "ab/no"]
        for name in names:
            storage.write(name, b"x")
        assert storage.list("") == sorted(names)
        assert storage.list("a") == ["a/deep/er", "a/one", "a/two"]
        assert storage.list("b") == []
        assert storage.list("nothing") == []

    def test_the_entries_of_the_root_are_files_and_folders_by_name(self, storage: Storage) -> None:
        assert storage.entries() == []
        for name in ("b/c/d", "b/e", "a", "x.partial"):
            storage.write(name, b"1")
        assert storage.entries() == ["a", "b"]

    def test_locks_and_partial_files_are_in_no_list(self, storage: Storage) -> None:
        for name in (".lock", ".lock.json", "a/x.json.1234.partial", "a/x.json"):
            storage.write(name, b"x")
        assert storage.list("") == ["a/x.json"]

    def test_removed_files_are_gone_and_missing_ones_are_fine(self, storage: Storage) -> None:
        for name in ("a/one", "a/two", "a/[12]"):
            storage.write(name, b"x")
        storage.remove("a/one", "a/none", "a/one", "a/[12]")
        assert storage.list("") == ["a/two"]

    @pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd", "", "a//b", "./a"])
    def test_a_name_that_leads_outside_is_refused(self, storage: Storage, name: str) -> None:
        with pytest.raises(StoreError, match="not the name of a file inside a store"):
            storage.write(name, b"x")
        with pytest.raises(StoreError, match="not the name of a file inside a store"):
            storage.read(name)

    def test_it_exists_once_it_holds_something(self, location: str) -> None:
        storage = open_storage(location)
        assert not storage.exists()
        assert storage.list("") == []
        storage.create()
        storage.create()
        storage.write("file", b"x")
        assert storage.exists()

    def test_its_location_and_its_pickle_lead_to_the_same_files(self, storage: Storage) -> None:
        storage.write("file", b"x")
        assert open_storage(storage.location).read("file") == b"x"
        assert pickle.loads(pickle.dumps(storage)).read("file") == b"x"
        assert storage.location.endswith("/my störe")

    def test_of_two_writers_of_a_name_one_wins_whole(self, storage: Storage) -> None:
        contents = [bytes([letter]) * 200_000 for letter in b"abcd"]
        threads = [
            threading.Thread(target=storage.write, args=("folder/file", content))
            for content in contents
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert storage.read("folder/file") in contents
        assert storage.list("") == ["folder/file"]

    def test_a_second_run_is_refused_until_the_first_ends(self, storage: Storage) -> None:
        with storage.lock() as lock:
            lock.check()
            words = rf"another run .host .+, pid {os.getpid()}, since 2.+ is writing to it"
            with pytest.raises(StoreError, match=words), storage.lock():
                pass
            lock.check()
        with storage.lock():
            pass

    def test_the_lock_is_given_back_by_a_run_that_fails(self, storage: Storage) -> None:
        with pytest.raises(ValueError, match="broken"), storage.lock():
            raise ValueError("broken")
        with storage.lock():
            pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "s3"])
class TestSeveralProcesses:
    def test_what_another_process_writes_is_seen(self, storage: Storage) -> None:
        storage.write("a/mine", b"1")
        assert storage.list("") == ["a/mine"]
        assert storage.size("a/theirs") is None
        program = (
            "import sys; from muse.pipeline.storage.files import open_storage as o;"
            "s = o(sys.argv[1]); s.write('a/theirs', b'22'); s.write('a/mine', b'333'); print(1)"
        )
        _end(_start(program, storage.location))
        assert storage.list("") == ["a/mine", "a/theirs"]
        assert storage.size("a/mine") == 3

    def test_another_process_is_refused(self, storage: Storage) -> None:
        other = _start(HOLD, storage.location)
        try:
            with pytest.raises(StoreError, match=f"pid {other.pid}, "), storage.lock():
                pass
        finally:
            _end(other)
        with storage.lock():
            pass

    def test_the_lock_of_a_killed_process_is_free_at_once(self, storage: Storage) -> None:
        _end(_start(HOLD, storage.location), kill=True)
        with storage.lock() as lock:
            lock.check()

    def test_a_killed_writer_leaves_the_old_file_or_the_new_one(self, storage: Storage) -> None:
        for milliseconds in range(0, 60, 6):
            writer = _start(WRITE_FOR_EVER, storage.location)
            time.sleep(milliseconds / 1000)
            _end(writer, kill=True)
            assert storage.list("") in ([], ["a/file"])
            if storage.list(""):
                content = storage.read("a/file")
                assert content == content[:1] * 300_000
        storage.remove_partials()
        if isinstance(storage, LocalStorage):
            assert [path.name for path in Path(storage.location).rglob("*.partial")] == []


class _FailAt:
    """A function that fails at its k-th call, as a full or broken disk does."""

    def __init__(self, function: Any, k: int) -> None:
        self.function, self.left = function, k

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.EIO, "injected")
        return self.function(*arguments, **options)


class TestLocalFiles:
    @pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_a_write_that_fails_leaves_a_whole_file(
        self, folder: LocalStorage, step: str, k: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.write("a/file", b"old")
        with monkeypatch.context() as broken:
            injected = _FailAt(getattr(os, step), k)
            broken.setattr(os, step, injected)
            try:
                folder.write("a/file", [b"ne", b"w"])
                failed = False
            except OSError as error:
                failed = error.strerror == "injected"
        assert failed == (injected.left <= 0)
        assert failed or k > 1
        # fsync no. 2 is the folder's: the file is there, but perhaps not after a power cut.
        is_new = not failed or (step, k) in (("fsync", 2), ("open", 2))
        assert folder.read("a/file") == (b"new" if is_new else b"old")
        assert [path.name for path in Path(folder.location, "a").iterdir()] == ["file"]

    def test_bytes_reach_the_disk_before_the_name_and_the_folder_after_it(
        self, folder: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def spy_fsync(descriptor: int) -> None:
            target = Path(f"/proc/self/fd/{descriptor}").readlink()
            steps.append(f"sync {'file' if target.suffix == '.partial' else target.name}")
            fsync(descriptor)

        def spy_replace(source: Any, target: Any) -> None:
            steps.append(f"name {Path(target).name}")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", spy_fsync)
        monkeypatch.setattr(os, "replace", spy_replace)
        folder.write("a/b/file", b"x")
        assert steps == ["sync store", "sync a", "sync file", "name file", "sync b"]
        steps.clear()
        folder.write("a/b/file", b"y")
        assert steps == ["sync file", "name file", "sync b"]
        # Another process finds the folders, and can't know whether their own names are on the disk.
        steps.clear()
        LocalStorage(Path(folder.location)).write("a/b/file", b"z")
        assert steps == ["sync store", "sync a", "sync file", "name file", "sync b"]

    def test_short_writes_and_reads_are_gone_on_with(
        self, folder: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, preadv = os.write, os.preadv
        monkeypatch.setattr(os, "write", lambda file, view: write(file, view[:3]))
        monkeypatch.setattr(
            os, "preadv", lambda file, views, offset: preadv(file, [views[0][:3]], offset)
        )
        folder.write("file", b"0123456789")
        buffer = bytearray(8)
        assert folder.read_into("file", memoryview(buffer), offset=1) == 8
        assert bytes(buffer) == b"12345678"

    def test_partial_files_of_killed_writers_are_removed(self, folder: LocalStorage) -> None:
        folder.write("a/b/file", b"x")
        left = Path(folder.location, "a/b/file.0a1b2c3d.partial")
        left.write_bytes(b"half")
        folder.remove_partials()
        assert not left.exists()
        assert folder.read("a/b/file") == b"x"

    def test_a_root_that_disappeared_is_not_made_again(self, folder: LocalStorage) -> None:
        folder.write("a/file", b"x")
        shutil.rmtree(folder.location)
        for name in ("file", "a/file", "new/file"):
            with pytest.raises(FileNotFoundError, match="has disappeared"):
                folder.write(name, b"x")
        assert not Path(folder.location).exists()
        assert not folder.exists()
        folder.remove("file")
        assert folder.list("") == []

    def test_a_folder_below_the_root_that_disappeared_is_made_again(
        self, folder: LocalStorage
    ) -> None:
        folder.write("a/file", b"x")
        shutil.rmtree(f"{folder.location}/a")
        folder.write("a/file", b"y")
        assert folder.read("a/file") == b"y"

    def test_folders_that_are_links_are_followed(
        self, folder: LocalStorage, tmp_path: Path
    ) -> None:
        (tmp_path / "other disk").mkdir()
        Path(folder.location, "tokens").symlink_to(tmp_path / "other disk")
        folder.write("tokens/c/0", b"x")
        assert folder.list("") == ["tokens/c/0"]

    def test_a_new_root_s_name_is_on_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[Path] = []
        monkeypatch.setattr(
            os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink())
        )
        LocalStorage(tmp_path / "a" / "b").create()
        assert synced == [tmp_path, tmp_path / "a"]

    def test_a_file_in_the_root_s_place_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(OSError, match="file"):
            LocalStorage(tmp_path / "file").create()

    def test_free_bytes_are_known_before_the_folder_is_made(self, tmp_path: Path) -> None:
        free = LocalStorage(tmp_path / "a" / "b").free_bytes()
        assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)

    def test_no_descriptor_stays_open(self, folder: LocalStorage) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        folder.write("a/file", b"x")
        folder.read_into("a/file", memoryview(bytearray(1)), offset=0)
        with folder.lock():
            pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestLocalLock:
    def test_its_holder_sees_that_the_folder_was_replaced(self, folder: LocalStorage) -> None:
        with folder.lock() as lock:
            shutil.rmtree(folder.location)
            with pytest.raises(StoreError, match="removed or replaced"):
                lock.check()
            folder.create()
            with folder.lock(), pytest.raises(StoreError, match="removed or replaced"):
                lock.check()

    def test_a_folder_that_is_not_there_can_not_be_locked(self, tmp_path: Path) -> None:
        with (
            pytest.raises(StoreError, match="can't be locked"),
            open_storage(tmp_path / "a").lock(),
        ):
            pass
        assert not (tmp_path / "a").exists()

    def test_a_file_system_without_locks_is_said_with_the_way_out(
        self, folder: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", flock)
        with pytest.raises(StoreError, match=r"has no file locks .No locks.*another disk"):
            folder.lock().__enter__()

    def test_a_lock_file_that_is_replaced_before_it_is_held_is_no_lock(
        self, folder: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Otherwise the next run would make a new file, and both would hold a lock.
        monkeypatch.setattr("fcntl.flock", lambda *_: Path(folder.location, ".lock").unlink(True))
        with pytest.raises(StoreError, match="removed or replaced"):
            folder.lock().__enter__()

    def test_children_of_a_killed_run_do_not_keep_it(self, folder: LocalStorage) -> None:
        run = _start(HOLD_WITH_CHILDREN, folder.location)
        assert run.stdout is not None
        children = [int(pid) for pid in (run.stdout.readline(), run.stdout.readline())]
        try:
            with pytest.raises(StoreError, match="another run"), folder.lock():
                pass
            run.kill()
            run.wait()
            with folder.lock():
                pass
            assert all(Path(f"/proc/{child}").exists() for child in children)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
            run.communicate()

    def test_a_damaged_lock_file_still_locks(self, folder: LocalStorage) -> None:
        with folder.lock():
            Path(folder.location, ".lock").write_text("{", encoding="utf-8")
            with pytest.raises(StoreError, match=r"host unknown, pid unknown"), folder.lock():
                pass


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_new_file_never_replaces_one(storage: FsspecStorage) -> None:
    storage.write_new("file", b"first")
    with pytest.raises(OSError, match="file"):
        storage.write_new("file", b"second")
    assert storage.read("file") == b"first"


class TestLease:
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return open_storage(f"memory:/{tmp_path}")

    @staticmethod
    def _held_by(storage: Storage, **fields: object) -> None:
        lease = {"token": "t", "host": "far", "pid": 7, "since": "noon", "machine": "other"}
        storage.write(".lock.json", json.dumps({**lease, **fields}).encode())

    def test_another_host_s_is_respected_and_says_how_long(self, storage: Storage) -> None:
        self._held_by(storage, renewed=time.time() - 30)
        words = r"host far, pid 7, since noon.* its lock ends in (59|60) s"
        with pytest.raises(StoreError, match=words):
            storage.lock().__enter__()

    def test_one_that_was_not_renewed_for_90_s_is_taken_over(self, storage: Storage) -> None:
        self._held_by(storage, renewed=time.time() - 91)
        with storage.lock() as lock:
            lock.check()

    def test_a_dead_process_of_this_machine_is_taken_over_at_once(self, storage: Storage) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        here = storage_lease._machine()
        self._held_by(storage, renewed=time.time(), pid=dead.pid, machine=here)
        with storage.lock():
            pass
        self._held_by(storage, renewed=time.time(), pid=os.getppid(), machine=here)
        with pytest.raises(StoreError, match="another run"):
            storage.lock().__enter__()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"renewed": "noon"}'])
    def test_one_that_is_damaged_does_not_lock_for_ever(
        self, storage: Storage, content: bytes
    ) -> None:
        storage.write(".lock.json", content)
        with storage.lock() as lock:
            lock.check()

    def test_a_holder_that_lost_it_stops_and_leaves_it_alone(self, storage: Storage) -> None:
        with storage.lock() as lock:
            self._held_by(storage, renewed=time.time())
            with pytest.raises(StoreError, match="has lost its lock"):
                lock.check()
        assert json.loads(storage.read(".lock.json"))["host"] == "far"

    def test_a_holder_whose_lease_was_removed_stops(self, storage: Storage) -> None:
        with storage.lock() as lock:
            storage.remove(".lock.json")
            with pytest.raises(StoreError, match="has lost its lock"):
                lock.check()
        assert storage.list("") == []

    def test_it_is_renewed_while_it_is_held_and_no_longer(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_lease, "RENEW_SECONDS", 0.01)
        with storage.lock():
            first = json.loads(storage.read(".lock.json"))["renewed"]
            deadline = time.monotonic() + 5
            while json.loads(storage.read(".lock.json"))["renewed"] == first:
                assert time.monotonic() < deadline
        assert storage.size(".lock.json") is None
        assert [thread for thread in threading.enumerate() if thread.name == "lease"] == []

    def test_a_store_that_fails_for_a_while_does_not_end_the_renewal(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(storage_lease, "RENEW_SECONDS", 0.01)
        with storage.lock() as lock:
            first = json.loads(storage.read(".lock.json"))["renewed"]
            with monkeypatch.context() as broken:
                broken.setattr(type(storage), "read", _unreachable)
                with pytest.raises(StoreError, match=r"can't be asked .*No route to host"):
                    lock.check()
                time.sleep(0.05)
            time.sleep(0.1)
            assert json.loads(storage.read(".lock.json"))["renewed"] > first
            lock.check()
        assert "could not be renewed" in caplog.text

    def test_of_two_takers_at_once_the_last_to_write_has_it(self, storage: Storage) -> None:
        # The first has written and is waiting when the second writes over it.
        self._held_by(storage, renewed=0)
        first, second = Lease(storage), Lease(storage)  # type: ignore[arg-type]
        outcome: list[object] = []

        def take() -> None:
            try:
                first.acquire(settle_seconds=0.3)
            except StoreError as error:
                outcome.append(error)

        thread = threading.Thread(target=take)
        thread.start()
        deadline = time.monotonic() + 5
        while json.loads(storage.read(".lock.json"))["host"] == "far":
            assert time.monotonic() < deadline
        storage.write(".lock.json", second._content())
        thread.join()
        second.check()
        assert len(outcome) == 1


def _unreachable(self: object, name: str) -> bytes:
    raise OSError(errno.EHOSTUNREACH, "No route to host")


class TestLocations:
    def test_a_path_and_its_file_url_are_the_same_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = f"{tmp_path}/50% é"
        for location in (
            folder,
            Path(folder),
            "50% é",
            f"{folder}/",
            f"file://{tmp_path}/50%25%20%C3%A9",
        ):
            assert open_storage(location).location == folder
        assert open_storage("file://localhost/a%20b").location == "/a b"
        assert open_storage("file:/a").location == "/a"

    @pytest.mark.parametrize("name", ["a::b", "x=1,y", "a:b", "./s3:/b", "a#b?c", "/a/s3://b"])
    def test_odd_names_are_folders(self, name: str) -> None:
        assert isinstance(open_storage(name), LocalStorage)

    @pytest.mark.parametrize(
        ("location", "words"),
        [
            ("", "not a path"),
            ("C:\\videos", "/mnt/c"),
            ("C:/videos", "/mnt/c"),
            ("file://server/share", "names another machine"),
            ("s3:/bucket/folder", "two slashes"),
            ("simplecache::s3://bucket", "'::'"),
            ("sftp://host/folder", "no store can be at 'sftp://'.*mount it"),
            ("foo://bar", "no store can be at 'foo://'.*s3://"),
            ("s3://", "names no bucket"),
        ],
    )
    def test_what_can_not_hold_a_store_is_refused(self, location: str, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            open_storage(location)

    def test_a_url_that_pathlib_has_flattened_is_refused(self) -> None:
        with pytest.raises(UsageError, match="two slashes"):
            open_storage(Path("s3://bucket/folder"))

    @pytest.mark.parametrize(
        ("url", "package"), [("s3://b/c", r"'muse-retrieval\[s3\]'"), ("gs://b/c", "gcsfs")]
    )
    def test_a_missing_package_is_named(
        self, url: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def get_filesystem_class(scheme: str) -> None:
            raise ImportError("Install it")

        monkeypatch.setattr("fsspec.get_filesystem_class", get_filesystem_class)
        with pytest.raises(UsageError, match=rf"not installed. Run: pip install {package}"):
            open_storage(url)


@pytest.mark.slow
class TestS3:
    @pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL"])
    def test_the_endpoint_comes_from_the_environment(self, bucket: str, variable: str) -> None:
        # AWS_ENDPOINT_URL is what all other tests use.
        environment = {**os.environ, variable: os.environ["AWS_ENDPOINT_URL"]}
        del environment["AWS_ENDPOINT_URL"]
        program = (
            "import sys; from muse.pipeline.storage.files import open_storage as o;"
            "o(sys.argv[1]).write('endpoint', b'x')"
        )
        location = f"{bucket}/{variable}"
        subprocess.run([sys.executable, "-c", program, location], env=environment, check=True)
        assert open_storage(location).list("") == ["endpoint"]

    def test_a_bucket_that_is_not_there_is_said(self, bucket: str) -> None:
        storage = open_storage("s3://no-such-bucket/store")
        assert not storage.exists()
        assert storage.list("") == []
        with pytest.raises(FileNotFoundError, match=r"bucket is not there.*s3://no-such-bucket"):
            storage.write("file", b"x")
        with pytest.raises(StoreError, match="Is its bucket there"):
            storage.lock().__enter__()

    def test_errors_of_its_libraries_are_os_errors_with_the_url(
        self, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_storage("s3://Not a bucket!/store")
        with pytest.raises(OSError, match=r"Invalid bucket name.*s3://Not a bucket!/store/file"):
            storage.write("file", b"x")

    def test_a_large_file_is_put_in_parts_and_read_whole(self, bucket: str) -> None:
        storage = open_storage(f"{bucket}/large")
        content = np.random.default_rng(0).bytes(110 * 2**20)
        storage.write("shard", content)
        assert storage.read("shard") == content
        buffer = bytearray(600_000)
        assert storage.read_into("shard", memoryview(buffer), offset=60 * 2**20) == 600_000
        assert buffer == content[60 * 2**20 :][:600_000]

    def test_it_works_on_in_a_forked_child(self, bucket: str) -> None:
        program = (
            "import os, sys; from muse.pipeline.storage.files import open_storage as o;"
            "s = o(sys.argv[1]); s.write('file', b'x'); pid = os.fork()\n"
            "if pid == 0: os._exit(0 if s.read('file') == b'x' else 1)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
        )
        location = f"{bucket}/fork"
        subprocess.run([sys.executable, "-c", program, location], check=True, timeout=60)
