"""A file that appears whole, under its own name, or not at all.

For files outside of any store, such as exports; a store's own files are ``storage``'s. Knows
nothing of what the file holds.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from muse.errors import MuseError, StoreError
from muse.pipeline.storage.durable_files import sync_folder
from muse.pipeline.storage.names import PARTIAL_SUFFIX


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool, num_bytes: int = 0) -> Iterator[Path]:
    """A temporary name beside ``path``, which becomes ``path`` once the block ends well.

    Args:
        path: Its folder is made if it is not there.
        overwrite: Whether a file of that name is replaced, in the last moment.
        num_bytes: The least that will be written: a disk that can't take it is refused at once.

    Raises:
        StoreError: If the name is taken, or the file can't be written; nothing is left of it then.
    """
    _require_free(path, overwrite=overwrite)
    partial = path.with_name(f"muse-{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_room(path, num_bytes)
        yield partial
        _sync(partial)
        partial.replace(path)
        sync_folder(path.parent)
    except MuseError:  # some are an OSError too
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: can't be written ({_words(error)}). Nothing is left of it: mend that and "
            "export again, or name a file elsewhere."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # also after Ctrl-C
            partial.unlink()


def _require_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise StoreError(f"{path}: a folder is in the way. Name a file.")
    if path.exists() and not overwrite:
        raise StoreError(f"{path}: is there already. Name another file, or add --overwrite.")


def _require_room(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if num_bytes > free:
        raise StoreError(
            f"{path}: {num_bytes / 1e9:.1f} GB to write and {free / 1e9:.1f} GB free there. "
            "Make room, or name a file elsewhere."
        )


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(error: OSError) -> str:
    """The system's words: a library's own may run over several lines."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())
