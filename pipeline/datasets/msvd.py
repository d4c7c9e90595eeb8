"""MSVD: 1,970 clips with some 40 captions each; many-caption evaluation.

Files: ``train_list.txt``, ``val_list.txt``, ``test_list.txt`` (1,200 / 100 / 670 ids) and
``captions_msvd.json`` ({id: [captions]}), as X-Pool distributes them.
"""

from pathlib import Path

from muse.pipeline.datasets.benchmark import (
    Benchmark,
    Texts,
    annotation_file,
    read_json,
    read_lines,
)


def read_split(root: Path, split: str) -> Texts:
    """The captions of each video of a split."""
    captions = read_json(annotation_file(root, "captions_msvd.json"))
    ids = read_lines(annotation_file(root, f"{split}_list.txt"))
    return {video_id: list(captions.get(video_id, [])) for video_id in ids}


MSVD = Benchmark(title="MSVD", splits=("train", "val", "test"), read_split=read_split)
