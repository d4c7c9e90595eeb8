"""DiDeMo, paragraph to video: all descriptions of a video, in file order, are one text.

Files: ``train_data.json``, ``val_data.json``, ``test_data.json`` of LocalizingMoments and, if
there, ``train_list.txt`` and so on, which choose among them; or ``didemo_train_label.csv`` and so
on (success, video_path, starts, ends, text, formatted_data), which have the paragraphs joined. Ids
are matched on their stem, since the extension of a downloaded file often differs from the
annotation's. Papers look at the first 31 s alone, since annotators saw no more, and so do we.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from muse.pipeline.datasets.annotations import (
    annotation_file,
    find_annotation,
    read_json,
    read_lines,
    read_rows,
    text_field,
)
from muse.pipeline.datasets.benchmark import AnnotationFile, Benchmark, Size, Split, Texts
from muse.pipeline.header import Sampling
from muse.pipeline.window import Window


def read_split(root: Path, split: str) -> Texts:
    """The paragraph of each video of a split."""
    file = annotation_file(root, *_names(split))
    if file.suffix == ".csv":
        rows = read_rows(file, needed=("video_path", "text"))
        return [(_stem(PurePosixPath(row["video_path"]).name), [row["text"]]) for row in rows]
    descriptions: dict[str, list[str]] = defaultdict(list)
    for number, moment in enumerate(read_json(file)):
        where = f"{file}, moment {number}"
        text = text_field(moment, "description", where=where)
        descriptions[_stem(text_field(moment, "video", where=where))].append(text.strip())
    ids = _ids(root, split) or list(descriptions)
    return [(i, [" ".join(descriptions[i])] if i in descriptions else []) for i in ids]


def _names(split: str) -> tuple[str, str]:
    return f"{split}_data.json", f"didemo_{split}_label.csv"


def _ids(root: Path, split: str) -> list[str] | None:
    file = find_annotation(root, f"{split}_list.txt")
    return None if file is None else [_stem(line) for line in read_lines(file)]


def _stem(name: str) -> str:
    # Ids hold dots and may end in one ("10052357@N03_7585070382_5762149bfc."): cut the last part.
    return name.rpartition(".")[0] or name


def _file_names(video_id: str) -> Iterable[str]:
    return (video_id, f"{video_id}.")  # the latter where an extension was put after the dot


def _split(name: str, *num_videos: int) -> Split:
    return Split(
        files=(
            AnnotationFile(names=_names(name)),
            AnnotationFile(names=(f"{name}_list.txt",), is_optional=True),
        ),
        sizes=tuple(Size(num_videos=number, num_captions=number) for number in num_videos),
    )


DIDEMO = Benchmark(
    title="DiDeMo (paragraph)",
    splits={
        "train": _split("train", 8395, 8362),  # the JSON with its list, the label CSV
        "val": _split("val", 1065, 1062),
        "test": _split("test", 1004),
    },
    read_split=read_split,
    source="The LocalizingMoments project has the JSON files in its folder data, and says where "
    "the videos are.",
    file_names=_file_names,
    sampling=Sampling(num_frames=64),
    text_length=64,
    window=Window(start_seconds=0, end_seconds=31),
)
