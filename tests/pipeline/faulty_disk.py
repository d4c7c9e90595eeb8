"""A disk that fails at a chosen operation, and what is left of it after a power cut.

Counts what changes a folder: creating, writing and syncing files, naming, removing, making folders.
Beside the real files it keeps what a disk would still have after a crash: a file's bytes are safe
once the file was synced, a name once its folder was. Knows nothing of stores.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

Fault = Literal["full", "read-only", "error", "cut"]
"""From the chosen operation on: no space, no write at all, one input/output error, no power."""
Remains = Literal["all", "names", "synced"]
"""What a cut leaves: all that was done, all names with the bytes that were synced, the synced."""
_NEEDS_SPACE = {"create", "write", "mkdir"}
_ERRNO = {"full": errno.ENOSPC, "read-only": errno.EROFS, "error": errno.EIO}


class PowerCutError(BaseException):
    """The process is no more: nothing may catch this and go on."""


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


_Names = dict[Path, dict[str, "_File | None"]]  # folder -> name -> file, None for a folder


class FaultyDisk:
    """Watches a folder that may not be there yet; everything else works as always."""

    def __init__(self, folder: Path, *, fault: Fault | None = None, at: int = 0) -> None:
        self.operations: list[str] = []
        """All so far, each as ``verb name``."""
        self._folder, self._fault, self._at = folder, fault, at
        self._is_cut = False
        self._names: _Names = {}
        self._safe_names: _Names = {}
        self._opened: dict[int, Path | _File] = {}
        self._real = {name: getattr(os, name) for name in _HOOKS}
        self._note_what_is_there()

    @contextlib.contextmanager
    def watched(self) -> Iterator["FaultyDisk"]:
        """While this lasts, operations are counted, and one of them fails."""
        with pytest.MonkeyPatch.context() as patch:
            for name, hook in _HOOKS.items():
                patch.setattr(os, name, lambda *args, _hook=hook, **kw: _hook(self, *args, **kw))
            yield self

    def restart(self, remains: Remains) -> None:
        """The folder as the machine finds it when the power is back."""
        names = self._safe_names if remains == "synced" else self._names
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.name in names[self._folder.parent]:
            self._put_back(self._folder, names, whole=remains == "all")

    def _put_back(self, folder: Path, names: _Names, *, whole: bool) -> None:
        folder.mkdir()
        for name, file in names[folder].items():
            if file is None:
                self._put_back(folder / name, names, whole=whole)
            else:
                (folder / name).write_bytes(file.content if whole else file.synced)

    def _note_what_is_there(self) -> None:
        self._note(self._folder.parent, {})
        if self._folder.is_dir():
            self._names[self._folder.parent][self._folder.name] = None
            for parent, folders, files in os.walk(self._folder):
                here: dict[str, _File | None] = dict.fromkeys(folders)
                for name in files:
                    content = Path(parent, name).read_bytes()
                    here[name] = _File(bytearray(content), content)
                self._note(Path(parent), here)
        self._safe_names = {path: dict(names) for path, names in self._names.items()}

    def _note(self, folder: Path, names: dict[str, _File | None]) -> None:
        self._names[folder] = names

    def _is_watched(self, path: Path) -> bool:
        return path == self._folder or self._folder in path.parents

    def _count(self, verb: str, path: Path) -> None:
        """Notes an operation that is about to be done, and fails it if it is to fail."""
        if self._is_cut:
            raise PowerCutError
        self.operations.append(f"{verb} {os.path.relpath(path, self._folder)}")
        number = len(self.operations)
        if self._fault is None or number < self._at:
            return
        if self._fault == "cut":
            self._is_cut = True
            raise PowerCutError
        is_hit = {
            "full": verb in _NEEDS_SPACE,
            "read-only": True,
            "error": number == self._at,
        }[self._fault]
        if is_hit:
            code = _ERRNO[self._fault]
            raise OSError(code, os.strerror(code), str(path))


def _open(disk: FaultyDisk, path: Any, flags: int, *args: Any, **kw: Any) -> int:
    file = Path(path)
    if not disk._is_watched(file) and file != disk._folder.parent:
        opened: int = disk._real["open"](path, flags, *args, **kw)
        return opened
    if flags & os.O_CREAT:
        disk._count("create", file)
    elif disk._is_cut:
        raise PowerCutError
    opened = disk._real["open"](path, flags, *args, **kw)
    if flags & os.O_DIRECTORY:
        disk._opened[opened] = file
    elif flags & os.O_CREAT:
        known = disk._names[file.parent].setdefault(file.name, _File())
        assert known is not None
        disk._opened[opened] = known
    return opened


def _close(disk: FaultyDisk, descriptor: int) -> None:
    disk._opened.pop(descriptor, None)
    disk._real["close"](descriptor)


def _write(disk: FaultyDisk, descriptor: int, content: Any) -> int:
    file = disk._opened.get(descriptor)
    if not isinstance(file, _File):
        done: int = disk._real["write"](descriptor, content)
        return done
    half = bytes(content)[: len(content) // 2]
    try:
        disk._count("write", disk._folder)
    except PowerCutError:
        disk._real["write"](descriptor, half)
        file.content += half
        raise
    done = disk._real["write"](descriptor, content)
    file.content += bytes(content)[:done]
    return done


def _fsync(disk: FaultyDisk, descriptor: int) -> None:
    opened = disk._opened.get(descriptor)
    if opened is None:
        disk._real["fsync"](descriptor)
        return
    disk._count("sync", opened if isinstance(opened, Path) else disk._folder)
    disk._real["fsync"](descriptor)
    if isinstance(opened, _File):
        opened.synced = bytes(opened.content)
    else:
        disk._safe_names[opened] = dict(disk._names[opened])


def _replace(disk: FaultyDisk, source: Any, target: Any, **kw: Any) -> None:
    old, new = Path(source), Path(target)
    if not disk._is_watched(new):
        disk._real["replace"](source, target, **kw)
        return
    disk._count("rename", new)
    disk._real["replace"](source, target, **kw)
    disk._names[new.parent][new.name] = disk._names[old.parent].pop(old.name)


def _unlink(disk: FaultyDisk, path: Any, **kw: Any) -> None:
    file = Path(path)
    if not disk._is_watched(file):
        disk._real["unlink"](path, **kw)
        return
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    disk._count("remove", file)
    disk._real["unlink"](path, **kw)
    del disk._names[file.parent][file.name]


def _mkdir(disk: FaultyDisk, path: Any, *args: Any, **kw: Any) -> None:
    folder = Path(path)
    if not disk._is_watched(folder):
        disk._real["mkdir"](path, *args, **kw)
        return
    if folder.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    disk._count("mkdir", folder)
    disk._real["mkdir"](path, *args, **kw)
    disk._names[folder.parent][folder.name] = None
    disk._names[folder], disk._safe_names[folder] = {}, {}


_HOOKS: dict[str, Callable[..., Any]] = {
    "open": _open,
    "close": _close,
    "write": _write,
    "fsync": _fsync,
    "replace": _replace,
    "unlink": _unlink,
    "mkdir": _mkdir,
}
