"""Which epoch's weights a run ends with: what was measured after each, and the rule.

The rule: the highest text-to-video R@1, among equals the lowest mean rank, then the earlier epoch.
Knows nothing of steps, losses or optimisers.
"""

# Legend: V videos and Q captions that are measured on.

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from muse.errors import CheckpointError
from muse.head.data import ALL_SPLITS, SplitSelection
from muse.head.embeddings import embed_selection
from muse.head.evaluate import report_of
from muse.head.metrics import DirectionNumbers
from muse.head.model import RetrievalHead
from muse.head.process_group import ALONE, ProcessGroup
from muse.head.run_files import SELECTION_FILE
from muse.head.training_state import TrainingState
from muse.pipeline.store import FeatureStore

RULE = "text-to-video R@1, then the lower mean rank, then the earlier epoch"


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochScore:
    """What a head could do after an epoch."""

    epoch: int
    """Counted from 1."""
    step: int
    """Steps done by then."""
    text_to_video: DirectionNumbers
    video_to_text: DirectionNumbers

    @property
    def place(self) -> tuple[float, float, int]:
        """Lower is better: see the module's rule."""
        to_video = self.text_to_video
        return -to_video.recall_at[1], to_video.mean_rank, self.epoch

    def as_json(self) -> dict[str, Any]:
        """The numbers as `muse.head.evaluate.RetrievalReport` writes them."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "text_to_video": self.text_to_video.as_json(),
            "video_to_text": self.video_to_text.as_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionRecord:
    """What ``selection.json`` holds."""

    split: str
    """Whose captions were measured on."""
    held_out: float
    """The part of the training split's videos that this was; 0 for a split of its own."""
    num_videos: int
    num_captions: int
    epochs: tuple[EpochScore, ...]
    """In order, at least one; a run that an older muse began lacks the first ones."""

    @property
    def chosen(self) -> EpochScore:
        """The best epoch so far."""
        return min(self.epochs, key=lambda score: score.place)

    @property
    def name(self) -> str:
        """What the epochs were chosen on, in words."""
        return f"{self.held_out:g} held out of {self.split}" if self.held_out else self.split

    def chose_on(self, split: str) -> bool:
        """Whether numbers on a split are of pairs that helped to choose the epoch."""
        return self.split == split or ALL_SPLITS in (self.split, split)

    def as_json(self) -> dict[str, Any]:
        """With the rule and the choice."""
        return {
            "split": self.split,
            "held_out": self.held_out,
            "num_videos": self.num_videos,
            "num_captions": self.num_captions,
            "rule": RULE,
            "chosen_epoch": self.chosen.epoch,
            "epochs": [score.as_json() for score in self.epochs],
        }


class ModelSelector:
    """Measures a head after each epoch and keeps the best one's weights; or does neither."""

    def __init__(
        self,
        store: FeatureStore,
        measured_on: SplitSelection | None,
        head: RetrievalHead,
        *,
        held_out: float,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.record: SelectionRecord | None = None
        """Of all epochs so far; None where none was measured."""
        self._store = store
        self._measured_on = measured_on
        self._held_out = held_out
        self._group = group
        # A head of its own: dropout is off, and the one in training stays as it is.
        self._head = copy.deepcopy(head).eval() if measured_on else None
        self._best: dict[str, Tensor] = {}

    def measure(
        self, weights: Mapping[str, Tensor], *, epoch: int, step: int
    ) -> SelectionRecord | None:
        """The record with one more epoch, measured as ``muse evaluate`` does. No random draw.

        Every worker calls it and embeds its part of the videos; worker 0 has the record.

        Raises:
            MetricError: If an embedding is NaN or infinite.
        """
        if self._measured_on is None or self._head is None:
            return None
        self._head.load_state_dict(dict(weights))
        device = self._head.logit_scale.device
        embedded = embed_selection(
            self._store, self._head, self._measured_on, device=device, group=self._group
        )
        if not self._group.is_first:
            return None
        report = report_of(self._store, embedded, head_name=self._head.name)
        score = EpochScore(
            epoch=epoch,
            step=step,
            text_to_video=report.text_to_video,
            video_to_text=report.video_to_text,
        )
        self.record = SelectionRecord(
            split=report.split,
            held_out=self._held_out,
            num_videos=report.num_videos,
            num_captions=report.num_captions,
            epochs=(*(self.record.epochs if self.record else ()), score),
        )
        if self.record.chosen is score:
            self._best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return self.record

    def add_to(self, state: TrainingState) -> TrainingState:
        """A training's state with the choice so far."""
        if self.record is None:
            return state
        return replace(state, best=self._best, selection=record_text(self.record))

    def restore(self, state: TrainingState, *, source: Path) -> None:
        """Goes on from a state of `add_to`.

        Raises:
            CheckpointError: If its record can't be read, naming ``source``.
        """
        if state.selection:
            self.record = record_from_text(state.selection, source=source)
            self._best = dict(state.best)


def read_selection(run: Path) -> SelectionRecord | None:
    """What a run's head was chosen by, or None where no epoch was measured.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = run / SELECTION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read ({error}). Copy it again.") from error
    return record_from_text(text, source=path)


def record_text(record: SelectionRecord) -> str:
    """The content of ``selection.json``."""
    return json.dumps(record.as_json(), indent=1) + "\n"


def record_from_text(text: str, *, source: Path) -> SelectionRecord:
    """The record of `record_text`, its numbers bit for bit.

    Raises:
        CheckpointError: If it is none, naming ``source``.
    """
    try:
        content = json.loads(text)
        return SelectionRecord(
            split=str(content["split"]),
            held_out=float(content["held_out"]),
            num_videos=int(content["num_videos"]),
            num_captions=int(content["num_captions"]),
            epochs=tuple(_score(epoch) for epoch in content["epochs"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: no record of a selection ({error}). Copy it again, or train again."
        ) from error


def _score(content: dict[str, Any]) -> EpochScore:
    return EpochScore(
        epoch=int(content["epoch"]),
        step=int(content["step"]),
        text_to_video=_numbers(content["text_to_video"]),
        video_to_text=_numbers(content["video_to_text"]),
    )


def _numbers(content: dict[str, float]) -> DirectionNumbers:
    recalls = {name: value for name, value in content.items() if name.startswith("R@")}
    return DirectionNumbers(
        recall_at={int(name.removeprefix("R@")): value for name, value in recalls.items()},
        median_rank=content["MdR"],
        mean_rank=content["MnR"],
    )
