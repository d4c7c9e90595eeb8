"""Which committed videos are done again, and when a run has failed too often.

Knows nothing of decoding: it reads receipts and looks at files, and makes rows pending.
"""

import math
from collections.abc import Iterable, Set
from dataclasses import dataclass

from muse.errors import TooManyFailuresError, UsageError
from muse.pipeline.listing import ListedRows
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import FAILURE_REASONS
from muse.pipeline.sources import ChangeTest, has_changed
from muse.pipeline.store_zarr import ZarrStore

ALL_REASONS = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class RedoRules:
    """Which videos of a store are done again."""

    failed: tuple[str, ...] = ()
    """Reasons whose videos are tried again; ``all`` for every one."""
    changed: ChangeTest | None = None
    """How a file is compared with what it was; None leaves changed files alone."""

    def __post_init__(self) -> None:
        unknown = [r for r in self.failed if r not in (*FAILURE_REASONS, ALL_REASONS)]
        if unknown:
            raise UsageError(
                f"retry_failed {unknown[0]!r}: choose {ALL_REASONS} or of "
                f"{', '.join(FAILURE_REASONS)}"
            )

    def retries(self, reason: str) -> bool:
        """True if a video that failed for this reason is tried again."""
        return reason in self.failed or ALL_REASONS in self.failed


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureLimit:
    """How many videos of a store may fail before a run stops."""

    share: float = 1.0
    """Of the listed videos."""
    count: int | None = None
    """Of videos, in place of a share."""

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """``1%``, ``2.5%`` or a number of videos.

        Raises:
            UsageError: If it is neither.
        """
        try:
            if text.endswith("%"):
                limit = cls(share=float(text[:-1]) / 100)
            else:
                limit = cls(count=int(text))
        except ValueError:
            limit = cls(share=math.nan)
        if not 0 <= limit.share <= 1 or (limit.count or 0) < 0:
            raise UsageError(
                f"max_failures {text!r}: write a share such as 1%, or a number"
            ) from None
        return limit

    def check(self, num_failed: int, *, of: int) -> None:
        """Nothing, while no more videos have failed than may.

        Raises:
            TooManyFailuresError: If more have.
        """
        # 0.29 * 100 is a little less than 29.
        allowed = self.count if self.count is not None else math.floor(self.share * of + 1e-9)
        if num_failed > allowed:
            limit = f"{100 * self.share:g} %" if self.count is None else str(self.count)
            raise TooManyFailuresError(
                f"{num_failed} of {of} videos failed, and --max-failures allows {limit}. What was "
                "committed is safe: `muse store errors` says why; mend it, or raise the limit, and "
                "run the same command again."
            )


def reopened_receipts(store: ZarrStore, rows: ListedRows, rules: RedoRules) -> list[Receipt]:
    """The receipts that change where the videos that the rules name, and the captions that waited
    for them, are made pending. Nothing is written.
    """
    again = {
        receipt.index: [*_failed(receipt, rules), *_changed(receipt, rows, rules)]
        for receipt in store.video_receipts
    }
    there = _found(store, rows, {row for found in again.values() for row in found})
    waiting = {
        receipt.index: [r for r in receipt.left_out if rows.captions[r].video_id in there]
        for receipt in store.caption_receipts
    }
    return [
        receipt.reopened(rows_of[receipt.index])
        for receipts, rows_of in (
            (store.video_receipts, again),
            (store.caption_receipts, waiting),
        )
        for receipt in receipts
        if rows_of[receipt.index]
    ]


def _found(store: ZarrStore, rows: ListedRows, again: Set[int]) -> set[str]:
    """Ids of videos whose file is there, and that do not stay failed as missing.

    Not only of those done again now: a run that was cut off may have made a video pending, or
    finished it, without its captions.
    """
    missing = {
        row
        for receipt in store.video_receipts
        for row, failure in receipt.failures
        if failure.reason == "missing" and row not in again
    }
    return {
        video.video_id
        for row, video in enumerate(rows.videos)
        if video.path is not None and row not in missing
    }


def _failed(receipt: Receipt, rules: RedoRules) -> Iterable[int]:
    return (row for row, failure in receipt.failures if rules.retries(failure.reason))


def _changed(receipt: Receipt, rows: ListedRows, rules: RedoRules) -> Iterable[int]:
    if rules.changed is None:
        return ()
    return (
        row
        for row, source in zip(receipt.rows, receipt.sources, strict=True)
        if source is not None and has_changed(rows.videos[row].path, source, by=rules.changed)
    )
