"""The rows of MUSE's tables of ablations: what each changes of a head, and what the paper got.

Tang et al., arXiv 2408.10575: MSR-VTT 1k-A, CLIP ViT-B/32 fine-tuned with the head. Another setting
than a head on frozen features, and single runs whose epochs alone differ by 1.5 R@1. Knows nothing
of training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from muse.head.pyramid import cells_per_scale

TableName = Literal["mixers", "scales", "order", "depth", "scan", "residual"]
TABLE_NAMES: tuple[TableName, ...] = get_args(TableName)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperNumbers:
    """Text to video, in percent and ranks; None where the paper's number is not known to us."""

    recall_at_1: float
    recall_at_5: float | None = None
    recall_at_10: float | None = None
    mean_rank: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """One row: a change of a head."""

    label: str
    """As tables print it."""
    changes: Mapping[str, Any]
    """Fields of `muse.head.head_config.HeadConfig` and their values."""
    paper: PaperNumbers | None = None

    @property
    def folder(self) -> str:
        """A file name: each field that changes, and its value."""
        return "-".join(f"{name}-{_word(value)}" for name, value in self.changes.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """One table: rows that change the same field, and the one that the others are held against."""

    name: TableName
    title: str
    rows: tuple[PaperRow, ...]
    default: str
    """Label of the row that is MUSE's own head."""
    number: int | None = None
    """In the paper; None where it is not known to us."""


def paper_table(name: TableName, *, grid: int) -> PaperTable:
    """One of the paper's tables, for a store.

    Args:
        name: Which.
        grid: G, patches along one side; the table of scales is labelled with what it leaves.

    Raises:
        UsageError: If the grid is too small for a scale.
    """
    return _scales(grid) if name == "scales" else _TABLES[name]


def _rows(field: str, values: Mapping[Any, PaperNumbers]) -> tuple[PaperRow, ...]:
    return tuple(
        PaperRow(label=str(value), changes={field: value}, paper=paper)
        for value, paper in values.items()
    )


def _paper(
    r1: float, r5: float | None = None, r10: float | None = None, mnr: float | None = None
) -> PaperNumbers:
    return PaperNumbers(recall_at_1=r1, recall_at_5=r5, recall_at_10=r10, mean_rank=mnr)


_TABLES: dict[str, PaperTable] = {
    "mixers": PaperTable(
        name="mixers",
        title="what mixes the sequence",
        number=4,
        # The published code's flash-attention and MambaOut are other functions than these
        # (docs of `muse.head.mixers`): those two figures are of what the names say, not of this.
        rows=_rows(
            "mixer",
            {
                "transformer": _paper(43.0),
                "flash-attention": _paper(42.6),
                "mamba-out": _paper(42.4),
                "bimamba-v2": _paper(44.8),
            },
        ),
        default="bimamba-v2",
    ),
    "order": PaperTable(
        name="order",
        title="how tokens of frames and scales follow each other",
        rows=_rows(
            "order", {"frame": _paper(43.5), "spatial": _paper(44.4), "scale": _paper(44.8)}
        ),
        default="scale",
    ),
    "depth": PaperTable(
        name="depth",
        title="number of blocks",
        rows=_rows(
            "depth",
            {
                0: _paper(42.6, 70.8, 79.9, 16.1),
                2: _paper(44.0, 70.9, 80.6, 15.0),
                4: _paper(44.8, 71.6, 82.1, 15.6),
                8: _paper(45.0, 72.1, 81.4, 14.6),
                16: _paper(45.6, 72.4, 81.5, 14.7),
            },
        ),
        default="4",
    ),
    "scan": PaperTable(
        name="scan",
        title="one direction, two that share weights, or two",
        rows=_rows(
            "mixer",
            {"mamba": _paper(44.1), "bimamba-v1": _paper(44.0), "bimamba-v2": _paper(44.8)},
        ),
        default="bimamba-v2",
    ),
    "residual": PaperTable(
        name="residual",
        title="the sum around each block",
        rows=(
            PaperRow(label="with", changes={"residual": "gated"}, paper=_paper(44.8)),
            # The paper's row may be this one too: it does not say what became of the gate.
            PaperRow(label="with, but no gate", changes={"residual": "plain"}),
            PaperRow(label="without", changes={"residual": "none"}, paper=_paper(43.9)),
        ),
        default="with",
    ),
}
_SCALES: dict[tuple[float, ...], PaperNumbers] = {
    (): _paper(43.6),
    (0.5,): _paper(44.0),
    (0.5, 1.0): _paper(44.3),
    (0.5, 1.0, 2.0): _paper(44.8),
    (0.5, 1.0, 2.0, 4.0): _paper(42.5),
}


def _scales(grid: int) -> PaperTable:
    rows = tuple(
        PaperRow(label=_sides(grid, factors), changes={"factors": factors}, paper=paper)
        for factors, paper in _SCALES.items()
    )
    return PaperTable(
        name="scales",
        title="cells along one side of each scale; 1 is the class token",
        number=7,
        rows=rows,
        default=rows[3].label,
    )


def _sides(grid: int, factors: tuple[float, ...]) -> str:
    """``{1, 3, 7}``, as the paper writes it."""
    sides = (math.isqrt(cells) for cells in cells_per_scale(grid, factors))
    return "{" + ", ".join(str(side) for side in (1, *sides)) + "}"


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(f"{factor:g}" for factor in value) or "none"
    return str(value)
