"""How a head is trained: the settings of `muse.head.train`. Knows nothing of what they do."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

from muse.errors import UsageError
from muse.head.devices import Device, Precision
from muse.head.epoch_order import SHUFFLE_WINDOW, Captions, Shuffle
from muse.head.head_config import Mode
from muse.head.loss import Duplicates
from muse.head.optimizer import DecayRule, OptimizerName
from muse.head.scan.select import ScanBackend

# 16 videos of 8 frames take 6.3 GB in float32, 128 of 12 frames 36 GiB in bf16.
VIDEOS_AT_ONCE = {"cpu": 16, "cuda": 128}

Augment = Literal["none", "crop"]

NO_FINETUNE = "none"
ALL_FINETUNE = "all"
MAX_RESTARTS = 3  # of workers, from the last checkpoint

SELECT_AUTO = "auto"
SELECT_NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a head is trained. The defaults are MUSE's on MSR-VTT, for a frozen CLIP."""

    split: str = "train"
    """Whose captions are trained on; ``all`` for every split."""
    epochs: int = 5
    """Passes over all caption and video pairs."""
    batch_size: int = 128
    """Pairs of a batch; a step is one batch, or as many as ``accumulate`` says."""
    captions: Captions = "all"
    """``all``: an epoch has every pair; ``one``: one caption of each video, drawn anew."""
    shuffle: Shuffle = "full"
    """``full``, or ``shards`` for a store larger than memory or on a slow disk, which is then read
    about once an epoch, in large pieces; see `muse.head.epoch_order`."""
    shuffle_window: int = SHUFFLE_WINDOW
    """Videos in memory at a time, among which ``shards`` mixes pairs; whole shards of them."""
    videos_at_once: int | None = None
    """Videos of a batch that are embedded together; fewer need less memory and one more forward.

    None: `VIDEOS_AT_ONCE` of the device."""
    recompute: bool = False
    """Whether each block's activations are made again for the gradient rather than kept: one more
    forward, the same numbers, less memory. Read by the ``muse`` aggregator and a trained image
    tower."""
    accumulate: int = 1
    """Batches a step: its gradient is that of their mean loss, and steps, schedule and checkpoints
    count it as one. What an epoch has left over is left out.

    Unlike ``videos_at_once``, which keeps every negative of a larger batch, each of these batches
    sees its own pairs alone: a smoother gradient, no harder task."""
    optimizer: OptimizerName = "adamw"
    """``bertadam``: as published, `muse.head.bert_adam`."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.2
    """Of what ``decay`` names."""
    decay: DecayRule = "matrices"
    """``matrices``: norms, biases, A, D and the temperature are not decayed; ``published``: all
    but biases are."""
    finetune: str = NO_FINETUNE
    """``top:K``: the last K blocks of the image tower, its last norm and its projection are trained
    with the head, from the store's view ``block:k`` below them; ``all``: the whole image tower is,
    from frames (`muse.head.finetune`)."""
    augment: Augment = "none"
    """Of ``finetune`` ``all``. ``crop``: each time a video is trained on, its frames are cut to one
    random square of 7/8 to all of their side; ``none``: they are seen whole, as in evaluation."""
    finetune_text: bool = False
    """Whether the text tower is trained too, from the captions' token ids; else their cached
    embeddings are read."""
    lora: int = 0
    """Rank of adapters that are trained in the blocks' attention and MLP, instead of any weight of
    the towers (`muse.head.lora`); 0 for none. They begin at zero: give ``clip_lr`` 1e-4 or so."""
    clip_lr: float = 1e-6
    """Peak learning rate of the towers. The published 1e-7 is one of half-precision weights, which
    it hardly moves; weights here are float32 always."""
    layer_decay: float = 1.0
    """The towers' rate is this times that of the layer above, from the last block down."""
    warmup: float = 0.1
    """Part of all steps in which the learning rate grows linearly from 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm over all parameters."""
    ema: float = 0.0
    """Decay a step of an average of the weights, which is then what the run ends with; 0: none."""
    select_on: str = SELECT_AUTO
    """The split that the head is measured on after each epoch; the run ends with the best epoch's
    weights (`muse.head.selection`).

    ``auto``: what ``hold_out`` holds out, else the store's validation split, else none; ``none``:
    the run ends with the last epoch's."""
    hold_out: float = 0.0
    """Part of the training split's videos that is not trained on but selected on, for a store
    without a validation split."""
    duplicates: Duplicates = "masked"
    """What a second pair of the same video is in a batch; see `muse.head.loss`."""
    seed: int = 42
    """Decides initial weights, order of pairs, dropout and what is held out."""
    deterministic: bool = False
    """Whether CUDA repeats a run bit for bit, as a CPU does anyway; slower."""
    precision: Precision = "auto"
    """``auto``: bf16 matrix products on CUDA, fp32 elsewhere. The scan is fp32 always."""
    device: Device = "auto"
    """``auto``: CUDA where there is one."""
    scan: ScanBackend = "auto"
    """``auto``: ``cuda`` on a GPU, else ``cpu``."""
    num_workers: int = 1
    """Processes, one a GPU, that share each batch: ``batch_size`` is of all together, and the
    numbers are those of one worker but for rounding and dropout."""
    checkpoint_every: int = 500
    """Steps between checkpoints, beside the one at the end of each epoch."""

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "shuffle_window",
            "videos_at_once",
            "accumulate",
            "num_workers",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: at least 1 is needed")
        for name in ("lr", "clip_lr", "layer_decay", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} {getattr(self, name)}: choose a number above 0")
        if self.layer_decay > 1:
            raise UsageError(f"layer_decay {self.layer_decay}: choose a number above 0, up to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay {self.weight_decay}: choose 0 or more")
        for name in ("warmup", "ema", "hold_out"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: choose a part from 0 up to 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed}: choose a number from 0 to 2**63 - 1")
        if self.shuffle == "shards" and self.shuffle_window < self.batch_size:
            raise UsageError(
                f"shuffle_window {self.shuffle_window}: a batch has {self.batch_size} pairs; "
                "choose several times that"
            )
        for name, choices in (
            ("optimizer", get_args(OptimizerName)),
            ("decay", get_args(DecayRule)),
            ("augment", get_args(Augment)),
            ("captions", get_args(Captions)),
            ("shuffle", get_args(Shuffle)),
            ("duplicates", get_args(Duplicates)),
            ("precision", get_args(Precision)),
            ("device", get_args(Device)),
            ("scan", get_args(ScanBackend)),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} {getattr(self, name)!r}: choose one of {', '.join(choices)}"
                )
        self._require_fitting()

    def _require_fitting(self) -> None:
        """Refuses settings that contradict each other."""
        if self.deterministic and self.scan == "mamba-ssm":
            raise UsageError(
                "scan mamba-ssm with deterministic: its backward adds in an order that changes. "
                "Choose scan cuda, or auto."
            )
        if self.finetune_text and self.finetune == NO_FINETUNE:
            raise UsageError(
                "finetune_text without finetune: a text tower is trained with the image tower "
                "or its top. Choose finetune top:1 or more, or all."
            )
        if self.augment != "none" and self.finetune != ALL_FINETUNE:
            raise UsageError(
                f"augment {self.augment} with finetune {self.finetune}: only frames can be cut, "
                "and this reads none. Choose finetune all, or augment none."
            )
        if self.lora < 0:
            raise UsageError(f"lora {self.lora}: choose a rank of at least 1, or 0 for no adapters")
        if self.lora and self.finetune == NO_FINETUNE:
            raise UsageError(
                f"lora {self.lora} without finetune: adapters go into the blocks that finetune "
                "names. Choose finetune top:1 or more."
            )
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("clip_lr", "layer_decay"):
            if self.finetune == NO_FINETUNE and getattr(self, name) != usual[name]:
                raise UsageError(
                    f"{name} {getattr(self, name):g} without finetune: it is a rate of CLIP's "
                    "weights, and none of them is trained. Choose finetune top:1 or more, or leave "
                    "it out."
                )
        is_named = self.select_on not in (SELECT_AUTO, SELECT_NONE)
        if self.hold_out and self.select_on != SELECT_AUTO:
            raise UsageError(
                f"hold_out {self.hold_out} with select_on {self.select_on!r}: what is held out is "
                "what is selected on. Leave one of them away."
            )
        is_trained_on = self.select_on == self.split or "all" in (self.select_on, self.split)
        if is_named and is_trained_on:
            raise UsageError(
                f"select_on {self.select_on!r}: it is trained on. Name another split, or hold a "
                "part back with --hold-out 0.05."
            )


def training_of_mode(mode: Mode) -> TrainConfig:
    """The preset of training that goes with `muse.head.head_config.head_of_mode`.

    ``release`` is the published optimiser, with duplicate videos of a batch as negatives; its rate
    for a head, 1e-3, is everybody's here.
    """
    if mode == "release":
        return TrainConfig(optimizer="bertadam", decay="published", duplicates="negatives")
    return TrainConfig()
