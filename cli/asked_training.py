"""What ``muse train-head`` and ``muse ablate`` are asked to train: flags to configurations.

A mode is a preset of head and training; a flag that was given wins over it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.flags import DeviceOption, ScanFlag, ScanOption, StoreArgument, ViewOption
from muse.cli.replay import ConfigOption
from muse.cli.train_flags import (
    AggregatorFlag,
    AugmentFlag,
    CaptionsFlag,
    DecayFlag,
    DuplicatesFlag,
    InitFlag,
    MixerFlag,
    ModeFlag,
    OptimizerFlag,
    OrderFlag,
    PaddingFlag,
    PyramidFlag,
    ReadoutFlag,
    ResidualFlag,
    ShuffleFlag,
    TrainPrecisionFlag,
)
from muse.errors import UsageError

if TYPE_CHECKING:
    from muse.head.head_config import HeadConfig
    from muse.head.train_config import TrainConfig
    from muse.pipeline.store import FeatureStore


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
    max_restarts: int
    ray_address: str | None
    json_lines: bool


def _panel(title: str) -> Callable[..., Any]:
    """Options that stand together in the command's help."""

    def option(text: str, *names: str) -> Any:
        return typer.Option(*names, help=text, rich_help_panel=title)

    return option


_head = _panel("The head")
_steps = _panel("Steps")
_clip = _panel("Training CLIP too")
_ending = _panel("Which weights to end with")
_seeds = _panel("Several seeds")
_workers = _panel("Many workers")


# Its docstring is the command's help: `train_head` takes both over.
def asked_training(
    context: typer.Context,
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run, made or continued.")],
    config_file: ConfigOption = None,
    mode: Annotated[
        ModeFlag,
        typer.Option(
            help="Defaults of the other flags: paper; release, as the published code does it; "
            "muse, what we recommend."
        ),
    ] = ModeFlag.paper,
    split: Annotated[
        str, typer.Option(help="Captions to train on; all for every split.")
    ] = "train",
    epochs: Annotated[int, _steps("Passes over all caption and video pairs.")] = 5,
    batch_size: Annotated[int, _steps("Pairs of a batch.")] = 128,
    captions: Annotated[
        CaptionsFlag, _steps("An epoch has all, or one of each video, drawn anew.")
    ] = CaptionsFlag.all,
    shuffle: Annotated[
        ShuffleFlag,
        _steps("shards: reads a store larger than memory about once an epoch."),
    ] = ShuffleFlag.full,
    shuffle_window: Annotated[
        int, _steps("shards: videos in memory, among which pairs are mixed.")
    ] = 1024,
    videos_at_once: Annotated[
        int | None, _steps("Embedded together: fewer, less memory, same gradient.")
    ] = None,
    recompute: Annotated[
        bool,
        _steps("muse: less memory, same numbers, one more forward.", "--recompute/--no-recompute"),
    ] = False,
    accumulate: Annotated[int, _steps("Batches a step; each sees its own negatives alone.")] = 1,
    optimizer: Annotated[
        OptimizerFlag, _steps("adamw, or bertadam as published.")
    ] = OptimizerFlag.adamw,
    lr: Annotated[float, _steps("Peak learning rate.")] = 1e-3,
    weight_decay: Annotated[float, _steps("Of what --decay names.")] = 0.2,
    decay: Annotated[
        DecayFlag, _steps("matrices; or, as published, all but biases and the temperature.")
    ] = DecayFlag.matrices,
    warmup: Annotated[float, _steps("Part of the steps with a rising rate.")] = 0.1,
    finetune: Annotated[
        str,
        _clip(
            "top:K trains the last K blocks of the image tower, from view block:k; all, the whole "
            "of it, from frames:uint8 or frames:jpeg, else from the videos themselves."
        ),
    ] = "none",
    augment: Annotated[
        AugmentFlag, _clip("all: crop cuts a video's frames to a random square, each time.")
    ] = AugmentFlag.none,
    finetune_text: Annotated[
        bool,
        _clip("Train the text tower too.", "--finetune-text/--no-finetune-text"),
    ] = False,
    lora: Annotated[
        int, _clip("Rank of adapters to train in CLIP's place, as 8 with --clip-lr 1e-4; 0: none.")
    ] = 0,
    clip_lr: Annotated[float, _clip("Peak learning rate of CLIP's weights.")] = 1e-6,
    layer_decay: Annotated[float, _clip("A layer's rate over that of the layer above.")] = 1.0,
    ema: Annotated[
        float, _ending("Decay of an average of the weights to end with; 0 for none.")
    ] = 0.0,
    select_on: Annotated[
        str,
        _ending(
            "Split to choose the best epoch on; auto is the store's validation split, if any;"
            " none ends with the last epoch."
        ),
    ] = "auto",
    hold_out: Annotated[
        float,
        _ending("Part of the training videos to choose the best epoch on instead."),
    ] = 0.0,
    aggregator: Annotated[
        AggregatorFlag,
        _head("muse, or seq-transf: CLIP4Clip's transformer over class tokens."),
    ] = AggregatorFlag.muse,
    depth: Annotated[int, _head("BiMamba blocks, or layers of seq-transf.")] = 4,
    factors: Annotated[
        str,
        _head("muse: scales, as factors on the patch grid; none for class tokens."),
    ] = "0.5,1,2",
    scales: Annotated[
        str | None,
        _head("muse: the same as cells along a side, as 1,3,7,14; 1: class token."),
    ] = None,
    order: Annotated[
        OrderFlag, _head("muse: how the tokens of frames and scales follow each other.")
    ] = OrderFlag.scale,
    mixer: Annotated[
        MixerFlag, _head("muse: what mixes the sequence in each block.")
    ] = MixerFlag.bimamba_v2,
    residual: Annotated[
        ResidualFlag, _head("muse: how a block adds to its input.")
    ] = ResidualFlag.gated,
    readout: Annotated[
        ReadoutFlag, _head("muse: what of the sequence becomes the frames.")
    ] = ReadoutFlag.class_,
    dropout: Annotated[float, _head("muse: of the last block.")] = 0.1,
    d_state: Annotated[int, _head("muse: states of a channel of the scan.")] = 16,
    d_conv: Annotated[int, _head("muse: taps of the scan's convolution.")] = 4,
    expand: Annotated[int, _head("muse: the scan's width over the tokens'.")] = 1,
    pyramid: Annotated[
        PyramidFlag, _head("muse: trained, or random and frozen as published.")
    ] = PyramidFlag.trained,
    init: Annotated[
        InitFlag, _head("muse: Mamba's own and zero gates, or normal as published.")
    ] = InitFlag.mamba,
    padding: Annotated[
        PaddingFlag, _head("muse: frames that are none, dropped, or as published.")
    ] = PaddingFlag.dropped,
    duplicates: Annotated[
        DuplicatesFlag, _steps("A video twice in a batch: masked, or a negative.")
    ] = DuplicatesFlag.masked,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 42,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic/--no-deterministic", help="Same bits again on a GPU too; slower."
        ),
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
    seeds: Annotated[
        int | None, _seeds("Runs, from --seed on: OUT/seed-42, … and their mean.")
    ] = None,
    evaluate_on: Annotated[
        str | None, _seeds("With --seeds: split to evaluate each on, else test.")
    ] = None,
    num_workers: Annotated[
        int, _workers("Share each batch, one a GPU; --batch-size is of all together.")
    ] = 1,
    max_restarts: Annotated[
        int, _workers("Times that lost workers are made up for, from the last checkpoint.")
    ] = 3,
    ray_address: Annotated[
        str | None, _workers("Of a running Ray cluster; else one is started here.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Steps and summary as JSON lines on stdout.")
    ] = False,
) -> AskedTraining:
    """Train the MUSE head, or a baseline of it, on a feature store."""
    given = _given(context, locals())
    if config_file is not None and "mode" in given:
        raise UsageError(
            f"--config {config_file} with --mode {mode.value}: a run's settings are all there, and "
            "leave nothing to a mode. Name one of them."
        )
    from muse.head.determinism import prepare_process
    from muse.head.finetune import view_below
    from muse.head.head_config import head_of_mode
    from muse.head.train_config import training_of_mode
    from muse.pipeline.store import open_store

    if deterministic:
        prepare_process()
    opened = open_store(store, view=view.value if view else None)
    below = view_below(finetune, opened.header)
    if below is not None and view is not None:
        raise UsageError(
            f"--view {view.value} with --finetune {finetune}: that reads {below}. Leave --view out."
        )
    if below is not None:
        opened = open_store(store, view=below)
    if "scales" in given or "factors" in given:
        source = context.get_parameter_source("factors")
        is_typed = source is not None and source.name == "COMMANDLINE"
        given["factors"] = _factors(opened, given, is_typed=is_typed)
    return AskedTraining(
        store=opened,
        out=out,
        head=_changed(head_of_mode(mode.value, opened.header), given),
        config=_changed(training_of_mode(mode.value), given),
        num_seeds=seeds,
        evaluate_on=evaluate_on,
        max_restarts=max_restarts,
        ray_address=ray_address,
        json_lines=json_lines,
    )


def _given(context: typer.Context, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were typed, or come from ``--config``; enumerations as their values."""
    found = {}
    for name, value in flags.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            found[name] = value.value if isinstance(value, StrEnum) else value
    return found


def _changed(config: Any, given: Mapping[str, Any]) -> Any:
    """A configuration with those of its fields that were given."""
    names = {field.name for field in dataclasses.fields(config)} & given.keys()
    return dataclasses.replace(config, **{name: given[name] for name in names})


def _factors(
    store: "FeatureStore", given: Mapping[str, Any], *, is_typed: bool
) -> tuple[float, ...]:
    """What ``--scales`` or ``--factors`` say; ``is_typed``: the factors are not ``--config``'s."""
    from muse.head.pyramid import factors_of_sides

    if "scales" not in given:
        return _numbers("factors", given["factors"])
    if "factors" in given and is_typed:
        raise UsageError(
            f"--scales {given['scales']} with --factors {given['factors']}: name one of them."
        )
    return factors_of_sides(store.header.encoder.grid, _numbers("scales", given["scales"]))


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--{flag} {text!r}: write numbers with commas, such as 0.5,1,2, or none."
        ) from None
