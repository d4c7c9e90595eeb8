"""VATEX, English: ten captions a video, many-caption evaluation, two test lists in use.

Files: ``vatex_data.json`` ({id: {enCap: [texts]}}) with ``train_list.txt``, ``val_list.txt``,
``test_list.txt`` (split ``test``) and ``test1k5_sec_list.txt`` (split ``test-sec``). The two lists
share 724 videos, and the second shares 776 with the validation list: papers that don't say which
they took can't be compared, so the protocol's name says it here. Ids are
``<youtube>_<start>_<end>``; many clips can no longer be had.
"""

from pathlib import Path

from muse.pipeline.datasets.annotations import (
    annotation_file,
    read_json,
    read_lines,
    texts_field,
)
from muse.pipeline.datasets.benchmark import (
    AnnotationFile,
    Benchmark,
    Size,
    Split,
    Texts,
    cuts_of_ids,
)

_CAPTIONS = ("vatex_data.json",)
_CAPTIONS_EACH = 10
_LISTS = {
    "train": "train_list.txt",
    "val": "val_list.txt",
    "test": "test_list.txt",
    "test-sec": "test1k5_sec_list.txt",
}


def read_split(root: Path, split: str) -> Texts:
    """The English captions of each video of a split."""
    file = annotation_file(root, *_CAPTIONS)
    content = read_json(file)
    for video_id in read_lines(annotation_file(root, _LISTS[split])):
        where = f"{file}, video {video_id}"
        has_some = video_id in content
        yield video_id, texts_field(content[video_id], "enCap", where=where) if has_some else []


def _split(name: str, num_videos: int) -> Split:
    return Split(
        files=(AnnotationFile(names=(_LISTS[name],)), AnnotationFile(names=_CAPTIONS)),
        sizes=(Size(num_videos=num_videos, num_captions=num_videos * _CAPTIONS_EACH),),
        title=f"VATEX (English, {_LISTS[name]})" if name.startswith("test") else "",
    )


VATEX = Benchmark(
    title="VATEX (English)",
    splits={
        "train": _split("train", 25991),
        "val": _split("val", 1500),
        "test": _split("test", 1500),
        "test-sec": _split("test-sec", 1500),
    },
    read_split=read_split,
    read_cuts=cuts_of_ids,
    source="CLIP2Video has the lists and vatex_data.json; the clips are cut from Kinetics-600 or "
    "YouTube by the times in their ids.",
)
