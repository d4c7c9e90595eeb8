"""Which pairs a run is trained on, and which others its epochs are measured on.

Knows nothing of weights or numbers.
"""

# Legend: V videos and Q captions of a split.

import dataclasses
import hashlib
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.errors import ManifestError, UsageError
from muse.head.data import ALL_SPLITS, SplitSelection, select_split
from muse.head.train_config import SELECT_AUTO, SELECT_NONE, TrainConfig
from muse.pipeline.store import FeatureStore

# What `select_on auto` looks for, the first that has usable pairs. Ours are `val`; caption files of
# a user's own use the others.
VALIDATION_SPLITS = ("val", "validation", "valid", "dev")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPairs:
    """The two sets of pairs of a run, without a video in common where one was held out."""

    trained_on: SplitSelection
    measured_on: SplitSelection | None
    """None: no epoch is measured, and the last one's weights are the run's."""


def choose_pairs(store: FeatureStore, config: TrainConfig) -> TrainingPairs:
    """The pairs that a run's settings name.

    Raises:
        ManifestError: If a split that was named has no usable pair.
        UsageError: If too few videos are there for a part of them to be held out.
    """
    selection = select_split(store, config.split)
    if config.hold_out:
        trained_on, held_out = hold_out_videos(
            store, selection, part=config.hold_out, seed=config.seed
        )
        return TrainingPairs(trained_on=trained_on, measured_on=held_out)
    if config.select_on == SELECT_AUTO:
        return TrainingPairs(trained_on=selection, measured_on=_validation(store, config.split))
    measured_on = None if config.select_on == SELECT_NONE else select_split(store, config.select_on)
    return TrainingPairs(trained_on=selection, measured_on=measured_on)


def hold_out_videos(
    store: FeatureStore, selection: SplitSelection, *, part: float, seed: int
) -> tuple[SplitSelection, SplitSelection]:
    """What is left of a split, and a part of its videos with all their captions.

    The videos are those whose hash with the seed comes first, so a larger part holds a smaller one.

    Args:
        store: Names the videos.
        selection: Of `muse.head.data.select_split`.
        part: Of the videos, above 0 and below 1; at least one is held out.
        seed: Decides which.

    Raises:
        UsageError: If nothing would be left.
    """
    num_videos = len(selection.video_rows_V)
    num_held_out = max(1, round(part * num_videos))
    if num_held_out >= num_videos:
        raise UsageError(
            f"hold_out {part}: {num_held_out} of {num_videos} videos of split {selection.split!r} "
            "would be held out, and none be left. Choose a smaller part, or 0."
        )
    hashes = [_hash(store.video_ids[row], seed) for row in selection.video_rows_V]
    is_held_out_V = np.zeros(num_videos, dtype=np.bool_)
    is_held_out_V[np.argsort(hashes, kind="stable")[:num_held_out]] = True
    held_out = _part(selection, is_held_out_V)
    left = _part(selection, ~is_held_out_V)
    return _counting_unusable(left, selection, held_out), held_out


def _part(selection: SplitSelection, is_in_V: NDArray[np.bool_]) -> SplitSelection:
    """Some videos of a selection, with all their captions."""
    is_in_Q = is_in_V[selection.video_of_caption_Q]
    place_V = np.cumsum(is_in_V) - 1
    return SplitSelection(
        split=selection.split,
        video_rows_V=selection.video_rows_V[is_in_V],
        caption_rows_Q=selection.caption_rows_Q[is_in_Q],
        video_of_caption_Q=place_V[selection.video_of_caption_Q[is_in_Q]],
        num_videos_listed=int(is_in_V.sum()),
        num_captions_listed=int(is_in_Q.sum()),
    )


def _counting_unusable(
    left: SplitSelection, whole: SplitSelection, held_out: SplitSelection
) -> SplitSelection:
    """What is left, with what of the split can't be used counted as its own."""
    return dataclasses.replace(
        left,
        num_videos_listed=whole.num_videos_listed - held_out.num_videos_listed,
        num_captions_listed=whole.num_captions_listed - held_out.num_captions_listed,
    )


def _hash(video_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {video_id}".encode()).digest()


def _validation(store: FeatureStore, trained_on: str) -> SplitSelection | None:
    """The store's validation split, if it has one that isn't trained on."""
    if trained_on == ALL_SPLITS:
        return None
    splits = {caption.split for caption in store.captions}
    for split in VALIDATION_SPLITS:
        if split in splits and split != trained_on:
            with suppress(ManifestError):  # nothing of it was extracted
                return select_split(store, split)
    return None
