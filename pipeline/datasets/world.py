"""The made world (`muse world make`), by the files that `muse.pipeline.world.world` describes."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from muse.errors import ManifestError, UsageError
from muse.pipeline.datasets.annotations import annotation_file
from muse.pipeline.datasets.benchmark import AnnotationFile, Benchmark, Split, Texts
from muse.pipeline.header import Sampling
from muse.pipeline.world.things import SPLITS
from muse.pipeline.world.world import CAPTION_COLUMNS, CAPTIONS_FILE, WORLD_FILE, read_world


def read_split(root: Path, split: str) -> Texts:
    """The captions of each video of a split."""
    texts: dict[str, list[str]] = defaultdict(list)
    for row in _rows(root):
        if row["split"] == split:
            texts[Path(row["video"]).stem].append(row["caption"])
    return texts.items()


def read_axes(root: Path) -> Mapping[str, str]:
    """What the captions of each video ask for."""
    return {Path(row["video"]).stem: row["axis"] for row in _rows(root)}


def _rows(root: Path) -> list[dict[str, str]]:
    folder = annotation_file(root, WORLD_FILE).parent
    try:
        world = read_world(folder)
    except UsageError as error:
        raise ManifestError(str(error)) from None
    file = folder / CAPTIONS_FILE
    rows = _readable_rows(file)
    if len({row["video"] for row in rows}) != world.num_videos:
        raise ManifestError(
            f"{file}: missing, damaged or not of this world's videos. `muse world make {folder}` "
            "writes it again, and keeps the videos."
        )
    return rows


def _readable_rows(file: Path) -> list[dict[str, str]]:
    """None of a file that is missing or has another form."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error):
        return []
    is_whole = all(list(row) == list(CAPTION_COLUMNS) and None not in row.values() for row in rows)
    return rows if is_whole else []


_FILES = (AnnotationFile(names=(WORLD_FILE,)),)  # of its captions the reader says how to mend them

WORLD = Benchmark(
    title="world",
    splits={split: Split(files=_FILES) for split in SPLITS},
    read_split=read_split,
    source="`muse world make` writes a world's files and videos.",
    read_axes=read_axes,
    sampling=Sampling(kind="uniform", num_frames=8),
    text_length=None,
)
"""Compositions of the test split are in no other; see `muse.pipeline.world.things`."""
