"""MSVD: 1,970 clips with some 40 captions each; many-caption evaluation.

Files: ``train_list.txt``, ``val_list.txt``, ``test_list.txt`` (1,200 / 100 / 670 ids) and either
``captions_msvd.json`` ({id: [captions]}), as X-Pool distributes them, or CLIP4Clip's
``raw-captions.pkl`` ({id: [[words]]}), of which plain values alone are read: it can run nothing.
An id is ``<youtube>_<start>_<end>``, which tells where it lies in a whole video.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from muse.errors import ManifestError
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

_CAPTIONS = ("captions_msvd.json", "raw-captions.pkl")


def read_split(root: Path, split: str) -> Texts:
    """The captions of each video of a split."""
    file = annotation_file(root, *_CAPTIONS)
    captions = read_json(file) if file.suffix == ".json" else _read_pickle(file)
    for video_id in read_lines(annotation_file(root, f"{split}_list.txt")):
        has_some = video_id in captions
        yield video_id, texts_field(captions, video_id, where=str(file)) if has_some else []


class _PlainValues(pickle.Unpickler):
    """Lists, dicts, texts and numbers; a pickle that names a class or a function is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _read_pickle(file: Path) -> Mapping[str, list[str]]:
    try:
        with file.open("rb") as stream:
            words_of = _PlainValues(stream, encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError) as error:
        raise ManifestError(
            f"{file}: can't be read as a pickle of plain lists: {error}. Use {_CAPTIONS[0]}."
        ) from error
    return {str(i): [" ".join(words) for words in sentences] for i, sentences in words_of.items()}


def _split(name: str, size: Size) -> Split:
    files = (AnnotationFile(names=(f"{name}_list.txt",)), AnnotationFile(names=_CAPTIONS))
    return Split(files=files, sizes=(size,))


MSVD = Benchmark(
    title="MSVD",
    splits={
        "train": _split("train", Size(num_videos=1200, num_captions=48774)),
        "val": _split("val", Size(num_videos=100, num_captions=4290)),
        "test": _split("test", Size(num_videos=670, num_captions=27763)),
    },
    read_split=read_split,
    read_cuts=cuts_of_ids,
    source="CLIP4Clip's msvd_data.zip has the lists and captions; YouTubeClips.tar the videos.",
)
