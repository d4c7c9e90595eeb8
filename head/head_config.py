"""The shape of a head: its settings, and the presets of them.

Every axis of the paper's tables is a field. Three presets: ``paper``, what the paper says;
``release``, what its published code does; ``muse``, what we recommend. Knows nothing of modules.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from muse.errors import UsageError
from muse.head.mixers.choice import Mixer
from muse.head.ordering import Order
from muse.head.pyramid import FACTORS
from muse.head.readout import Readout
from muse.head.residual import Residual
from muse.pipeline.header import StoreHeader

MAX_LOGIT_SCALE = math.log(100)  # CLIP sec. 2.5

Aggregator = Literal["muse", "seq-transf"]
Mode = Literal["paper", "release", "muse"]
Pyramid = Literal["trained", "frozen"]
Init = Literal["mamba", "normal"]
Padding = Literal["dropped", "scanned"]

READ_BY_ALL = ("aggregator", "dim", "depth", "logit_scale_init")
READ_BY: dict[Aggregator, tuple[str, ...]] = {
    "muse": (
        "factors",
        "order",
        "mixer",
        "residual",
        "readout",
        "dropout",
        "d_state",
        "d_conv",
        "expand",
        "pyramid",
        "init",
        "padding",
    ),
    "seq-transf": ("max_frames",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """The shape of a head. The defaults are MUSE's for CLIP ViT-B/32 on MSR-VTT.

    Fields that only one aggregator reads say so, and change nothing of another.
    """

    dim: int
    """D, width of the joint space: the encoder's."""
    aggregator: Aggregator = "muse"
    """What makes one embedding a frame of all tokens of a video: ``muse``, all scales through
    BiMamba blocks; ``seq-transf``, the class tokens through CLIP4Clip's transformer."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Scales beside the class token, as factors on the grid, in the order they are scanned.

    (): the class tokens alone. Read by ``muse``."""
    order: Order = "scale"
    """How the tokens follow each other (`muse.head.ordering`). Read by ``muse``."""
    mixer: Mixer = "bimamba-v2"
    """What mixes the sequence in a block (`muse.head.mixers`). Read by ``muse``."""
    residual: Residual = "gated"
    """How a block adds to its input (`muse.head.residual`). Read by ``muse``."""
    readout: Readout = "class"
    """What of the sequence becomes the frames (`muse.head.readout`). Read by ``muse``."""
    depth: int = 4
    """Residual BiMamba blocks, or layers of the transformer. At 0 a head is mean pooling."""
    dropout: float = 0.1
    """Of the last block; it grows linearly from 0 at the first. Read by ``muse``."""
    d_state: int = 16
    """N, size of the state of a channel. Read by ``muse``."""
    d_conv: int = 4
    """Taps of the causal convolution. Read by ``muse``."""
    expand: int = 1
    """Inner width over D; Mamba's usual 2 is not MUSE's. Read by ``muse``."""
    pyramid: Pyramid = "trained"
    """``frozen``: random convolutions that are saved and never trained, as in the published code.
    Read by ``muse``."""
    init: Init = "mamba"
    """``mamba``: Mamba's own and a gate of zeros; ``normal``: every linear layer of a block, the
    gate too, N(0, 0.02) and biases 0, as in the published code. Read by ``muse``."""
    padding: Padding = "dropped"
    """Whether frames that a short video lacks are left out of the sequence, or ``scanned`` like
    others, as in the published code (which encodes grey frames; here they are zeros). Read by
    ``muse``."""
    max_frames: int = 64
    """Positions that are learned, the most frames a video may have. Read by ``seq-transf``."""
    logit_scale_init: float = MAX_LOGIT_SCALE
    """Natural logarithm of the factor on the cosine, where it begins: the encoder's own.

    Held at ln 100 or less, like the parameter."""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} {getattr(self, name)!r}: choose one of {', '.join(choices)}"
                )
        for name in ("dim", "d_state", "d_conv", "expand", "max_frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: at least 1 is needed")
        if self.depth < 0:
            raise UsageError(f"depth {self.depth}: at least 0 is needed")
        self._check_factors()
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout}: choose a rate from 0 up to 1")
        if not math.isfinite(self.logit_scale_init):
            raise UsageError(f"logit_scale_init {self.logit_scale_init}: choose a finite number")

    def _check_factors(self) -> None:
        if len(set(self.factors)) < len(self.factors):
            raise UsageError(f"factors {self.factors}: name each scale once")
        for factor in self.factors:
            if factor not in FACTORS:
                raise UsageError(f"factor {factor}: choose from {FACTORS}")
            if self.dim % max(1, int(factor)):
                raise UsageError(f"factor {factor}: dim {self.dim} can't be divided by it")

    @property
    def fields_read(self) -> tuple[str, ...]:
        """Names of the fields that decide what the head computes."""
        return (*READ_BY_ALL, *READ_BY[self.aggregator])


CHOICES: dict[str, tuple[str, ...]] = {
    "aggregator": get_args(Aggregator),
    "order": get_args(Order),
    "mixer": get_args(Mixer),
    "residual": get_args(Residual),
    "readout": get_args(Readout),
    "pyramid": get_args(Pyramid),
    "init": get_args(Init),
    "padding": get_args(Padding),
}


def paper_head(header: StoreHeader) -> HeadConfig:
    """MUSE's head for a store: its width, most frames, and the encoder's own temperature."""
    return HeadConfig(
        dim=header.encoder.dim,
        logit_scale_init=header.encoder.logit_scale,
        max_frames=header.sampling.num_frames,
    )


def head_of_mode(mode: Mode, header: StoreHeader) -> HeadConfig:
    """A preset for a store.

    Args:
        mode: ``paper``; ``release``, with the defects of the published code that change what a
            head computes (hrtang22/MUSE c8e44bc); ``muse``, the paper's with a read-out that sees
            every scale (docs/adr/0015).
        header: The store's.
    """
    if mode == "muse":
        return replace(paper_head(header), readout="max")
    if mode == "release":
        return replace(paper_head(header), pyramid="frozen", init="normal", padding="scanned")
    return paper_head(header)
