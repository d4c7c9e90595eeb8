"""Tables of ablations run: every row times every seed, and what each table says so far.

A run is a folder, and its folder is named after what it changes of the head that was asked for, so
that a head which stands in several tables is trained once. Knows nothing of terminals.
"""

import dataclasses
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muse.errors import (
    CheckpointError,
    IncompatibleStoreError,
    ManifestError,
    MuseError,
    StoreError,
    UsageError,
)
from muse.head.head_config import HeadConfig
from muse.head.paper_tables import PaperRow, PaperTable
from muse.head.seeds import SeedResult, spreads, spreads_json, train_seed
from muse.head.spread import Spread, paired_difference
from muse.head.train import StepReport
from muse.head.train_config import TrainConfig
from muse.pipeline.store import FeatureStore

AS_ASKED = "base"  # folder of the row that changes nothing of the head that was asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One row's head and one seed."""

    row_folder: str
    """Name of the row's folder."""
    head: HeadConfig
    config: TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a planned run ended: a result, or the reason why there is none."""

    row_folder: str
    seed: int
    result: SeedResult | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """A row of a table, with the seeds that are there so far."""

    row: PaperRow
    folder: str
    """Name of its folder."""
    is_default: bool
    results: tuple[SeedResult, ...]
    reasons: Mapping[int, str]
    """Why there is no result, by seed."""
    difference: Spread | None
    """Of T2V R@1 to the default row, seed by seed; None for that row, and before both have one."""

    @property
    def spreads(self) -> dict[str, dict[str, Spread]] | None:
        """`muse.head.seeds.spreads`; None before the first result."""
        return spreads([r.report for r in self.results]) if self.results else None

    def as_json(self) -> dict[str, Any]:
        """What the row is, its numbers, and every seed as it was measured."""
        reports = [result.report for result in self.results]
        difference = self.difference
        return {
            "row": self.row.label,
            "head": dict(self.row.changes),
            "folder": self.folder,
            "is_default": self.is_default,
            "spread": spreads_json(reports) if reports else None,
            "difference_of_r1": difference and difference.as_json(),
            "difference_is_noise": difference and difference.is_noise,
            "seeds": [result.as_json() for result in self.results],
            "failed": {str(seed): reason for seed, reason in self.reasons.items()},
            "paper": self.row.paper and dataclasses.asdict(self.row.paper),
        }


def plan_runs(
    tables: Iterable[PaperTable], head: HeadConfig, config: TrainConfig, seeds: Iterable[int]
) -> list[PlannedRun]:
    """Every head of the tables once a seed, seed by seed: what is cut short has whole tables.

    Raises:
        UsageError: If a row is no head, or the tables do not change what this head is made of.
    """
    if head.aggregator != "muse":
        raise UsageError(
            f"aggregator {head.aggregator!r}: the tables are about 'muse', whose parts they change."
        )
    heads = {
        row_folder(row, head): dataclasses.replace(head, **row.changes)
        for table in tables
        for row in table.rows
    }
    return [
        PlannedRun(row_folder=name, head=changed, config=dataclasses.replace(config, seed=seed))
        for seed in seeds
        for name, changed in heads.items()
    ]


def row_folder(row: PaperRow, head: HeadConfig) -> str:
    """The name of a row's folder; `AS_ASKED` where it changes nothing of ``head``."""
    is_same = all(getattr(head, name) == value for name, value in row.changes.items())
    return AS_ASKED if is_same else row.folder


def run_planned(
    store: FeatureStore,
    folder: Path,
    planned: PlannedRun,
    *,
    split: str,
    command: Sequence[str] = (),
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Outcome:
    """One run trained and evaluated, or read where it is finished.

    A row that does not fit into memory, or whose loss or embeddings are not finite, has failed: it
    is an outcome, and the next one can run. The arguments are those of `train_seed`.

    Raises:
        CheckpointError: If the folder holds a run of other settings.
        MuseError: If what is wrong is not about this row: its class is one of `_ABOUT_ALL`.
    """
    result, reason = None, None
    try:
        result = train_seed(
            store,
            folder / planned.row_folder,
            config=planned.config,
            head=planned.head,
            split=split,
            command=command,
            on_step=on_step,
        )
    except _ABOUT_ALL:
        raise
    except MuseError as error:
        reason = " ".join(str(error).split())
    if reason is not None and torch.cuda.is_available():
        gc.collect()  # the traceback is gone only now, and with it the tensors of its frames
        torch.cuda.empty_cache()
    return Outcome(
        row_folder=planned.row_folder, seed=planned.config.seed, result=result, reason=reason
    )


_ABOUT_ALL = (CheckpointError, IncompatibleStoreError, ManifestError, StoreError, UsageError)


def table_rows(
    table: PaperTable, head: HeadConfig, outcomes: Sequence[Outcome]
) -> tuple[RowResult, ...]:
    """The rows of a table from the runs so far.

    Args:
        table: Which rows.
        head: The one that was asked for, as `plan_runs` took it.
        outcomes: Of any rows and seeds.
    """
    default = next(row for row in table.rows if row.label == table.default)
    base = _first_recalls(outcomes, row_folder(default, head))
    rows = []
    for row in table.rows:
        folder = row_folder(row, head)
        of_row = [outcome for outcome in outcomes if outcome.row_folder == folder]
        is_default = row is default
        rows.append(
            RowResult(
                row=row,
                folder=folder,
                is_default=is_default,
                results=tuple(o.result for o in of_row if o.result is not None),
                reasons={o.seed: o.reason for o in of_row if o.reason is not None},
                difference=None
                if is_default
                else paired_difference(_first_recalls(outcomes, folder), base),
            )
        )
    return tuple(rows)


def _first_recalls(outcomes: Sequence[Outcome], folder: str) -> dict[int, float]:
    """T2V R@1 of a row by seed."""
    return {
        outcome.seed: outcome.result.report["text_to_video"]["R@1"]
        for outcome in outcomes
        if outcome.row_folder == folder and outcome.result is not None
    }
