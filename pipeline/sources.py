"""Videos as files: their size, time and content hash, which are the same, and which have changed.

Knows nothing of what is in a video, and never opens what is not a regular file: a fifo would wait
for ever.
"""

import hashlib
import stat
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from muse.pipeline.records import SourceFile
from muse.pipeline.window import Window

ChangeTest = Literal["stat", "content"]


def source_of(path: Path, *, wants_sha256: bool = False) -> SourceFile | None:
    """A file's size, time and, if asked for, hash; None where it is no readable regular file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        sha256 = _sha256(path) if wants_sha256 else None
    except OSError:  # whoever decodes it will say why
        return None
    return SourceFile(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256)


def first_with_same_bytes(
    paths: Sequence[Path | None], windows: Sequence[Window | None] | None = None
) -> list[int | None]:
    """For each file the place of the first one with the same bytes before it, or None.

    Only files of equal size are read, and files of which other parts are wanted are not compared.
    """
    windows = windows or [None] * len(paths)
    places_of: dict[tuple[int, Window | None], list[int]] = defaultdict(list)
    for place, (path, window) in enumerate(zip(paths, windows, strict=True)):
        source = source_of(path) if path else None
        if source and source.size_bytes:
            places_of[source.size_bytes, window].append(place)
    first: list[int | None] = [None] * len(paths)
    for places in places_of.values():
        if len(places) > 1:
            _mark_equal(paths, places, first)
    return first


def same_bytes(left: Path | None, right: Path | None) -> bool:
    """True if both are files with the same bytes."""
    return first_with_same_bytes([left, right])[1] == 0


def has_changed(path: Path | None, committed: SourceFile, *, by: ChangeTest) -> bool:
    """True if a file is not what it was when it was decoded. One that is gone has not changed.

    Args:
        path: The file now.
        committed: The file then.
        by: ``content`` compares hashes, where one was taken then; ``stat`` size and time.
    """
    wants_sha256 = by == "content" and committed.sha256 is not None
    now = source_of(path, wants_sha256=wants_sha256) if path else None
    if now is None:
        return False
    if wants_sha256:
        return now.sha256 != committed.sha256
    return (now.size_bytes, now.mtime_ns) != (committed.size_bytes, committed.mtime_ns)


def _mark_equal(
    paths: Sequence[Path | None], places: Sequence[int], first: list[int | None]
) -> None:
    place_of: dict[str, int] = {}
    for place in places:
        path = paths[place]
        source = source_of(path, wants_sha256=True) if path else None
        if source and source.sha256:
            earlier = place_of.setdefault(source.sha256, place)
            first[place] = None if earlier == place else earlier


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
