"""The benchmarks by name, and what their readers share.

A reader turns a benchmark's annotation files into texts per video and split; which file a video is
and which are missing is decided here, once for all.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse.errors import ManifestError
from muse.pipeline.datasets.videos import VideoFolder
from muse.pipeline.records import Caption, Listing, VideoRef

Texts = Mapping[str, list[str]]  # video id -> its captions


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A dataset with a published protocol."""

    title: str
    """As papers write it."""
    splits: tuple[str, ...]
    """The names that ``--split`` takes; the first are the usual ones."""
    read_split: Callable[[Path, str], Texts]
    """(root, split) -> the captions of each video of that split."""
    file_names: Callable[[str], Iterable[str]] = lambda video_id: (video_id,)
    """Stems under which users keep the video of an id."""
    read_axes: Callable[[Path], Mapping[str, str]] = lambda root: {}
    """root -> by video id, what its captions ask for, where the benchmark says."""


def benchmarks() -> dict[str, Benchmark]:
    """The benchmarks that ``--dataset`` takes."""
    from muse.pipeline.datasets import activitynet, didemo, msrvtt, msvd, world

    return {
        "msvd": msvd.MSVD,
        "msrvtt": msrvtt.MSRVTT,
        "activitynet": activitynet.ACTIVITYNET,
        "didemo": didemo.DIDEMO,
        "world": world.WORLD,
    }


def list_benchmark(name: str, root: Path, splits: Iterable[str]) -> Listing:
    """The videos and captions of some splits of a benchmark.

    Args:
        name: One of `benchmarks`.
        root: Holds the annotation files and, at any depth, the videos.
        splits: One or more of the benchmark's.

    Raises:
        ManifestError: If the name, a split or an annotation file is unknown, or no video is there.
    """
    benchmark = benchmarks().get(name)
    if benchmark is None:
        raise ManifestError(f"dataset {name!r}: choose one of {', '.join(benchmarks())}.")
    folder = VideoFolder(root)
    chosen = tuple(dict.fromkeys(splits))
    if len({_head_split(split) for split in chosen}) < len(chosen):
        raise ManifestError(f"splits {', '.join(chosen)}: these overlap. Choose one of them.")
    texts_of = {split: _read_split(benchmark, root, split) for split in chosen}
    axes = benchmark.read_axes(root)
    captions = [
        Caption(video_id=video_id, text=text, split=_head_split(split), axis=axes.get(video_id, ""))
        for split, texts in texts_of.items()
        for video_id in texts
        for text in texts[video_id]
    ]
    ids = dict.fromkeys(video_id for texts in texts_of.values() for video_id in texts)
    videos = tuple(VideoRef(video_id=i, path=_find(folder, benchmark, i)) for i in ids)
    if not videos:
        raise ManifestError(
            f"{root}: {benchmark.title} {'+'.join(chosen)} has 0 videos in its files."
        )
    if not any(video.path for video in videos):
        raise ManifestError(
            f"{root}: none of the {len(videos)} videos of {benchmark.title} "
            f"{'+'.join(chosen)} is below it (first: {videos[0].video_id}). Name their folder."
        )
    return Listing(
        protocol=f"{benchmark.title} {'+'.join(chosen)}", videos=videos, captions=tuple(captions)
    )


def _head_split(split: str) -> str:
    """Both training sets of MSR-VTT are ``train`` to a head."""
    return split.partition("-")[0]


def _read_split(benchmark: Benchmark, root: Path, split: str) -> Texts:
    if split not in benchmark.splits:
        raise ManifestError(
            f"split {split!r}: {benchmark.title} has {', '.join(benchmark.splits)}."
        )
    try:
        return benchmark.read_split(root, split)
    except ManifestError:
        raise
    except (KeyError, TypeError, AttributeError, OSError, csv.Error, ValueError) as error:
        raise ManifestError(
            f"{root}: the files of {benchmark.title} {split} have another form than expected "
            f"({type(error).__name__}: {error}). {benchmark.read_split.__module__} says which."
        ) from error


def _find(folder: VideoFolder, benchmark: Benchmark, video_id: str) -> Path | None:
    return next(filter(None, map(folder.find, benchmark.file_names(video_id))), None)


def annotation_file(root: Path, *names: str) -> Path:
    """The first of the names that is a file in a folder, or at any depth below it.

    Raises:
        ManifestError: If none is there.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    for name in names:
        if found := sorted(root.rglob(name)):
            return found[0]
    raise ManifestError(
        f"{root}: no {' or '.join(names)} in it. Put the benchmark's annotation files there."
    )


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ManifestError: If it is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{file}: can't be read as JSON: {error}.") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
