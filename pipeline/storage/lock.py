"""One writer at a time in a local folder: a lock that the kernel frees when its holder dies.

The lock is ``flock`` on a file that stays; what the file says is for the message alone. Knows
nothing of what is written under the lock, nor of object stores: ``lease`` is theirs.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path

from muse.errors import StoreError
from muse.pipeline.storage.names import LOCK_FILE

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_held: set[int] = set()  # descriptors of this process, for a fork's child to close


class FolderLock:
    """A lock that is held on a folder."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor

    def check(self) -> None:
        """Returns if the folder is still the one that was locked.

        Raises:
            StoreError: If it was removed or replaced while this run was writing to it.
        """
        ours = os.fstat(self._descriptor)
        try:
            there = (self._folder / LOCK_FILE).stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise StoreError(
                f"{self._folder}: was removed or replaced while this run was writing to it. "
                "This run stops here; start it again."
            )


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[FolderLock]:
    """Holds the only write lock of a folder that is there.

    Raises:
        StoreError: If another run holds it, or the file system has no locks.
    """
    descriptor = _open_lock_file(folder)
    _close_in_forks()
    _held.add(descriptor)
    try:
        _acquire(folder, descriptor)
        lock = FolderLock(folder, descriptor)
        lock.check()  # the file may have been replaced before we held it
        _sign(descriptor)
        yield lock
    finally:
        if descriptor in _held:  # not in a fork's child
            _held.discard(descriptor)
            # Closing alone would wait for a child that is being forked just now.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def signature() -> dict[str, str | int]:
    """Who this process is, for the message to a second run."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def refusal(location: object, holder: object) -> str:
    """The message to a second run.

    Args:
        location: The store.
        holder: What the other run's `signature` reads as; anything, if it is damaged.
    """
    known = holder if isinstance(holder, dict) else {}
    host, pid, since = (known.get(field, "unknown") for field in ("host", "pid", "since"))
    return (
        f"{location}: another run (host {host}, pid {pid}, since {since}) is writing to it. "
        "Wait for it, or stop it."
    )


def _open_lock_file(folder: Path) -> int:
    try:
        # Python's descriptors are closed in programs that this one starts.
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(
            f"{folder}: can't be locked ({error.strerror}). Is it there, and may you write to it?"
        ) from error


def _acquire(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(refusal(folder, _read_signature(descriptor))) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StoreError(
            f"{folder}: its file system has no file locks ({error.strerror}), so a second run "
            "could not be kept out. Mount it with locks (Lustre: `-o flock`; NFS: without "
            "`nolock`), or extract into another disk and copy the store."
        ) from error


def _sign(descriptor: int) -> None:
    # On a full disk the lock holds all the same: it is the kernel's.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(signature()).encode(), 0)


def _read_signature(descriptor: int) -> object:
    try:
        return json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return None


@cache
def _close_in_forks() -> None:
    """Sees to it that a forked child, which would outlive us, does not keep the lock."""
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
