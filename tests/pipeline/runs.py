"""Runs of `extract` over files of one word, in this process and in milliseconds."""

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decoder import DecodeTask
from muse.pipeline.decoding.kept_frame import squares_as
from muse.pipeline.extract import ExtractConfig, ExtractSummary, extract
from muse.pipeline.header import Sampling
from muse.pipeline.records import FAILURE_REASONS, Clip, Failure, Listing
from muse.pipeline.schedule import Workers
from muse.pipeline.sources import source_of
from muse.pipeline.store_zarr import ZarrStore


def few_of(values: Iterable[int]) -> list[Any]:
    """Test parameters of which every fourth is quick to be run at every save, the others slow."""
    slow = pytest.mark.slow
    return [pytest.param(v, marks=() if v % 4 == 3 else slow) for v in values]


@dataclass
class Runs:
    """Runs of `extract` on files that a test writes: what a file says is what it shows.

    A number is a video of one grey, two frames long; a reason of `FAILURE_REASONS` is how it fails.
    What follows the first word makes the bytes of two files differ. `pictures_of_word` are its
    thumbnails.
    """

    folder: Path
    out: Path
    decoded: list[str] = field(default_factory=list)
    """Ids in the order in which they were decoded, of all runs."""

    def put(self, **files: object) -> None:
        """Writes ``a="7"`` as ``a.mp4``."""
        for stem, content in files.items():
            (self.folder / f"{stem}.mp4").write_text(str(content), encoding="utf-8")

    def begin_as(self, kept: Path, make: Callable[["Runs"], object]) -> "Runs":
        """Begins with the files and the store that ``make`` makes, which it does once, in ``kept``.

        They are copied from there, with their times. Nothing is in `decoded`.
        """
        if not kept.is_dir():
            first = Runs(folder=kept / self.folder.name, out=kept / self.out.name)
            first.folder.mkdir(parents=True)
            make(first)
        shutil.copytree(kept, self.folder.parent, dirs_exist_ok=True)
        self.decoded.clear()
        return self

    def config(self, **settings: Any) -> ExtractConfig:
        """Two videos a shard; decoded one after the other."""
        usual: dict[str, Any] = {
            "out": self.out,
            "encoder": "plain",
            "engine": "local",
            "device": "cpu",
            "precision": "fp32",
            "sampling": Sampling(num_frames=3),
            "shard_size": 2,
            "batch_videos": 2,
            "workers": Workers(num_decoders=1),
        }
        return ExtractConfig(**{**usual, **settings})

    def listing(self, captions: Sequence[tuple[str, ...]] = ()) -> Listing:
        """The folder's, with (video, text) or (video, text, axis) captions."""
        if not captions:
            return list_folder(self.folder, None)
        file = self.folder.parent / "captions.csv"
        with file.open("w", newline="", encoding="utf-8") as stream:
            names = ("video", "caption", "axis")[: len(captions[0])]
            csv.writer(stream).writerows([names, *captions])
        return list_folder(self.folder, file)

    def run(
        self,
        captions: Sequence[tuple[str, ...]] = (),
        *,
        cut_off_after: int | None = None,
        **settings: Any,
    ) -> ExtractSummary:
        """One run; it is interrupted at its n-th sign of life if ``cut_off_after`` says so."""
        alive: list[object] = []

        def interrupt(progress: object) -> None:
            alive.append(progress)
            if cut_off_after is not None and len(alive) > cut_off_after:
                raise KeyboardInterrupt

        return extract(self.config(**settings), self.listing(captions), on_progress=interrupt)

    @property
    def store(self) -> ZarrStore:
        return ZarrStore.open(self.out)

    @property
    def states(self) -> dict[str, int | str]:
        """Id -> the grey that its features tell, why there are none, or ``pending``."""
        store = self.store
        found: dict[str, int | str] = {
            video_id: self._grey(store, row) if store.has_features_N[row] else "pending"
            for row, video_id in enumerate(store.video_ids)
        }
        return found | {failure.video_id: failure.reason for failure in store.failures}

    @property
    def lengths(self) -> list[tuple[str, int | None]]:
        """(text, length that its embedding tells or None) of every caption, in row order."""
        store = self.store
        return [
            (caption.text, self._length(store, row) if store.has_embedding_Q[row] else None)
            for row, caption in enumerate(store.captions)
        ]

    def rows(self) -> dict[str, bytes]:
        """Id -> the bytes of all that is kept of a video with features."""
        store = self.store
        clips = {i: store.read_features(i) for i in np.flatnonzero(store.has_features_N).tolist()}
        return {
            clip.video_id: b"".join(
                array.tobytes()
                for array in (*clip.arrays.values(), clip.valid_T, clip.pts_seconds_T)
            )
            for clip in clips.values()
        }

    @staticmethod
    def _grey(store: ZarrStore, row: int) -> int:
        return round(255 * (float(store.read_clip(row).tokens_TKD[0, 0, 0]) - 0.25))

    @staticmethod
    def _length(store: ZarrStore, row: int) -> int:
        return int(store.read_caption_embeddings(np.array([row]))[0, 0])


class WithoutProcess:
    """What a decoder that works in this process has in place of a process of its own."""

    def start(self) -> None:
        pass

    def cpu_seconds(self) -> None:
        return None

    def close(self) -> None:
        pass


def pictures_of_word(word: object) -> tuple[bytes, ...]:
    """In place of JPEG files: each of another length."""
    return (f"{word} at first".encode(), f"{word} then".encode())


def clip_of_word(task: DecodeTask) -> Clip | Failure:
    """What a decoder makes of such a file."""
    video = task.video
    word = video.path.read_text(encoding="utf-8").split()[0] if video.path else "missing"
    if word in FAILURE_REASONS:
        return Failure(
            video_id=video.video_id,
            path=str(video.path or ""),
            stage="decode" if video.path else "listing",
            reason=word,
            message=f"{video.video_id}: {word}",
        )
    assert video.path is not None
    size, side = task.preprocessing.size, task.preprocessing.kept_side
    squares = np.full((2, side, side, 3), int(word), dtype=np.uint8)
    return Clip(
        video_id=video.video_id,
        frames_THWC=np.full((2, size, size, 3), int(word), dtype=np.uint8),
        pts_seconds_T=np.array([0.0, 0.5]),
        source=source_of(video.path, wants_sha256=task.wants_sha256),
        thumbnails=pictures_of_word(word) if task.thumbnail_side else (),
        whole_frames={1: np.full((2 * size, 3 * size, 3), int(word), np.uint8)}
        if task.keeps_whole
        else {},
        **squares_as(task.frame_views, squares),
    )
