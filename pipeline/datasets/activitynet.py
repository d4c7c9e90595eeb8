"""ActivityNet Captions, paragraph to video: all sentences of a video are one text.

Files: ``train.json``, ``val_1.json`` and ``val_2.json`` of the captions release ({id: {duration,
timestamps, sentences}}); ``train_ids.json`` and ``val_ids.json``, if there, choose among them. The
test of the literature is val1; val2 has other sentences for nearly the same videos, and the ids
that it lacks are not its own. Ids are matched, and videos found, with and without the ids' ``v_``.
"""

from collections.abc import Iterable
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.annotations import (
    annotation_file,
    find_annotation,
    read_json,
    texts_field,
)
from muse.pipeline.datasets.benchmark import AnnotationFile, Benchmark, Size, Split, Texts
from muse.pipeline.header import Sampling

_PREFIX = "v_"
_FILES = {
    "train": ("train.json", "train_ids.json"),
    "test": ("val_1.json", "val_ids.json"),
    "test-val2": ("val_2.json", "val_ids.json"),
}


def read_split(root: Path, split: str) -> Texts:
    """The paragraph of each video of a split."""
    annotations_name, ids_name = _FILES[split]
    file = annotation_file(root, annotations_name)
    annotations = read_json(file)
    name_of = {_bare(video_id): video_id for video_id in annotations}
    for listed in _ids(root, ids_name) or annotations:
        video_id = name_of.get(_bare(listed))
        if video_id is not None:
            where = f"{file}, video {video_id}"
            sentences = texts_field(annotations[video_id], "sentences", where=where)
            yield video_id, [" ".join(sentence.strip() for sentence in sentences)]
        elif split != "test-val2":
            yield listed, []


def _ids(root: Path, name: str) -> list[str] | None:
    file = find_annotation(root, name)
    if file is None:
        return None
    ids = read_json(file)
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ManifestError(f"{file}: expected a list of ids, found {ids!r:.80}")
    return ids


def _bare(video_id: str) -> str:
    return video_id.removeprefix(_PREFIX)


def _file_names(video_id: str) -> Iterable[str]:
    return (video_id, _bare(video_id), _PREFIX + video_id)


def _split(name: str, num_videos: int, title: str = "") -> Split:
    annotations, ids = _FILES[name]
    return Split(
        files=(
            AnnotationFile(names=(annotations,)),
            AnnotationFile(names=(ids,), is_optional=True),
        ),
        sizes=(Size(num_videos=num_videos, num_captions=num_videos),),
        title=title,
    )


ACTIVITYNET = Benchmark(
    title="ActivityNet Captions (paragraph, val1)",
    splits={
        "train": _split("train", 10009),
        "test": _split("test", 4917),
        "test-val2": _split("test-val2", 4885, "ActivityNet Captions (paragraph, val2)"),
    },
    read_split=read_split,
    source="The captions release (captions.zip) of the dense-captioning project has the annotation "
    "files; the videos are asked for at activity-net.org.",
    file_names=_file_names,
    sampling=Sampling(num_frames=64),
    text_length=64,
)
