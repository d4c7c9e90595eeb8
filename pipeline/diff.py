"""What sets two stores apart: settings, listings, states, time stamps, features.

Knows nothing of files: it compares two stores in any form, row by row where it has to.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.frame_pictures import decode_pictures
from muse.pipeline.header import StoreHeader, flat_fields
from muse.pipeline.store import RawStore
from muse.pipeline.views import FRAMES_JPEG, map_of

_NOT_SETTINGS = (
    "num_videos",
    "num_captions",
    "listing_sha256",
    "files",
    "golden",
    "parity",
    "versions",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """A setting that two headers have differently."""

    name: str
    left: object
    right: object
    is_in_fingerprint: bool
    """True if it makes the features of another kind, so that no head fits both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureDifference:
    """A video whose features differ."""

    video_id: str
    array: str
    relative_error: float
    """Norm of the difference over the norm of the left one, in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreDiff:
    """Everything found; empty where two stores hold the same."""

    fields: tuple[FieldDifference, ...]
    versions: tuple[FieldDifference, ...]
    """Of packages: they explain, and are no difference by themselves."""
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    captions_only_left: int
    captions_only_right: int
    windows: tuple[str, ...]
    """Ids of videos that are other parts of their files."""
    states: tuple[tuple[str, str, str], ...]
    """(video id, state left, state right), such as ``ok`` and ``failed: timeout``."""
    timestamps: tuple[str, ...]
    """Ids of videos of which other frames were decoded."""
    features: tuple[FeatureDifference, ...]
    num_compared: int
    """Videos whose features were read and compared."""

    @property
    def is_empty(self) -> bool:
        """True if nothing but versions differs."""
        found = (
            self.fields,
            self.only_left,
            self.only_right,
            self.windows,
            self.states,
            self.timestamps,
            self.features,
        )
        return not (any(found) or self.captions_only_left or self.captions_only_right)


def diff_stores(left: RawStore, right: RawStore, *, max_videos: int | None = None) -> StoreDiff:
    """What sets two stores apart.

    Args:
        left: One store.
        right: The other.
        max_videos: Read the features of so many common videos at the most, spread evenly; None
            reads all.

    Raises:
        StoreError: If a row can't be read.
    """
    rows_left, rows_right = _row_of(left), _row_of(right)
    common = [video_id for video_id in left.video_ids if video_id in rows_right]
    states = (_states(left), _states(right))
    both_ok = [i for i in common if states[0][i] == states[1][i] == "ok"]
    compared = _spread(both_ok, max_videos)
    pairs = [(i, rows_left[i], rows_right[i]) for i in compared]
    other_frames = tuple(_other_frames(left, right, pairs))
    same_frames = [pair for pair in pairs if pair[0] not in set(other_frames)]
    captions = (Counter(left.captions), Counter(right.captions))  # one may be there twice
    return StoreDiff(
        fields=tuple(_fields(left.header, right.header)),
        versions=tuple(_versions(left.header, right.header)),
        only_left=tuple(i for i in left.video_ids if i not in rows_right),
        only_right=tuple(i for i in right.video_ids if i not in rows_left),
        captions_only_left=(captions[0] - captions[1]).total(),
        captions_only_right=(captions[1] - captions[0]).total(),
        windows=tuple(
            i for i in common if left.windows[rows_left[i]] != right.windows[rows_right[i]]
        ),
        states=tuple(
            (i, states[0][i], states[1][i]) for i in common if states[0][i] != states[1][i]
        ),
        timestamps=other_frames,
        features=tuple(_other_features(left, right, same_frames)),
        num_compared=len(compared),
    )


def _fields(left: StoreHeader, right: StoreHeader) -> Iterator[FieldDifference]:
    other = flat_fields("", right)
    for name, value in flat_fields("", left).items():
        top = name.partition(".")[0]
        if top not in _NOT_SETTINGS and value != other.get(name):
            yield FieldDifference(
                name=name,
                left=value,
                right=other.get(name),
                is_in_fingerprint=top in ("encoder", "sampling", "format_version"),
            )


def _versions(left: StoreHeader, right: StoreHeader) -> Iterator[FieldDifference]:
    for name in sorted({*left.versions, *right.versions}):
        pair = (left.versions.get(name), right.versions.get(name))
        if pair[0] != pair[1]:
            yield FieldDifference(name=name, left=pair[0], right=pair[1], is_in_fingerprint=False)


def _row_of(store: RawStore) -> dict[str, int]:
    return {video_id: row for row, video_id in enumerate(store.video_ids)}


def _states(store: RawStore) -> dict[str, str]:
    states = {
        video_id: "ok" if has_features else "pending"
        for video_id, has_features in zip(store.video_ids, store.has_features_N, strict=True)
    }
    for failure in store.failures:
        kind = "skipped" if failure.is_skipped else "failed"
        states[failure.video_id] = f"{kind}: {failure.reason}"
    return states


def _spread(ids: Sequence[str], at_most: int | None) -> list[str]:
    if at_most is None or len(ids) <= at_most:
        return list(ids)
    return [ids[place] for place in np.linspace(0, len(ids) - 1, at_most).astype(int)]


def _other_frames(
    left: RawStore, right: RawStore, pairs: Sequence[tuple[str, int, int]]
) -> Iterator[str]:
    for video_id, row_left, row_right in pairs:
        times = (left.read_features(row_left), right.read_features(row_right))
        if not np.array_equal(times[0].pts_seconds_T, times[1].pts_seconds_T, equal_nan=True):
            yield video_id


def _other_features(
    left: RawStore, right: RawStore, pairs: Sequence[tuple[str, int, int]]
) -> Iterator[FeatureDifference]:
    shapes = {(spec.name, spec.shape) for spec in left.arrays}
    names = [spec.name for spec in right.arrays if (spec.name, spec.shape) in shapes]
    for video_id, row_left, row_right in pairs:
        arrays = (left.read_features(row_left).arrays, right.read_features(row_right).arrays)
        for name in names:
            error = _relative_error(arrays[0][name], arrays[1][name])
            if error:
                yield FeatureDifference(video_id=video_id, array=name, relative_error=error)
        error = _error_of_pictures(left, right, row_left, row_right)
        if error:
            yield FeatureDifference(video_id=video_id, array=FRAMES_JPEG, relative_error=error)


def _error_of_pictures(left: RawStore, right: RawStore, row_left: int, row_right: int) -> float:
    """Of the decoded pixels; tiny where other files decode to the same. 0 if one keeps none."""
    if not all(FRAMES_JPEG in store.header.views for store in (left, right)):
        return 0.0
    pairs = ((left, row_left), (right, row_right))
    found = [store.read_frame_pictures(row) for store, row in pairs]
    if found[0] == found[1]:
        return 0.0
    maps = [np.empty(_frames_shape(store.header), np.uint8) for store, _ in pairs]
    if maps[0].shape != maps[1].shape:
        return 0.0  # as for arrays of two shapes: the settings say so
    for (store, row), frames_TSSC, pictures in zip(pairs, maps, found, strict=True):
        try:
            decode_pictures(pictures, frames_TSSC)
        except ValueError as error:
            raise StoreError(
                f"{store.location}: row {row}: {error}. Run `muse store verify --repair`, or copy "
                "it again."
            ) from error
    return _relative_error(*maps) or float(np.finfo(np.float64).tiny)


def _frames_shape(header: StoreHeader) -> tuple[int, ...]:
    return map_of(FRAMES_JPEG, header.encoder, header.sampling.num_frames).shape


def _relative_error(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    if left.tobytes() == right.tobytes():
        return 0.0
    ours, theirs = left.astype(np.float64), right.astype(np.float64)
    norm = float(np.linalg.norm(ours)) or 1.0
    return float(np.linalg.norm(ours - theirs)) / norm or np.finfo(np.float64).tiny
