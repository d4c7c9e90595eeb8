"""``muse evaluate --mteb``: results in the form that the mteb package loads, where the task exists.

mteb has video retrieval tasks with the names of benchmarks and test sets of its own: pairs of one
video and one caption, fewer than the benchmark has. Numbers of another set are no results of the
task, so a split must be the task's: as many pairs, and captions of the same lengths in all. What
the videos' files look like, mteb does not say and muse can't compare. Names and sizes are those of
mteb 2.26.24's task metadata and descriptive statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import muse
from muse.cli.json_file import write_json

if TYPE_CHECKING:
    from muse.cli.evaluated import Evaluated
    from muse.head.data import SplitSelection
    from muse.head.ranks import Ranks
    from muse.pipeline.store import FeatureStore

MTEB_VERSION = "2.26.24"  # whose tasks these are
RANKS_LOOKED_AT = (1, 3, 5, 10, 20, 100, 1000)  # mteb's k
MAIN_SCORE = "ndcg_at_10"  # of all these tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class MtebTask:
    """Both directions of a set of pairs, each a task of mteb."""

    text_to_video: str
    """Name of the task."""
    video_to_text: str
    dataset: str
    """On Hugging Face."""
    revision: str
    """Of the dataset: a git commit."""
    title: str
    """How our protocols of this benchmark begin."""
    num_pairs: int
    """Videos, each with one caption."""
    num_characters: int
    """Of all captions together."""
    shortest: int
    """Characters of the shortest caption."""
    longest: int
    differs: str
    """From the benchmark's test set, in words."""


TASKS = (
    MtebTask(
        text_to_video="MSRVTTT2V",
        video_to_text="MSRVTTV2T",
        dataset="mteb/MSR-VTT",
        revision="4661603cee25c1fd370e5478a2953203cf37155b",
        title="MSR-VTT",
        num_pairs=879,
        num_characters=43_882,
        shortest=16,
        longest=163,
        differs="879 of the 1,000 pairs of 1k-A",
    ),
    MtebTask(
        text_to_video="MSVDT2VRetrieval",
        video_to_text="MSVDV2TRetrieval",
        dataset="mteb/MSVD",
        revision="177cefe5957363d1617f0427fcfa00ff0b0d7da8",
        title="MSVD",
        num_pairs=660,
        num_characters=27_769,
        shortest=5,
        longest=138,
        differs="660 of the 670 test videos, with the first caption alone",
    ),
    MtebTask(
        text_to_video="DiDeMoT2VRetrieval",
        video_to_text="DiDeMoV2TRetrieval",
        dataset="mteb/DiDeMo",
        revision="746689f644b66022540a9a39136e842bee164e6b",
        title="DiDeMo",
        num_pairs=999,
        num_characters=154_625,
        shortest=17,
        longest=396,
        differs="999 of the 1,004 test paragraphs",
    ),
    MtebTask(
        text_to_video="ActivityNetCaptionsT2VRetrieval",
        video_to_text="ActivityNetCaptionsV2TRetrieval",
        dataset="mteb/ActivityNet_Captions_val2",
        revision="e87473c4832ea982bbeca1dde94bbebfa6ea6ada",
        title="ActivityNet",
        num_pairs=4884,
        num_characters=1_062_224,
        shortest=94,
        longest=1355,
        differs="4,884 videos of val2, where the literature takes val1",
    ),
)
_LEFT_OUT = {
    "VATEX": "its VATEX tasks are of whole YouTube videos, or of 977 clips that a store can't be "
    "told from",
}


def task_of(store: "FeatureStore", selection: "SplitSelection") -> MtebTask:
    """The task whose test set a selection is.

    Raises:
        UsageError: If there is none, saying what the test sets of the nearest ones are.
    """
    from muse.errors import UsageError

    sizes = _sizes(store, selection)
    for task in TASKS:
        of_task = (task.num_pairs, task.num_characters, task.shortest, task.longest)
        if sizes == (task.num_pairs, *of_task):
            return task
    raise UsageError(_refusal(store.header.protocol, selection))


def write_mteb_results(folder: Path, task: MtebTask, evaluated: "Evaluated") -> list[Path]:
    """A file for each direction, ``FOLDER/TASK.json``.

    Raises:
        UsageError: If one can't be written.
    """
    files = []
    for name, ranks in (
        (task.text_to_video, evaluated.ranks.text_to_video),
        (task.video_to_text, evaluated.ranks.video_to_text),
    ):
        files.append(folder / f"{name}.json")
        content = task_result(task, name, ranks, seconds=evaluated.seconds)
        write_json(files[-1], content, flag="--mteb")
    return files


def task_result(task: MtebTask, name: str, ranks: "Ranks", *, seconds: float) -> dict[str, Any]:
    """What ``mteb.TaskResult`` loads; under ``muse`` what it leaves unread.

    ``mteb_version`` is null, because mteb did not run. The areas under its abstention curves (nAUC)
    are left out: they need all scores, not the ranks.
    """
    scores = mteb_scores(ranks)
    subset = {"hf_subset": "default", "languages": ["eng-Latn"]}
    return {
        "dataset_revision": task.revision,
        "task_name": name,
        "mteb_version": None,
        "scores": {"test": [{**scores, "main_score": scores[MAIN_SCORE], **subset}]},
        "evaluation_time": seconds,
        "kg_co2_emissions": None,
        "muse": {
            "version": muse.__version__,
            "task_of": f"mteb {MTEB_VERSION}",
            "ties": "expected",
        },
    }


def mteb_scores(ranks: "Ranks") -> dict[str, float]:
    """Each measure at each k under mteb's name, from 0 to 1, rounded to five digits as it does."""
    from typing import get_args

    from muse.head.ir_scores import Measure, measure_at

    scores = {
        f"{measure}_at_{k}": round(measure_at(measure, ranks, k), 5)
        for measure in get_args(Measure)
        for k in RANKS_LOOKED_AT
    }
    return {**scores, "accuracy": scores["recall_at_1"]}


def _sizes(store: "FeatureStore", selection: "SplitSelection") -> tuple[int, ...]:
    """Videos, captions, and the lengths of the captions: all, shortest, longest."""
    lengths = [len(store.captions[row].text.strip()) for row in selection.caption_rows_Q]
    num_videos = len(selection.video_rows_V)
    return num_videos, len(lengths), sum(lengths), min(lengths), max(lengths)


def _refusal(protocol: str, selection: "SplitSelection") -> str:
    found = (
        f"--mteb: {protocol}, split {selection.split}, has {len(selection.video_rows_V)} videos "
        f"and {len(selection.caption_rows_Q)} captions"
    )
    for title, reason in _LEFT_OUT.items():
        if protocol.startswith(title):
            return f"{found}. mteb {MTEB_VERSION} has no such task: {reason}. Leave --mteb out."
    near = [task for task in TASKS if protocol.startswith(task.title)]
    return (
        f"{found}, the test set of no task of mteb {MTEB_VERSION}: {_sets(near or TASKS)}. Numbers "
        "of another set can't be compared with it. Extract the videos and captions of its dataset, "
        "or leave --mteb out."
    )


def _sets(tasks: Sequence[MtebTask]) -> str:
    return "; ".join(f"{task.text_to_video} ({task.dataset}) is {task.differs}" for task in tasks)
