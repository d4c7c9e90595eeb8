"""MSR-VTT with the 1k-A test (Yu et al. 2018, JSFusion) and both of its training sets.

Files: ``MSRVTT_data.json``, ``MSRVTT_train.9k.csv``, ``MSRVTT_train.7k.csv`` and
``MSRVTT_JSFUSION_test.csv``, as CLIP4Clip distributes them. A training video has 20 captions, a
test video the one that the test file gives it. There is no validation split.
"""

import csv
from collections import defaultdict
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.benchmark import Benchmark, Texts, annotation_file, read_json

_TRAIN_FILES = {"train": "MSRVTT_train.9k.csv", "train-7k": "MSRVTT_train.7k.csv"}


def read_split(root: Path, split: str) -> Texts:
    """The captions of each video of a split."""
    if split == "test":
        return _read_test(annotation_file(root, "MSRVTT_JSFUSION_test.csv"))
    sentences: dict[str, list[str]] = defaultdict(list)
    for sentence in read_json(annotation_file(root, "MSRVTT_data.json", "MSR_VTT.json"))[
        "sentences"
    ]:
        sentences[sentence["video_id"]].append(sentence["caption"])
    rows = _rows(annotation_file(root, _TRAIN_FILES[split]), needed=("video_id",))
    return {row["video_id"]: sentences[row["video_id"]] for row in rows}


def _read_test(file: Path) -> Texts:
    rows = _rows(file, needed=("video_id", "sentence"))
    return {row["video_id"]: [row["sentence"]] for row in rows}


def _rows(file: Path, *, needed: tuple[str, ...]) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise ManifestError(f"{file}: no column {missing[0]!r}; it has {reader.fieldnames}.")
        return list(reader)


MSRVTT = Benchmark(
    title="MSR-VTT 1k-A", splits=("train", "test", "train-7k"), read_split=read_split
)
