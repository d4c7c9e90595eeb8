"""Video files in a folder, found by name, by path or by stem.

Users' files seldom have the extension, or the folder, that an annotation file was written for: ids
are matched on the path, then on the name, then on the stem, and an ambiguous one is an error. Where
a file's name is not UTF-8, the bytes that are not are escaped in its id and for matching.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.records import printable

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".webm", ".wmv",
})
# fmt: on


class VideoFolder:
    """The video files below a folder.

    Args:
        root: The folder, searched to any depth; hidden files and folders are passed over.

    Raises:
        ManifestError: If it is not a folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ManifestError(
                f"{printable(root)}: no such folder. Name the folder that holds the videos."
            )
        self.root = root.absolute()  # a worker of Ray may have another working directory
        self.files = tuple(sorted(_video_files(self.root)))
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            self._by_name[printable(Path(file.name))].append(file)
            self._by_stem[printable(Path(file.stem))].append(file)

    def id_of(self, file: Path) -> str:
        """A file's id: its path below the folder, with its extension, as UTF-8.

        Two files have one id where one is called by what stands for the other's bytes.
        """
        return printable(file.relative_to(self.root))

    def find(self, name: str) -> Path | None:
        """The file that a name means: a path below the folder, a file name, or a stem.

        The extension may differ. A folder in the name may not: ``sports/2.mp4`` never means
        ``cooking/2.mp4``. An absolute name outside the folder goes by its last part.

        Raises:
            ManifestError: If the name fits several files.
        """
        direct = Path(os.path.normpath(self.root / name))
        is_below = direct.is_relative_to(self.root)
        if is_below and _is_file(direct):
            return direct
        bare = direct.stem if direct.suffix.lower() in VIDEO_SUFFIXES else direct.name
        has_folder = is_below and direct.parent != self.root
        folder = printable(direct.parent)
        for candidates in (self._by_name.get(direct.name, []), self._by_stem.get(bare, [])):
            fitting = [f for f in candidates if not has_folder or printable(f.parent) == folder]
            if fitting:
                return _only(fitting, name)
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a caption that stands where a name should is too long for one
        return False


def _only(candidates: list[Path], name: str) -> Path:
    if len(candidates) > 1:
        raise ManifestError(
            f"{name!r} fits {len(candidates)} files: {printable(candidates[0])}, "
            f"{printable(candidates[1])}. "
            "Write its path below the folder."
        )
    return candidates[0]


def _video_files(root: Path) -> Iterable[Path]:
    for file in root.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if not hidden and file.suffix.lower() in VIDEO_SUFFIXES and not file.is_dir():
            yield file
