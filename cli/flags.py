"""Flags that several commands share, each described once."""

from enum import StrEnum
from typing import Annotated

import typer

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
    mamba_ssm = "mamba-ssm"


ScanOption = Annotated[
    ScanFlag,
    typer.Option(help="Selective scan; auto is mamba-ssm's on a GPU where installed, else cpu."),
]
