"""The same head trained from several seeds: a folder of runs, and the numbers of each.

::

    FOLDER/seed-42/                   an ordinary run, `muse.head.checkpoint`
    FOLDER/seed-42/evaluation.json    what it scored on a split, and what it took to train
    FOLDER/seeds.json                 all of them, with mean and standard deviation

Knows nothing of terminals, nor of what the heads are compared for.
"""

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from muse.errors import CheckpointError, ManifestError, MuseError, UsageError
from muse.head.checkpoint import is_run, load_head
from muse.head.data import select_split
from muse.head.devices import resolve_device
from muse.head.embeddings import VIDEOS_AT_A_TIME
from muse.head.evaluate import evaluate
from muse.head.head_config import HeadConfig
from muse.head.run_files import CONFIG_FILE, HEAD_FILE, replace_file
from muse.head.run_log import read_log
from muse.head.scan.select import resolve_backend
from muse.head.selection import SelectionRecord, read_selection
from muse.head.spread import Spread, spread_of
from muse.head.train import StepReport, TrainSummary, train
from muse.head.train_config import TrainConfig
from muse.head.training_state import read_state
from muse.pipeline.store import FeatureStore

SEEDS_FILE = "seeds.json"
EVALUATION_FILE = "evaluation.json"
DIRECTIONS = ("text_to_video", "video_to_text")
NUMBERS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Rsum")
_FOLDER_OF_SEED = "seed-"
_FIRST_STEPS = 3  # slower than those that follow: memory is allocated, kernels are chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedResult:
    """One run, trained to its end and evaluated."""

    seed: int
    run: Path
    num_parameters: int
    training_seconds: float
    """Of all steps, reading included; what is between them is not. A step that ran twice counts
    once."""
    step_milliseconds: float
    """Median of the steps after the first few, reading included."""
    peak_memory_bytes: int | None
    """Most that torch had allocated on the GPU in training, the weights not counted.

    None on a CPU, and where the process was killed between training and evaluation."""
    config: Mapping[str, Any]
    """The run's ``config.json``: settings, versions, what it ran on."""
    report: Mapping[str, Any]
    """`muse.head.evaluate.RetrievalReport.as_json`."""

    def as_json(self) -> dict[str, Any]:
        """All of it but the settings, which the run's own folder has."""
        return {
            "seed": self.seed,
            "run": str(self.run),
            "num_parameters": self.num_parameters,
            "training_seconds": self.training_seconds,
            "step_milliseconds": self.step_milliseconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "ran_on": self.config["ran_on"],
            "versions": self.config["versions"],
            "report": self.report,
        }


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return folder / f"{_FOLDER_OF_SEED}{seed}"


def seed_runs(folder: Path) -> dict[int, Path]:
    """The runs in a folder of seeds, by seed and in its order; none if it is something else."""
    named = ((path.name.removeprefix(_FOLDER_OF_SEED), path) for path in folder.glob("seed-*"))
    found = {int(seed): path for seed, path in named if seed.isdecimal() and is_run(path)}
    return dict(sorted(found.items()))


def require_finished(runs: Mapping[int, Path]) -> None:
    """Nothing, if every run of a folder of seeds was trained to its end.

    Raises:
        CheckpointError: If one was cut short: it is no draw of what the others are draws of.
    """
    for seed, run in runs.items():
        log, state = read_log(run), read_state(run)
        num_steps = int(log[-1]["num_steps"]) if log else None
        done = state.step if state else 0
        if num_steps is None or done < num_steps:
            raise CheckpointError(
                f"{run}: seed {seed} has done {done} of {num_steps or 'its'} steps. Repeat "
                "`muse train-head ... --seeds`, which goes on with it, or name a single run."
            )


def seeds_from(first: int, num_seeds: int) -> range:
    """Consecutive seeds.

    Raises:
        UsageError: If there is none.
    """
    if num_seeds < 1:
        raise UsageError(f"seeds {num_seeds}: at least 1 is needed")
    return range(first, first + num_seeds)


def require_split(store: FeatureStore, split: str) -> None:
    """Nothing, if there is something to evaluate on; asked before hours of training.

    Raises:
        ManifestError: If the split has no usable pair.
    """
    try:
        select_split(store, split)
    except ManifestError as error:
        raise ManifestError(f"--evaluate-on: {error}") from None


def train_seed(
    store: FeatureStore,
    folder: Path,
    *,
    config: TrainConfig,
    head: HeadConfig,
    split: str,
    command: Sequence[str] = (),
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_epoch: Callable[[SelectionRecord], None] = lambda record: None,
) -> SeedResult:
    """The run of ``config.seed`` in a folder of seeds, trained and evaluated where it is not yet.

    Args:
        store: Trained and evaluated on.
        folder: Of the seeds; the run is a folder in it.
        config: How to train, the seed with it.
        head: What to train.
        split: What to evaluate on.
        command: Written beside the weights.
        on_step: Called after each step.
        on_epoch: Called after each epoch that was measured.

    Raises:
        CheckpointError: If the folder is a run itself, or holds a run of other settings.
        IncompatibleStoreError: If the run was made from another store.
        ManifestError: If a split has no usable pair.
        MetricError: If an embedding is NaN or infinite.
        MuseError: If memory runs out, the loss is not finite, or device or scan can't run here.
    """
    if is_run(folder):
        raise CheckpointError(
            f"{folder}: a run of one seed, and no folder of several. Name a new folder with --out."
        )
    run = seed_folder(folder, config.seed)
    peak = _train(
        partial(train, store, run, head=head, command=command, on_step=on_step, on_epoch=on_epoch),
        config,
    )
    evaluation = _evaluation(store, run, config=config, split=split, peak_memory_bytes=peak)
    run_config = json.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))
    seconds = [line["seconds"] for line in read_log(run) if "seconds" in line]
    return SeedResult(
        seed=config.seed,
        run=run,
        num_parameters=evaluation["num_parameters"],
        training_seconds=sum(seconds),
        step_milliseconds=1000 * statistics.median(seconds[_FIRST_STEPS:] or seconds or [0.0]),
        peak_memory_bytes=evaluation["peak_memory_bytes"],
        config=run_config,
        report=evaluation["report"],
    )


def spreads(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Spread]]:
    """Each of `NUMBERS` in both `DIRECTIONS` over the reports of some seeds.

    A number that a report lacks, because an earlier version wrote it, is left out.
    """
    return {
        direction: {
            name: spread_of([report[direction][name] for report in reports])
            for name in NUMBERS
            if all(name in report[direction] for report in reports)
        }
        for direction in DIRECTIONS
    }


def spreads_json(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`spreads` as JSON."""
    return {
        direction: {name: spread.as_json() for name, spread in found.items()}
        for direction, found in spreads(reports).items()
    }


def write_seeds(folder: Path, results: Sequence[SeedResult], *, command: Sequence[str]) -> None:
    """Writes ``seeds.json``.

    Raises:
        CheckpointError: If it can't be written.
    """
    content = {
        "command": list(command),
        "spread": spreads_json([result.report for result in results]),
        "seeds": [result.as_json() for result in results],
    }
    write_json(folder / SEEDS_FILE, content)


def write_json(path: Path, content: object) -> None:
    """`write_text` of JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """The file, whole or as it was.

    Raises:
        CheckpointError: If it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written ({error.strerror or error}).") from error


def _train(training: Callable[..., TrainSummary], config: TrainConfig) -> int | None:
    """Trains; the most bytes that this took on a GPU beside what was there, if it trained."""
    device = resolve_device(config.device)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    summary = training(config=config)
    if device.type != "cuda" or summary.first_step >= summary.num_steps:
        return None
    return torch.cuda.max_memory_allocated(device) - before


def _evaluation(
    store: FeatureStore,
    run: Path,
    *,
    config: TrainConfig,
    split: str,
    peak_memory_bytes: int | None,
) -> dict[str, Any]:
    """The content of the run's ``evaluation.json``, made where it is not of this split."""
    known = _read_evaluation(run / EVALUATION_FILE)
    about = {
        "split": split,
        "root_sha256": store.root_sha256,
        "head_sha256": hashlib.sha256((run / HEAD_FILE).read_bytes()).hexdigest(),
    }
    if all(known.get(name) == value for name, value in about.items()):
        return known
    device = resolve_device(config.device)
    resolve_backend(config.scan, device)  # refused before it is loaded
    head = load_head(run, store, scan=config.scan).to(device)
    weights = list(head.parameters())
    if peak_memory_bytes is not None:
        peak_memory_bytes -= sum(weight.nbytes for weight in weights)
    try:
        report = evaluate(store, head, split=split, head_name=str(run), device=device)
    except torch.OutOfMemoryError as error:
        raise MuseError(
            f"{device} ran out of memory when {run} was evaluated, {VIDEOS_AT_A_TIME} videos at a "
            "time in float32. Use a larger GPU, or --device cpu."
        ) from error
    record = read_selection(run)
    report = dataclasses.replace(report, selected_on=record.name if record else "")
    evaluation = {
        **about,
        "num_parameters": sum(weight.numel() for weight in weights),
        "peak_memory_bytes": peak_memory_bytes or known.get("peak_memory_bytes"),
        "report": report.as_json(),
    }
    write_json(run / EVALUATION_FILE, evaluation)
    return evaluation


def _read_evaluation(path: Path) -> dict[str, Any]:
    """What is known already; nothing where there is no such file, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
