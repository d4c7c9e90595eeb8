"""Where a store's files are: a folder, or a place of an object store, behind one protocol.

A file appears whole or not at all, and once `Storage.write` has returned it survives a crash of the
machine. Names are relative to the store's root and written with ``/``. Knows nothing of what the
files hold. What is not a local folder is ``object_store``'s.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from muse.errors import UsageError
from muse.pipeline.storage.durable_files import Content, sync_folder, write_new
from muse.pipeline.storage.lock import lock_folder
from muse.pipeline.storage.names import PARTIAL_SUFFIX, is_hidden, require_name

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)")  # one letter is a drive of Windows
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class WriteLock(Protocol):
    """The right to write to a store, while it lasts."""

    def check(self) -> None:
        """Returns if the right is still this run's. To be asked before each commit.

        Raises:
            StoreError: If another run has taken it, or the store is gone.
        """
        ...


class Storage(Protocol):
    """The files of one store. What fails raises a plain OSError, a refused lock a StoreError.

    So is a name that leads outside the store. Locks, and files whose writer has not finished, are
    in no list.
    """

    @property
    def location(self) -> str:
        """An absolute folder or a URL; `open_storage` of it gives the same files elsewhere."""
        ...

    def exists(self) -> bool:
        """True if the folder is there, or the URL holds anything."""
        ...

    def read(self, name: str) -> bytes:
        """The whole of a file.

        Raises:
            FileNotFoundError: If it is not there.
            OSError: If it can't be read.
        """
        ...

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> int:
        """Fills a buffer from a file, from ``offset`` bytes on.

        Args:
            name: The file.
            buffer: Writable and contiguous, of any shape.
            offset: Bytes from the start of the file, >= 0.

        Returns:
            Bytes read; fewer than the buffer has only where the file ends.

        Raises:
            FileNotFoundError: If it is not there.
            OSError: If it can't be read.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        ...

    def identity(self, name: str) -> object | None:
        """Equal for as long as a file has not been replaced; None if it is not there."""
        ...

    def entries(self) -> list[str]:
        """Names of the files and folders directly in the root, sorted; hidden ones left out."""
        ...

    def list(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted; ``""`` is the root. Empty if it is absent."""
        ...

    def write(self, name: str, content: Content) -> None:
        """Puts a file there, whole or not at all, in place of one of that name.

        Raises:
            FileNotFoundError: If the root has disappeared; it is never made again.
            OSError: If it can't be written. The name then has its old content, or the whole new
                one where only its durability could not be had.
        """
        ...

    def remove(self, *names: str) -> None:
        """Removes files; those that are not there are fine."""
        ...

    def remove_partials(self) -> None:
        """Removes what killed writers left. For the lock's holder, while none of its own writes."""
        ...

    def create(self) -> None:
        """Makes the root, if it is not there."""
        ...

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where nobody knows."""
        ...

    def lock(self) -> AbstractContextManager[WriteLock]:
        """The right to write, held by one run at a time; given back when this run dies.

        Raises:
            StoreError: If another run has it.
        """
        ...


def open_storage(location: str | Path) -> Storage:
    """The files at a path, a ``file://`` URL or a URL of an object store. Touches none of them.

    Raises:
        UsageError: If nothing reads such a URL, or its package is not installed.
    """
    text = os.fspath(location)
    match = _SCHEME.match(text)
    if not text or _DRIVE.match(text) or "\0" in text:
        raise UsageError(
            f"{text!r}: not a path on this machine (a Windows drive is /mnt/c/... under WSL). "
            "Give a folder, or a URL such as s3://bucket/folder."
        )
    if match is None and "::" in text and "://" in text and not text.startswith(("/", ".")):
        raise UsageError(
            f"{text}: URLs chained with '::' are not supported. Give the store's own URL."
        )
    if match is None:
        return LocalStorage(Path(text))
    scheme, slashes = match[1].lower(), match[2]
    if scheme == "file":
        return LocalStorage(_path_of_file_url(text))
    if slashes != "//":  # also what pathlib makes of a URL
        raise UsageError(
            f"{text}: a URL has two slashes ({scheme}://...); a folder of that name needs its "
            "absolute path."
        )
    from muse.pipeline.storage.object_store import (
        FsspecStorage,  # heavy, and this module is below it
    )

    return FsspecStorage(text)


class LocalStorage:
    """A folder of this machine, or one that is mounted on it. Keeps no file open."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)  # noqa: PTH100 - keeps links, unlike Path.resolve
        self._settled: set[Path] = set()  # folders whose own entry is known to be on the disk

    @property
    def location(self) -> str:
        """The folder, absolute."""
        return self._root

    def exists(self) -> bool:
        """True if the folder is there."""
        return Path(self._root).is_dir()

    def read(self, name: str) -> bytes:
        """The whole of a file."""
        return Path(self._path(name)).read_bytes()

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> int:
        """Fills a buffer from a file."""
        if buffer.nbytes == 0:  # which memoryview can't cast
            return 0
        target = buffer.cast("B")
        descriptor = os.open(self._path(name), os.O_RDONLY)
        try:
            num_read = os.preadv(descriptor, [target], offset)
            while 0 < num_read < len(target):  # network disks give less; at the end, nothing
                step = os.preadv(descriptor, [target[num_read:]], offset + num_read)
                if step == 0:
                    break
                num_read += step
        finally:
            os.close(descriptor)
        return num_read

    def size(self, name: str) -> int | None:
        """Bytes of a file."""
        status = self._status(name)
        return None if status is None else status.st_size

    def identity(self, name: str) -> object | None:
        """Inode, times and size of a file."""
        status = self._status(name)
        if status is None:
            return None
        return (
            status.st_dev,
            status.st_ino,
            status.st_mtime_ns,
            status.st_ctime_ns,  # a copy can carry the old time of change; this one it can't
            status.st_size,
        )

    def entries(self) -> list[str]:
        """Names of the files and folders directly in the root."""
        if not self.exists():
            return []
        return sorted(p.name for p in Path(self._root).iterdir() if not is_hidden(p.name))

    def list(self, folder: str) -> list[str]:
        """Names of all files below a folder."""
        return sorted(name for name in self._names(folder) if not is_hidden(name))

    def write(self, name: str, content: Content) -> None:
        """Puts a file there: a temporary name, fsync, rename, fsync of the folder."""
        target = Path(self._path(name))
        self._make_folders(name)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        try:
            write_new(partial, content)
            partial.replace(target)
        except BaseException:  # also Ctrl-C
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        sync_folder(target.parent)

    def remove(self, *names: str) -> None:
        """Removes files, and sees to it that they stay removed."""
        folders = set()
        for name in names:
            path = Path(self._path(name))
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)

    def remove_partials(self) -> None:
        """Removes what killed writers left."""
        self.remove(*(name for name in self._names("") if name.endswith(PARTIAL_SUFFIX)))

    def create(self) -> None:
        """Makes the folder, and those above it."""
        root = Path(self._root)
        missing = [path for path in (root, *root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)
        if not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._root)

    def free_bytes(self) -> int | None:
        """Bytes free to this user on the folder's disk, or on the one it would be made on."""
        root = Path(self._root)
        for path in (root, *root.parents):
            with contextlib.suppress(OSError):
                disk = os.statvfs(path)
                return disk.f_bavail * disk.f_frsize
        return None

    def lock(self) -> AbstractContextManager[WriteLock]:
        """The right to write; the kernel frees it when this process dies."""
        return lock_folder(Path(self._root))

    def _path(self, name: str) -> str:
        require_name(name)
        return f"{self._root}/{name}"  # pathlib costs as much as a small read

    def _status(self, name: str) -> os.stat_result | None:
        try:
            status = os.stat(self._path(name))  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _names(self, folder: str) -> Iterator[str]:
        top = self._path(folder) if folder else self._root
        if not os.path.isdir(top):  # noqa: PTH112
            return
        for parent, _, files in os.walk(top, followlinks=True, onerror=_raise):
            for file in files:
                yield f"{parent}/{file}"[len(self._root) + 1 :]

    def _make_folders(self, name: str) -> None:
        """The folders between the root and a file, each with its entry on the disk."""
        if not self.exists():
            raise self._gone()
        for parent in reversed(PurePosixPath(name).parents[:-1]):  # never the root itself
            folder = Path(self._root, parent)
            try:
                folder.mkdir()
            except FileExistsError:
                # Perhaps another process made it just now: then its entry may not be there yet.
                if folder in self._settled:
                    continue
            except FileNotFoundError:
                raise self._gone() from None
            sync_folder(folder.parent)
            self._settled.add(folder)

    def _gone(self) -> FileNotFoundError:
        words = "the store's folder has disappeared; is its disk still mounted?"
        return FileNotFoundError(errno.ENOENT, words, self._root)


def _path_of_file_url(url: str) -> Path:
    rest = url[len("file:") :]
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest[1:])
    if host not in ("", "localhost") or not slash:
        raise UsageError(f"{url}: names another machine, or no path. Write file:///folder.")
    return Path("/" + unquote(path))


def _raise(error: OSError) -> None:
    raise error
