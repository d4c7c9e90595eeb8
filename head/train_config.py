"""How a head is trained: the settings of `muse.head.train`. Knows nothing of what they do."""

import math
from dataclasses import dataclass
from typing import get_args

from muse.errors import UsageError
from muse.head.devices import Device, Precision
from muse.head.epoch_order import SHUFFLE_WINDOW, Captions, Shuffle
from muse.head.loss import Duplicates
from muse.head.scan.select import ScanBackend

# 16 videos of 8 frames take 6.3 GB in float32, 128 of 12 frames 36 GiB in bf16.
VIDEOS_AT_ONCE = {"cpu": 16, "cuda": 128}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a head is trained. The defaults are MUSE's on MSR-VTT, for a frozen CLIP."""

    split: str = "train"
    """Whose captions are trained on; ``all`` for every split."""
    epochs: int = 5
    """Passes over all caption and video pairs."""
    batch_size: int = 128
    """Pairs a step."""
    captions: Captions = "all"
    """``all``: an epoch has every pair; ``one``: one caption of each video, drawn anew."""
    shuffle: Shuffle = "full"
    """``full``, or ``shards`` for a store larger than memory or on a slow disk, which is then read
    about once an epoch, in large pieces; see `muse.head.epoch_order`."""
    shuffle_window: int = SHUFFLE_WINDOW
    """Videos in memory at a time, among which ``shards`` mixes pairs; whole shards of them."""
    videos_at_once: int | None = None
    """Videos of a step that are embedded together; fewer need less memory and one more forward.

    None: `VIDEOS_AT_ONCE` of the device."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.2
    """Of matrices; norms, biases, A, D and the temperature have none."""
    warmup: float = 0.1
    """Part of all steps in which the learning rate grows linearly from 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm over all parameters."""
    duplicates: Duplicates = "masked"
    """What a second pair of the same video is in a batch; see `muse.head.loss`."""
    seed: int = 42
    """Decides initial weights, order of pairs and dropout."""
    precision: Precision = "auto"
    """``auto``: bf16 matrix products on CUDA, fp32 elsewhere. The scan is fp32 always."""
    device: Device = "auto"
    """``auto``: CUDA where there is one."""
    scan: ScanBackend = "auto"
    """``auto``: mamba-ssm's kernel where it is installed and the device is CUDA."""
    checkpoint_every: int = 500
    """Steps between checkpoints, beside the one at the end of each epoch."""

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "shuffle_window",
            "videos_at_once",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: at least 1 is needed")
        for name in ("lr", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} {getattr(self, name)}: choose a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay {self.weight_decay}: choose 0 or more")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup {self.warmup}: choose a part from 0 up to 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed}: choose a number from 0 to 2**63 - 1")
        if self.shuffle == "shards" and self.shuffle_window < self.batch_size:
            raise UsageError(
                f"shuffle_window {self.shuffle_window}: a batch has {self.batch_size} pairs; "
                "choose several times that"
            )
        for name, choices in (
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
