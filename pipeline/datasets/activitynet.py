"""ActivityNet Captions, paragraph to video: all sentences of a video are one text.

Files: ``train.json`` and ``val_1.json`` ({id: {duration, timestamps, sentences}}) of the captions
release; ``train_ids.json`` and ``val_ids.json``, if there, choose among them. The test of the
literature is val1. Videos are found with and without the ids' ``v_``.
"""

from collections.abc import Iterable
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.benchmark import Benchmark, Texts, annotation_file, read_json

_FILES = {"train": ("train.json", "train_ids.json"), "test": ("val_1.json", "val_ids.json")}


def read_split(root: Path, split: str) -> Texts:
    """The paragraph of each video of a split."""
    annotations_name, ids_name = _FILES[split]
    annotations = read_json(annotation_file(root, annotations_name))
    ids = _ids(root, ids_name) or list(annotations)
    return {
        video_id: [" ".join(s.strip() for s in annotations[video_id]["sentences"])]
        for video_id in ids
        if video_id in annotations
    }


def _ids(root: Path, name: str) -> list[str] | None:
    try:
        file = annotation_file(root, name)
    except ManifestError:
        return None
    ids: list[str] = read_json(file)
    return ids


def _file_names(video_id: str) -> Iterable[str]:
    return (video_id, video_id.removeprefix("v_"))


ACTIVITYNET = Benchmark(
    title="ActivityNet Captions (paragraph, val1)",
    splits=("train", "test"),
    read_split=read_split,
    file_names=_file_names,
)
