"""``muse train-head``: flags to a `TrainConfig` and a `HeadConfig`."""

import dataclasses
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from muse.cli.flags import DeviceOption, ScanFlag, ScanOption, StoreArgument, ViewOption
from muse.errors import UsageError


class AggregatorFlag(StrEnum):
    """Values of ``--aggregator``."""

    muse = "muse"
    seq_transf = "seq-transf"


class OrderFlag(StrEnum):
    """Values of ``--order``."""

    scale = "scale"
    frame = "frame"
    spatial = "spatial"


class MixerFlag(StrEnum):
    """Values of ``--mixer``."""

    bimamba_v2 = "bimamba-v2"
    bimamba_v1 = "bimamba-v1"
    mamba = "mamba"
    transformer = "transformer"
    flash_attention = "flash-attention"
    mamba_out = "mamba-out"
    identity = "identity"


class CaptionsFlag(StrEnum):
    """Values of ``--captions``."""

    all = "all"
    one = "one"


class ShuffleFlag(StrEnum):
    """Values of ``--shuffle``."""

    full = "full"
    shards = "shards"


class TrainPrecisionFlag(StrEnum):
    """Values of ``--precision``."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class DuplicatesFlag(StrEnum):
    """Values of ``--duplicates``."""

    masked = "masked"
    negatives = "negatives"


def train_head(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run, made or continued.")],
    split: Annotated[
        str, typer.Option(help="Captions to train on; all for every split.")
    ] = "train",
    epochs: Annotated[int, typer.Option(help="Passes over all caption and video pairs.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 128,
    captions: Annotated[
        CaptionsFlag, typer.Option(help="An epoch has all, or one of each video, drawn anew.")
    ] = CaptionsFlag.all,
    shuffle: Annotated[
        ShuffleFlag,
        typer.Option(help="shards: reads a store larger than memory about once an epoch."),
    ] = ShuffleFlag.full,
    shuffle_window: Annotated[
        int, typer.Option(help="shards: videos in memory, among which pairs are mixed.")
    ] = 1024,
    videos_at_once: Annotated[
        int | None, typer.Option(help="Embedded together: fewer, less memory, same gradient.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.2,
    warmup: Annotated[float, typer.Option(help="Part of the steps with a rising rate.")] = 0.1,
    aggregator: Annotated[
        AggregatorFlag,
        typer.Option(help="muse, or seq-transf: CLIP4Clip's transformer over class tokens."),
    ] = AggregatorFlag.muse,
    depth: Annotated[int, typer.Option(help="BiMamba blocks, or layers of seq-transf.")] = 4,
    factors: Annotated[
        str,
        typer.Option(help="muse: scales, as factors on the patch grid; none for class tokens."),
    ] = "0.5,1,2",
    order: Annotated[
        OrderFlag, typer.Option(help="muse: how the tokens of frames and scales follow each other.")
    ] = OrderFlag.scale,
    mixer: Annotated[
        MixerFlag, typer.Option(help="muse: what mixes the sequence in each block.")
    ] = MixerFlag.bimamba_v2,
    dropout: Annotated[float, typer.Option(help="muse: of the last block.")] = 0.1,
    duplicates: Annotated[
        DuplicatesFlag, typer.Option(help="A video twice in a batch: masked, or a negative.")
    ] = DuplicatesFlag.masked,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 42,
    view: ViewOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        TrainPrecisionFlag, typer.Option(help="auto is bf16 on a GPU, else fp32.")
    ] = TrainPrecisionFlag.auto,
    scan: ScanOption = ScanFlag.auto,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints, beside each epoch's.")
    ] = 500,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Steps and summary as JSON lines on stdout.")
    ] = False,
) -> None:
    """Train the MUSE head, or a baseline of it, on a feature store."""
    from muse.cli.progress import TrainReporter, interruptible
    from muse.head.train import paper_head, train
    from muse.head.train_config import TrainConfig
    from muse.pipeline.store import open_store

    opened = open_store(store, view=view.value if view else None)
    head = dataclasses.replace(
        paper_head(opened.header),
        aggregator=aggregator.value,
        factors=_factors(factors),
        order=order.value,
        mixer=mixer.value,
        depth=depth,
        dropout=dropout,
    )
    config = TrainConfig(
        split=split,
        epochs=epochs,
        batch_size=batch_size,
        captions=captions.value,
        shuffle=shuffle.value,
        shuffle_window=shuffle_window,
        videos_at_once=videos_at_once,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        duplicates=duplicates.value,
        seed=seed,
        device=device,  # type: ignore[arg-type]  # checked by TrainConfig
        precision=precision.value,
        scan=scan.value,
        checkpoint_every=checkpoint_every,
    )
    with interruptible(), TrainReporter(json_lines=json_lines) as reporter:
        summary = train(
            opened, out, config=config, head=head, command=sys.argv, on_step=reporter.update
        )
    reporter.finish(summary)


def _factors(text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--factors {text!r}: write numbers with commas, such as 0.5,1,2, or none."
        ) from None
