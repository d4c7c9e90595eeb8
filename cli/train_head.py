"""``muse train-head``: flags to a `TrainConfig` and a `HeadConfig`, once or for several seeds.

The flags are those of `asked_training`, which ``muse ablate`` reads too.
"""

import dataclasses
import functools
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.flags import DeviceOption, ScanFlag, ScanOption, StoreArgument, ViewOption
from muse.errors import UsageError

if TYPE_CHECKING:
    from muse.head.head_config import HeadConfig
    from muse.head.train_config import TrainConfig
    from muse.pipeline.store import FeatureStore


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


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedTraining:
    """What the flags ask for."""

    store: "FeatureStore"
    out: Path
    head: "HeadConfig"
    config: "TrainConfig"
    num_seeds: int | None
    """None: one run, whose folder is ``out`` itself."""
    evaluate_on: str | None
    json_lines: bool


# Its docstring is the command's help: `train_head` takes both over.
def asked_training(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run, made or continued.")],
    split: Annotated[
        str, typer.Option(help="Captions to train on; all for every split.")
    ] = "train",
    epochs: Annotated[int, typer.Option(help="Passes over all caption and video pairs.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 128,
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
    seeds: Annotated[
        int | None, typer.Option(help="Runs, from --seed on: OUT/seed-42, … and their mean.")
    ] = None,
    evaluate_on: Annotated[
        str | None, typer.Option(help="With --seeds: split to evaluate each on, else test.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Steps and summary as JSON lines on stdout.")
    ] = False,
) -> AskedTraining:
    """Train the MUSE head, or a baseline of it, on a feature store."""
    from muse.head.head_config import paper_head
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
    return AskedTraining(
        store=opened,
        out=out,
        head=head,
        config=config,
        num_seeds=seeds,
        evaluate_on=evaluate_on,
        json_lines=json_lines,
    )


@functools.wraps(asked_training)
def train_head(**flags: Any) -> None:
    """Trains what the flags ask for."""
    from muse.cli.progress import TrainReporter, interruptible
    from muse.cli.seeds import train_seeds
    from muse.head.train import train

    asked = asked_training(**flags)
    if asked.num_seeds is not None:
        train_seeds(asked, num_seeds=asked.num_seeds)
        return
    if asked.evaluate_on is not None:
        raise UsageError(
            f"--evaluate-on {asked.evaluate_on}: goes with --seeds. "
            "`muse evaluate STORE --head OUT` evaluates one run."
        )
    with interruptible(), TrainReporter(json_lines=asked.json_lines) as reporter:
        summary = train(
            asked.store,
            asked.out,
            config=asked.config,
            head=asked.head,
            command=sys.argv,
            on_step=reporter.update,
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
