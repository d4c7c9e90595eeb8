"""The benchmarks by name, and what their readers share.

A reader turns a benchmark's annotation files into texts per video and split; which file a video is
and which are missing is decided here, once for all.
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.annotations import find_annotation
from muse.pipeline.datasets.videos import VideoFolder
from muse.pipeline.header import Sampling
from muse.pipeline.records import Caption, Listing, VideoRef
from muse.pipeline.window import ClipWindow, Window

Texts = Iterable[tuple[str, list[str]]]  # (video id, its captions) as listed, repeats included


_USUAL_SAMPLING = Sampling(kind="fps", fps=1.0, num_frames=12)  # CLIP4Clip, MUSE


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationFile:
    """A file that a split is read from."""

    names: tuple[str, ...]
    """Any one of them."""
    is_optional: bool = False
    """True where the others tell enough without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a split is in the literature; None where that is not told."""

    num_videos: int | None = None
    num_captions: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One of a benchmark's sets of videos."""

    files: tuple[AnnotationFile, ...]
    sizes: tuple[Size, ...] = ()
    """As published: one, or one for each of the forms that are about."""
    title: str = ""
    """Of the protocol, where it is another than the benchmark's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Where a clip lies in the video that it was cut from."""

    whole: str
    """Stem of that video's file."""
    window: Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A dataset with a published protocol."""

    title: str
    """As papers write it."""
    splits: Mapping[str, Split]
    """By the names that ``--split`` takes; the first are the usual ones."""
    read_split: Callable[[Path, str], Texts]
    """(root, split) -> the captions of each video of that split."""
    source: str
    """Where people get the files, a sentence."""
    file_names: Callable[[str], Iterable[str]] = lambda video_id: (video_id,)
    """Stems under which users keep the video of an id."""
    read_axes: Callable[[Path], Mapping[str, str]] = lambda root: {}
    """root -> by video id, what its captions ask for, where the benchmark says."""
    sampling: Sampling = _USUAL_SAMPLING
    """Of the papers' set-up; what `muse extract` takes where it isn't told otherwise."""
    text_length: int | None = 32
    """Likewise the tokens at which texts are cut; None for the encoder's own limit."""
    window: Window | None = None
    """The part of a file, as it is distributed, that papers look at; None for all of it."""
    read_cuts: Callable[[Path, Iterable[str]], Mapping[str, Cut]] | None = None
    """(root, ids) -> where each lies in a whole video, for who has those; None where files don't
    tell."""

    def require_split(self, split: str) -> None:
        """Nothing, or a ManifestError where it has no such split."""
        if split not in self.splits:
            raise ManifestError(f"split {split!r}: {self.title} has {', '.join(self.splits)}.")

    def label(self, splits: Iterable[str]) -> str:
        """The protocol of some splits, such as ``MSVD train+test``."""
        grouped = itertools.groupby(splits, key=lambda split: self.splits[split].title)
        return " + ".join(f"{title or self.title} {'+'.join(group)}" for title, group in grouped)


def benchmarks() -> dict[str, Benchmark]:
    """The benchmarks that ``--dataset`` takes."""
    from muse.pipeline.datasets import activitynet, didemo, lsmdc, msrvtt, msvd, vatex, world

    return {
        "msvd": msvd.MSVD,
        "msrvtt": msrvtt.MSRVTT,
        "activitynet": activitynet.ACTIVITYNET,
        "didemo": didemo.DIDEMO,
        "lsmdc": lsmdc.LSMDC,
        "vatex": vatex.VATEX,
        "world": world.WORLD,
    }


def benchmark_of(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ManifestError: If there is none.
    """
    benchmark = benchmarks().get(name)
    if benchmark is None:
        raise ManifestError(f"dataset {name!r}: choose one of {', '.join(benchmarks())}.")
    return benchmark


def list_benchmark(
    name: str, root: Path, splits: Iterable[str], *, clip_window: ClipWindow = "preset"
) -> Listing:
    """The videos and captions of some splits of a benchmark.

    Args:
        name: One of `benchmarks`.
        root: Holds the annotation files and, at any depth, the videos.
        splits: One or more of the benchmark's, of which no two share a video.
        clip_window: One for all videos; ``preset`` for what papers look at in files as they are
            distributed; ``annotated`` to find each clip in the video that it was cut from;
            ``none`` for whole files.

    Raises:
        ManifestError: If the name, a split or an annotation file is unknown, or no video is there.
    """
    benchmark = benchmark_of(name)
    folder = VideoFolder(root)
    chosen = tuple(dict.fromkeys(splits))
    if len({_head_split(split) for split in chosen}) < len(chosen):
        raise ManifestError(f"splits {', '.join(chosen)}: these overlap. Choose one of them.")
    listed_of = {split: read_texts(benchmark, root, split) for split in chosen}
    texts_of = {split: merged(listed) for split, listed in listed_of.items()}
    num_empty = sum(is_empty(t) for each in listed_of.values() for _, texts in each for t in texts)
    _refuse_shared(texts_of)
    axes = benchmark.read_axes(root)
    captions = [
        Caption(video_id=video_id, text=text, split=_head_split(split), axis=axes.get(video_id, ""))
        for split, texts in texts_of.items()
        for video_id in texts
        for text in texts[video_id]
    ]
    ids = dict.fromkeys(video_id for texts in texts_of.values() for video_id in texts)
    videos = tuple(_refs(folder, benchmark, root, list(ids), clip_window))
    label = benchmark.label(chosen)
    if not videos:
        raise ManifestError(f"{root}: {label} has 0 videos in its files.")
    if not any(video.path for video in videos):
        raise ManifestError(
            f"{root}: none of the {len(videos)} videos of {label} is below it "
            f"(first: {_looked_for(benchmark, root, videos[0].video_id, clip_window)}). Name "
            f"their folder. {benchmark.source}"
        )
    return Listing(
        protocol=label, videos=videos, captions=tuple(captions), num_empty_captions=num_empty
    )


def _refs(
    folder: VideoFolder,
    benchmark: Benchmark,
    root: Path,
    ids: Sequence[str],
    clip_window: ClipWindow,
) -> Iterator[VideoRef]:
    if clip_window == "annotated":
        for video_id, cut in _cuts(benchmark, root, ids).items():
            path = folder.find(cut.whole)
            yield VideoRef(video_id=video_id, path=path, window=cut.window)
        return
    of_all = {"preset": benchmark.window, "none": None}
    window = clip_window if isinstance(clip_window, Window) else of_all[clip_window]
    for video_id in ids:
        path = find_video(folder, benchmark, video_id)
        yield VideoRef(video_id=video_id, path=path, window=window)


def _looked_for(benchmark: Benchmark, root: Path, video_id: str, clip_window: ClipWindow) -> str:
    if clip_window != "annotated":
        return video_id
    whole = _cuts(benchmark, root, [video_id])[video_id].whole
    return f"{whole}, the whole video that {video_id} was cut from"


def _cuts(benchmark: Benchmark, root: Path, ids: Iterable[str]) -> Mapping[str, Cut]:
    if benchmark.read_cuts is None:
        raise ManifestError(
            f"--clip-window annotated: the files of {benchmark.title} don't say where clips lie in "
            "whole videos. Write preset, none, or START:END in seconds."
        )
    try:
        return benchmark.read_cuts(root, ids)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{root}: can't tell where the clips of {benchmark.title} lie in whole videos "
            f"({type(error).__name__}: {error}). Write --clip-window preset, none, or START:END."
        ) from error


def cut_of_id(video_id: str) -> Cut:
    """Of an id that tells it: ``abc_5_15`` is seconds 5 to 15 of ``abc``.

    Raises:
        ValueError: If it does not.
    """
    whole, start, end = video_id.rsplit("_", 2)
    return Cut(whole=whole, window=Window(start_seconds=float(start), end_seconds=float(end)))


def cuts_of_ids(root: Path, ids: Iterable[str]) -> Mapping[str, Cut]:
    """`cut_of_id` of each, for `Benchmark.read_cuts`."""
    return {video_id: cut_of_id(video_id) for video_id in ids}


def read_texts(benchmark: Benchmark, root: Path, split: str) -> list[tuple[str, list[str]]]:
    """(video id, its captions) of a split, as its files list them.

    Raises:
        ManifestError: If the benchmark has no such split, or a file is missing or of another form.
    """
    benchmark.require_split(split)
    for file in benchmark.splits[split].files:
        if not file.is_optional and find_annotation(root, *file.names) is None:
            raise ManifestError(f"{root}: no {' or '.join(file.names)} in it. {benchmark.source}")
    try:
        return list(benchmark.read_split(root, split))
    except ManifestError:
        raise
    except (KeyError, TypeError, AttributeError, OSError, csv.Error, ValueError) as error:
        raise ManifestError(
            f"{root}: the files of {benchmark.title} {split} have another form than expected "
            f"({type(error).__name__}: {error}). {benchmark.read_split.__module__} says which."
        ) from error


def is_empty(text: str) -> bool:
    """Whether nothing can be asked by it."""
    return not text.strip()


def merged(texts: Texts) -> dict[str, list[str]]:
    """The captions by video, but for empty ones; one listed again adds those it did not have."""
    captions: dict[str, list[str]] = {}
    for video_id, texts_of_video in texts:
        known = captions.get(video_id)
        listed = [text for text in texts_of_video if not is_empty(text)]
        captions[video_id] = (
            listed if known is None else known + [t for t in listed if t not in known]
        )
    return captions


def find_video(folder: VideoFolder, benchmark: Benchmark, video_id: str) -> Path | None:
    """The file of an id, under any of the names that people give it.

    Raises:
        ManifestError: If several files fit.
    """
    return next(filter(None, map(folder.find, benchmark.file_names(video_id))), None)


def _head_split(split: str) -> str:
    """All training sets of MSR-VTT are ``train`` to a head."""
    return split.partition("-")[0]


def _refuse_shared(texts_of: Mapping[str, Mapping[str, object]]) -> None:
    for left, right in itertools.combinations(texts_of, 2):
        shared = [video_id for video_id in texts_of[left] if video_id in texts_of[right]]
        if shared:
            raise ManifestError(
                f"splits {left} and {right}: {len(shared)} videos are in both (first: "
                f"{shared[0]}), so that one would leak into the other. Extract them into two "
                "stores, or choose splits that share none."
            )
