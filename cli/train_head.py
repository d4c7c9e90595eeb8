"""``muse train-head``: flags to a `TrainConfig` and a `HeadConfig`."""

import dataclasses
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from muse.cli.flags import DeviceOption, ScanFlag, ScanOption, StoreArgument, ViewOption
from muse.cli.replay import ConfigOption
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


class TrainPrecisionFlag(StrEnum):
    """Values of ``--precision``."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class DuplicatesFlag(StrEnum):
    """Values of ``--duplicates``."""

    masked = "masked"
    negatives = "negatives"


class OptimizerFlag(StrEnum):
    """Values of ``--optimizer``."""

    adamw = "adamw"
    bertadam = "bertadam"


class DecayFlag(StrEnum):
    """Values of ``--decay``."""

    matrices = "matrices"
    published = "published"


def train_head(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run, made or continued.")],
    config_file: ConfigOption = None,
    split: Annotated[
        str, typer.Option(help="Captions to train on; all for every split.")
    ] = "train",
    epochs: Annotated[int, typer.Option(help="Passes over all caption and video pairs.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Pairs of a batch.")] = 128,
    videos_at_once: Annotated[
        int | None, typer.Option(help="Embedded together: fewer, less memory, same gradient.")
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="muse: less memory, same numbers, one more forward."),
    ] = False,
    accumulate: Annotated[
        int, typer.Option(help="Batches a step; each sees its own negatives alone.")
    ] = 1,
    optimizer: Annotated[
        OptimizerFlag, typer.Option(help="adamw, or bertadam as published.")
    ] = OptimizerFlag.adamw,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of what --decay names.")] = 0.2,
    decay: Annotated[
        DecayFlag, typer.Option(help="matrices, or as published all but biases.")
    ] = DecayFlag.matrices,
    warmup: Annotated[float, typer.Option(help="Part of the steps with a rising rate.")] = 0.1,
    ema: Annotated[
        float, typer.Option(help="Decay of an average of the weights to end with; 0 for none.")
    ] = 0.0,
    select_on: Annotated[
        str,
        typer.Option(
            help="Split to choose the best epoch on; auto is the store's validation split, if any;"
            " none ends with the last epoch."
        ),
    ] = "auto",
    hold_out: Annotated[
        float,
        typer.Option(help="Part of the training videos to choose the best epoch on instead."),
    ] = 0.0,
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
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same bits again on a GPU too; slower.")
    ] = False,
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
    from muse.head.determinism import prepare_process
    from muse.head.train import paper_head, train
    from muse.head.train_config import TrainConfig
    from muse.pipeline.store import open_store

    if deterministic:
        prepare_process()
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
        videos_at_once=videos_at_once,
        recompute=recompute,
        accumulate=accumulate,
        optimizer=optimizer.value,
        lr=lr,
        weight_decay=weight_decay,
        decay=decay.value,
        warmup=warmup,
        ema=ema,
        select_on=select_on,
        hold_out=hold_out,
        duplicates=duplicates.value,
        seed=seed,
        deterministic=deterministic,
        device=device,  # type: ignore[arg-type]  # checked by TrainConfig
        precision=precision.value,
        scan=scan.value,
        checkpoint_every=checkpoint_every,
    )
    with interruptible(), TrainReporter(json_lines=json_lines) as reporter:
        summary = train(
            opened,
            out,
            config=config,
            head=head,
            command=sys.argv,
            on_step=reporter.update,
            on_epoch=reporter.epoch,
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
