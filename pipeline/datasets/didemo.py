"""DiDeMo, paragraph to video: all descriptions of a video, in file order, are one text.

Files: ``train_data.json``, ``val_data.json``, ``test_data.json`` of LocalizingMoments and, if
there, ``train_list.txt`` and so on, which choose among them. Ids are matched on their stem, since
the extension of a downloaded file often differs from the annotation's.
"""

from collections import defaultdict
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.benchmark import (
    Benchmark,
    Texts,
    annotation_file,
    read_json,
    read_lines,
)


def read_split(root: Path, split: str) -> Texts:
    """The paragraph of each video of a split."""
    descriptions: dict[str, list[str]] = defaultdict(list)
    for moment in read_json(annotation_file(root, f"{split}_data.json")):
        descriptions[_stem(moment["video"])].append(moment["description"].strip())
    ids = _ids(root, split) or list(descriptions)
    return {i: [" ".join(descriptions[i])] for i in ids if i in descriptions}


def _ids(root: Path, split: str) -> list[str] | None:
    try:
        file = annotation_file(root, f"{split}_list.txt")
    except ManifestError:
        return None
    return list(dict.fromkeys(_stem(line) for line in read_lines(file)))


def _stem(name: str) -> str:
    # Ids hold dots and may end in one ("10052357@N03_7585070382_5762149bfc."): cut the last part.
    return name.rpartition(".")[0] or name


DIDEMO = Benchmark(
    title="DiDeMo (paragraph)", splits=("train", "val", "test"), read_split=read_split
)
