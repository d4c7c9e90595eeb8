"""The choices of ``muse train-head``'s flags; a test holds each to its owner's."""

from enum import StrEnum


class ModeFlag(StrEnum):
    """Values of ``--mode``."""

    paper = "paper"
    release = "release"
    muse = "muse"


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


class ResidualFlag(StrEnum):
    """Values of ``--residual``."""

    gated = "gated"
    plain = "plain"
    none = "none"


class ReadoutFlag(StrEnum):
    """Values of ``--readout``."""

    class_ = "class"
    ends = "ends"
    interleaved = "interleaved"
    pool = "pool"
    max = "max"
    attend = "attend"


class PyramidFlag(StrEnum):
    """Values of ``--pyramid``."""

    trained = "trained"
    frozen = "frozen"


class InitFlag(StrEnum):
    """Values of ``--init``."""

    mamba = "mamba"
    normal = "normal"


class PaddingFlag(StrEnum):
    """Values of ``--padding``."""

    dropped = "dropped"
    scanned = "scanned"


class CaptionsFlag(StrEnum):
    """Values of ``--captions``."""

    all = "all"
    one = "one"


class ShuffleFlag(StrEnum):
    """Values of ``--shuffle``."""

    full = "full"
    shards = "shards"


class AugmentFlag(StrEnum):
    """Values of ``--augment``."""

    none = "none"
    crop = "crop"


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
