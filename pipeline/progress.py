"""How far a run has come, counted from what its engine reports.

Knows nothing of terminals: ``muse.cli.progress`` draws it.
"""

import time
from dataclasses import dataclass

from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import pending_video_shards
from muse.pipeline.receipts import Receipt
from muse.pipeline.schedule import Tick
from muse.pipeline.speed.report import SpeedReport, SpeedTally
from muse.pipeline.speed.spans import Measured
from muse.pipeline.store_zarr import ZarrStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    num_videos: int
    """Of this run: those not done by an earlier one."""
    num_decoded: int
    num_committed: int
    num_failed: int
    elapsed_seconds: float
    speed: SpeedReport | None = None
    """Of the stages, up to the last report of a worker; None before the first."""

    @property
    def videos_per_second(self) -> float:
        """Decoded a second, since the workers were ready."""
        return self.num_decoded / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before the first video."""
        rate = self.videos_per_second
        return (self.num_videos - self.num_decoded) / rate if rate else None


class Tally:
    """Counts what a run reports, beside what the store held before it.

    Args:
        store: As it is before the run.
        rows: Of the run.
        speed: Of the run's workers; None where nobody asks.
    """

    def __init__(
        self, store: ZarrStore, rows: ListedRows, *, speed: SpeedTally | None = None
    ) -> None:
        self._speed = speed
        shards = pending_video_shards(store, rows)
        self._todo_of = {shard.index: shard.num_todo for shard in shards}
        self._failed_of = {r.index: _num_failed(r) for r in store.video_receipts}
        self._failed_before = sum(self._failed_of.values())
        self._missing_of = {
            shard.index: sum(video.path is None for _, video in shard.to_decode) for shard in shards
        }
        self._decoded = self._committed = self._failed = 0
        self._started = time.perf_counter()

    @property
    def num_failed_in_all(self) -> int:
        """Videos of the store that failed, or will: their file is missing."""
        return self._failed_before + self._failed + sum(self._missing_of.values())

    def count(self, event: Receipt | Tick | Measured) -> None:
        """Takes one report of an engine into account."""
        if isinstance(event, Measured):
            if self._speed is not None:
                self._speed.add(event.spans)
        elif isinstance(event, Tick):
            self._decoded = max(self._decoded, event.num_decoded)
        elif event.kind == "videos":
            self._committed += self._todo_of[event.index]
            self._missing_of[event.index] = 0
            self._failed += _num_failed(event) - self._failed_of.get(event.index, 0)
            self._decoded = max(self._decoded, self._committed)

    def progress(self) -> Progress:
        """As things stand."""
        return Progress(
            num_videos=sum(self._todo_of.values()),
            num_decoded=self._decoded,
            num_committed=self._committed,
            num_failed=self._failed,
            elapsed_seconds=time.perf_counter() - self._started,
            speed=self._speed.report() if self._speed is not None else None,
        )


def _num_failed(receipt: Receipt) -> int:
    return sum(not failure.is_skipped for _, failure in receipt.failures)
