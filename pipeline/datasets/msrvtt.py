"""MSR-VTT: the 1k-A test (Yu et al. 2018, JSFusion) with both of its training sets, the full split.

Files: ``MSRVTT_data.json``, ``MSRVTT_train.9k.csv``, ``MSRVTT_train.7k.csv`` and
``MSRVTT_JSFUSION_test.csv``, as CLIP4Clip distributes them. A training video has 20 captions, a
1k-A test video the one that the test file gives it; 1k-A has no validation split. The full split
(6,513 / 497 / 2,990 videos, 20 captions each) is ``MSRVTT_train.full.csv`` and so on where they are
there, else what the JSON says of each video. Its test shares 1,990 videos with 1k-A's training.
The JSON also has the seconds of the YouTube video that each clip was cut from.
"""

import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from muse.pipeline.datasets.annotations import (
    annotation_file,
    find_annotation,
    read_json,
    read_rows,
    text_field,
)
from muse.pipeline.datasets.benchmark import AnnotationFile, Benchmark, Cut, Size, Split, Texts
from muse.pipeline.window import Window

_SENTENCES = ("MSRVTT_data.json", "MSR_VTT.json")
_TEST = ("MSRVTT_JSFUSION_test.csv",)
_TRAIN_FILES = {"train": "MSRVTT_train.9k.csv", "train-7k": "MSRVTT_train.7k.csv"}
_FULL_FILES = {f"{name}-full": f"MSRVTT_{name}.full.csv" for name in ("train", "val", "test")}
_FULL_NAMES = {"train-full": "train", "val-full": "validate", "test-full": "test"}  # in the JSON


def read_split(root: Path, split: str) -> Texts:
    """The captions of each video of a split."""
    if split == "test":
        rows = read_rows(annotation_file(root, *_TEST), needed=("video_id", "sentence"))
        return [(row["video_id"], [row["sentence"]]) for row in rows]
    file = annotation_file(root, *_SENTENCES)
    content = read_json(file)
    sentences: dict[str, list[str]] = defaultdict(list)
    for number, sentence in enumerate(content["sentences"]):
        where = f"{file}, sentence {number}"
        caption = text_field(sentence, "caption", where=where)
        sentences[text_field(sentence, "video_id", where=where)].append(caption)
    ids = _listed_ids(root, split) or _ids_of_full(content["videos"], _FULL_NAMES[split])
    return [(video_id, sentences[video_id]) for video_id in ids]


def read_cuts(root: Path, ids: Iterable[str]) -> Mapping[str, Cut]:
    """Where each clip lies in its YouTube video, whose file has YouTube's id for a name."""
    file = annotation_file(root, *_SENTENCES)
    videos = {video["video_id"]: video for video in read_json(file)["videos"]}
    return {video_id: _cut(videos[video_id]) for video_id in ids}


def _cut(video: Mapping[str, Any]) -> Cut:
    query = urllib.parse.urlsplit(video["url"]).query
    (youtube_id,) = urllib.parse.parse_qs(query)["v"]
    window = Window(start_seconds=float(video["start time"]), end_seconds=float(video["end time"]))
    return Cut(whole=youtube_id, window=window)


def _listed_ids(root: Path, split: str) -> list[str]:
    """Those of the split's own file; none where the full split has none."""
    if split in _TRAIN_FILES:
        file = annotation_file(root, _TRAIN_FILES[split])
    else:
        found = find_annotation(root, _FULL_FILES[split])
        if found is None:
            return []
        file = found
    return [row["video_id"] for row in read_rows(file, needed=("video_id",))]


def _ids_of_full(videos: Iterable[dict[str, str]], name: str) -> list[str]:
    return [video["video_id"] for video in videos if video["split"] == name]


def _split(*names: str, videos: int, captions_each: int = 20, is_full: bool = False) -> Split:
    files = [AnnotationFile(names=(name,), is_optional=is_full) for name in names]
    if captions_each > 1:
        files.append(AnnotationFile(names=_SENTENCES))
    size = Size(num_videos=videos, num_captions=videos * captions_each)
    return Split(files=tuple(files), sizes=(size,), title="MSR-VTT full" if is_full else "")


MSRVTT = Benchmark(
    title="MSR-VTT 1k-A",
    splits={
        "train": _split(_TRAIN_FILES["train"], videos=9000),
        "test": _split(*_TEST, videos=1000, captions_each=1),
        "train-7k": _split(_TRAIN_FILES["train-7k"], videos=7010),
        "train-full": _split(_FULL_FILES["train-full"], videos=6513, is_full=True),
        "val-full": _split(_FULL_FILES["val-full"], videos=497, is_full=True),
        "test-full": _split(_FULL_FILES["test-full"], videos=2990, is_full=True),
    },
    read_split=read_split,
    read_cuts=read_cuts,
    source="CLIP4Clip's msrvtt_data.zip has the annotation files; the Frozen-in-Time project's "
    "MSRVTT.zip the videos.",
)
