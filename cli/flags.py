"""Flags that several commands share, each described once."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from muse.pipeline.store import FeatureStore

StoreArgument = Annotated[
    str, typer.Argument(help="The feature store: a folder, a URL, or an exported .h5 file.")
]
HeadOption = Annotated[
    str, typer.Option("--head", help="Run folder of `muse train-head`, or mean-pool.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


class ScanFlag(StrEnum):
    """Values of ``--scan``."""

    auto = "auto"
    reference = "reference"
    cpu = "cpu"
    cuda = "cuda"
    mamba_ssm = "mamba-ssm"


ScanOption = Annotated[
    ScanFlag,
    typer.Option(help="Selective scan; auto is cuda on a GPU, else cpu."),
]


class TiesFlag(StrEnum):
    """Values of ``--ties``."""

    expected = "expected"
    optimistic = "optimistic"
    pessimistic = "pessimistic"
    clip4clip = "clip4clip"


TiesOption = Annotated[
    TiesFlag,
    typer.Option(
        help="What a rank is worth where scores tie; clip4clip counts as its published code does.",
        rich_help_panel="How it is ranked",
    ),
]


class V2TFlag(StrEnum):
    """Values of ``--v2t``."""

    group = "group"
    caption = "caption"


V2TOption = Annotated[
    V2TFlag,
    typer.Option(
        "--v2t",
        help="Rank a video's best caption among each video's best (CLIP4Clip), or among all.",
        rich_help_panel="How it is ranked",
    ),
]


class ViewFlag(StrEnum):
    """Values of ``--view``."""

    tokens = "tokens"
    int8 = "int8"


ViewOption = Annotated[
    ViewFlag | None,
    typer.Option(help="Which view of a video to read; without, the head's own, else tokens."),
]

EncodedOption = Annotated[
    Path | None,
    typer.Option(
        "--encoded", help="Folder for stores that finetuned runs encode; RUN/stores if not given."
    ),
]


def open_for_head(store: str, head: str, view: ViewFlag | None) -> "FeatureStore":
    """The store, reading the view that was named, or else the one that the head was trained on."""
    from muse.errors import UsageError
    from muse.head.checkpoint import read_config
    from muse.head.evaluate import MEAN_POOL
    from muse.head.seeds import seed_runs
    from muse.pipeline.store import open_store

    runs = list(seed_runs(Path(head)).values())
    if runs:
        raise UsageError(f"{head}: {len(runs)} runs, one a seed. Name one, such as {runs[0]}.")
    if view is not None:
        return open_store(store, view=view.value)
    return open_store(store, view=None if head == MEAN_POOL else read_config(Path(head)).view)
