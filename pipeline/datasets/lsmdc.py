"""LSMDC 2016: clips of films, one sentence a clip in the test of 1,000.

Files: ``LSMDC16_annos_training.csv``, ``LSMDC16_annos_val.csv`` and
``LSMDC16_challenge_1000_publictect.csv`` (spelt so): tabs between six columns, no header. A
training clip may have several rows, and then several captions. Videos are ``<film>/<clip_id>.avi``
or of any other extension, at any depth.
"""

from collections import defaultdict
from pathlib import Path

from muse.pipeline.datasets.annotations import annotation_file, read_tab_rows
from muse.pipeline.datasets.benchmark import AnnotationFile, Benchmark, Size, Split, Texts

_COLUMNS = (
    "clip_id",
    "start_aligned",
    "end_aligned",
    "start_extracted",
    "end_extracted",
    "sentence",
)
_FILES = {
    "train": ("LSMDC16_annos_training.csv",),
    "val": ("LSMDC16_annos_val.csv",),
    "test": (
        "LSMDC16_challenge_1000_publictect.csv",
        "LSMDC16_challenge_1000_publictest.csv",  # to whom the other looked like a slip
    ),
}


def read_split(root: Path, split: str) -> Texts:
    """The sentences of each clip of a split."""
    sentences: dict[str, list[str]] = defaultdict(list)
    for row in read_tab_rows(annotation_file(root, *_FILES[split]), columns=_COLUMNS):
        sentences[row["clip_id"]].append(row["sentence"])
    return sentences.items()


def _split(name: str, size: Size) -> Split:
    return Split(files=(AnnotationFile(names=_FILES[name]),), sizes=(size,))


LSMDC = Benchmark(
    title="LSMDC",
    splits={
        "train": _split("train", Size(num_captions=101079)),
        "val": _split("val", Size(num_captions=7408)),
        "test": _split("test", Size(num_videos=1000, num_captions=1000)),
    },
    read_split=read_split,
    source="The organisers of LSMDC give files and videos to whoever signs MPII's licence.",
)
