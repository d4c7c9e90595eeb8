"""What is there of a benchmark: its annotation files, the sizes of its splits, its videos.

Counts and names alone: no video is opened, and nothing is refused but an unknown name. What is
missing, of another size or of another form is told, so that one look says all of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.annotations import find_annotation
from muse.pipeline.datasets.benchmark import (
    AnnotationFile,
    Benchmark,
    Size,
    benchmark_of,
    find_video,
    is_empty,
    merged,
    read_texts,
)
from muse.pipeline.datasets.videos import VideoFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """An annotation file that was looked for."""

    names: tuple[str, ...]
    """Any one of them would do."""
    path: Path | None
    is_optional: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitContent:
    """What a split's files list, and which of its videos are there."""

    num_videos: int
    num_captions: int
    missing: tuple[str, ...]
    """Ids without a file."""
    ambiguous: tuple[str, ...]
    """Ids that several files fit."""
    repeated_ids: tuple[str, ...]
    """Ids that the files list more than once."""
    num_repeated_captions: int
    """Captions that an earlier one of the split is equal to."""
    without_captions: tuple[str, ...]
    """Ids that are listed and have no text."""
    num_empty_captions: int = 0
    """In no number, and not extracted."""

    @property
    def num_present(self) -> int:
        """Videos of which there is exactly one file."""
        return self.num_videos - len(self.missing) - len(self.ambiguous)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInventory:
    """One split of a benchmark as it is on disk."""

    split: str
    label: str
    """The protocol's name, as numbers are quoted with."""
    files: tuple[FoundFile, ...]
    sizes: tuple[Size, ...]
    """Of the literature; empty where there is none."""
    content: SplitContent | None
    """None where an annotation file is missing, or something is wrong with one."""
    problem: str
    """What is wrong with an annotation file, its form or its place; else empty."""

    @property
    def has_files(self) -> bool:
        """True if every annotation file that it needs is there."""
        return all(file.path or file.is_optional for file in self.files)

    @property
    def has_published_size(self) -> bool:
        """True unless the literature has another number of videos or captions."""
        content = self.content
        return not self.sizes or (
            content is not None and any(_agrees(size, content) for size in self.sizes)
        )

    @property
    def is_whole(self) -> bool:
        """True if nothing is missing, ambiguous, listed twice or of another size."""
        content = self.content
        return (
            content is not None
            and content.num_present == content.num_videos
            and not content.repeated_ids
            and not content.without_captions
            and not content.num_empty_captions
            and self.has_published_size
        )


def take_inventory(
    name: str, root: Path, splits: Iterable[str] | None = None
) -> list[SplitInventory]:
    """Each split of a benchmark as it is on disk.

    Args:
        name: One of `benchmarks`.
        root: Holds the annotation files and, at any depth, the videos.
        splits: Which ones; None takes all.

    Raises:
        ManifestError: If the benchmark, the folder or a split is unknown.
    """
    benchmark = benchmark_of(name)
    folder = VideoFolder(root)
    chosen = list(benchmark.splits if splits is None else dict.fromkeys(splits))
    for split in chosen:
        benchmark.require_split(split)
    return [_of_split(benchmark, folder, root, split) for split in chosen]


def _of_split(benchmark: Benchmark, folder: VideoFolder, root: Path, split: str) -> SplitInventory:
    wanted = benchmark.splits[split]
    files: tuple[FoundFile, ...] = ()
    content, problem = None, ""
    try:
        files = tuple(_found(root, file) for file in wanted.files)
        if all(file.path or file.is_optional for file in files):
            content = _content(benchmark, folder, read_texts(benchmark, root, split))
    except ManifestError as error:
        problem = str(error)
    return SplitInventory(
        split=split,
        label=benchmark.label([split]),
        files=files,
        sizes=wanted.sizes,
        content=content,
        problem=problem,
    )


def _found(root: Path, file: AnnotationFile) -> FoundFile:
    path = find_annotation(root, *file.names)
    return FoundFile(names=file.names, path=path, is_optional=file.is_optional)


def _content(
    benchmark: Benchmark, folder: VideoFolder, texts: Sequence[tuple[str, list[str]]]
) -> SplitContent:
    captions = merged(texts)
    counts = Counter(video_id for video_id, _ in texts)
    missing, ambiguous = _without_file(benchmark, folder, captions)
    num_captions = sum(map(len, captions.values()))
    return SplitContent(
        num_videos=len(captions),
        num_captions=num_captions,
        missing=missing,
        ambiguous=ambiguous,
        repeated_ids=tuple(video_id for video_id, count in counts.items() if count > 1),
        num_repeated_captions=num_captions - len({t for each in captions.values() for t in each}),
        without_captions=tuple(video_id for video_id, each in captions.items() if not each),
        num_empty_captions=sum(is_empty(text) for _, each in texts for text in each),
    )


def _without_file(
    benchmark: Benchmark, folder: VideoFolder, ids: Mapping[str, object]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ids that no file fits, ids that several fit)."""
    missing, ambiguous = [], []
    for video_id in ids:
        try:
            if find_video(folder, benchmark, video_id) is None:
                missing.append(video_id)
        except ManifestError:
            ambiguous.append(video_id)
    return tuple(missing), tuple(ambiguous)


def _agrees(size: Size, content: SplitContent) -> bool:
    return size.num_videos in (None, content.num_videos) and size.num_captions in (
        None,
        content.num_captions,
    )
