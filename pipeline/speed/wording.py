"""The one sentence of a run's speed: the stage that binds, how near it is, what would lift it."""

import math

from muse.pipeline.speed.report import BINDS_FROM, ENCODER_STAGES, SpeedReport, StageSpeed
from muse.pipeline.speed.spans import LARGE_SIDE

_FULL = 0.85  # of the cores' time: more processes would only share it
_STARVED = 0.7  # of a core that a decoder gets: it waits for files, or for other programs
_IDLE = 0.3  # of its rate of matrix products: it waits for copies and launches
_TELLING = 0.1  # of an encoder's time: what else it does is worth a word
_MOSTLY = 0.5  # of the videos: enough to say what goes for them
_FEW_SHARDS = 2  # for each encoder: what is decoded while it encodes


def speed_sentence(report: SpeedReport) -> str:
    """Which stage binds and what would lift it, or why none does."""
    busiest = report.busiest
    if busiest is None:
        return "nothing was decoded, encoded or written."
    if report.binds is None:
        return _nothing_binds(report, busiest)
    verb = "bind" if busiest.stage == "captions" else "binds"
    advice = _advice(report, busiest) + _untried_gpu(report, busiest)
    return f"{busiest.stage} {verb}: {_rates(report, busiest)}; {advice}"


def _rates(report: SpeedReport, speed: StageSpeed) -> str:
    bound = report.bound_of_workers(speed.stage)
    unit = "captions/s" if speed.stage == "captions" else "videos/s"
    workers = _workers(report, speed)
    if bound is None:
        return f"{workers} {_are(speed)} busy {report.busiest_share:.0%} of the time"
    return f"{rate_text(speed.achieved)} of the {rate_text(bound)} {unit} that {workers} can give"


def _workers(report: SpeedReport, speed: StageSpeed) -> str:
    if speed.stage not in ENCODER_STAGES:
        return _count(speed.num_workers, "decoder" if speed.stage == "decode" else "writer")
    name = f"{_count(speed.num_workers, 'encoder')} on {report.workforce.device}"
    rest = [
        f"{other.stage} {other.share / report.encoder_share:.0%}"
        for other in report.stages
        if other.stage in ENCODER_STAGES
        and other.stage != speed.stage
        and other.share > _TELLING * report.encoder_share
    ]
    return f"{name} (also {', '.join(rest)} of its time)" if rest else name


def _advice(report: SpeedReport, speed: StageSpeed) -> str:
    if speed.stage == "decode":
        return f"{_advice_on_decoding(report, speed)} would lift it{_until(report)}."
    if speed.stage == "write":
        return (
            f"a faster disk or network for --out, or fewer --views, would lift it{_until(report)}."
        )
    if report.workforce.device != "cpu":
        return f"{_advice_on_gpu(report, speed)} would lift it{_until(report)}."
    smaller = "fewer captions" if speed.stage == "captions" else "a smaller --encoder"
    cores = report.cores_share
    if cores is not None and cores < _STARVED:
        return (
            f"a GPU, {smaller}, or a machine that does nothing else (the run got {cores:.0%} of "
            "the cores) would lift it."
        )
    return f"a GPU, or {smaller}, would lift it."


def _advice_on_gpu(report: SpeedReport, speed: StageSpeed) -> str:
    if speed.stage == "captions":
        return "another GPU"
    limit = report.limits.get("matrix")
    share = report.videos_per_second / limit if limit else 1.0
    if share < _IDLE:
        return (
            f"a larger --batch-videos (the GPU does {share:.0%} of the products that it could), or "
            "another GPU,"
        )
    return "another GPU, or a smaller --encoder,"


def _advice_on_decoding(report: SpeedReport, decode: StageSpeed) -> str:
    cores, got = report.cores_share, decode.cores_while_busy
    if cores is not None and cores >= _FULL:
        gpu = "" if report.workforce.device != "cpu" else ", a GPU for the encoder"
        return f"the cores are {cores:.0%} busy: more of them{gpu}, or fewer frames a video,"
    if report.workforce.decoder == "nvdec":
        return "more cores, with --decoder cpu, or fewer frames a video,"
    if got is not None and got < _STARVED:
        return (
            f"a decoder got {got:.0%} of a core: a faster disk for the videos, or a machine that "
            "does nothing else,"
        )
    if decode.num_workers < report.workforce.num_cores:
        return f"more decoders (--num-decoders {report.workforce.num_cores})"
    return "more cores (--num-decoders), or fewer frames a video,"


def _untried_gpu(report: SpeedReport, speed: StageSpeed) -> str:
    """What a GPU's decoder is worth where nobody asked: there is one GPU, and frames are large."""
    workforce = report.workforce
    has_one = workforce.device == "cuda" and workforce.num_encoders == 1
    if speed.stage != "decode" or not has_one or workforce.decoder_because:
        return ""
    if speed.num_large < _MOSTLY * speed.num_items:
        return ""
    return (
        f" {speed.num_large} of {_count(speed.num_items, 'video')} have {LARGE_SIDE} pixels or "
        "more: --engine local --decoder auto measures whether the GPU decodes them faster."
    )


def _until(report: SpeedReport) -> str:
    """How far it goes: the bound of the other workers, where there is one.

    None where the encoder is on the CPU: each would be faster with more cores for itself.
    """
    if report.workforce.device == "cpu":
        return ""
    following = next(iter(report.by_share[1:]), None)
    bound = report.bound_of_workers(following.stage) if following else None
    if following is None or bound is None or following.stage == "captions":
        return ""
    return f", until {following.stage} binds at {rate_text(bound)} videos/s"


def _nothing_binds(report: SpeedReport, busiest: StageSpeed) -> str:
    words = f"nothing binds: {busiest.stage} is the busiest, {report.busiest_share:.0%} of the time"
    few = _FEW_SHARDS * report.workforce.num_encoders
    if report.num_shards <= few:
        shards = _count(report.num_shards, "shard")
        return (
            f"{words}. With {shards} the stages run one after the other: more videos, or a smaller "
            "--shard-size in a new store, would let them overlap."
        )
    if report.startup_seconds > report.wall_seconds:
        return (
            f"{words}. The run took {report.startup_seconds:.0f} s to start and "
            f"{report.wall_seconds:.0f} s to work: it is too short to be bound by a stage."
        )
    return (
        f"{words} (a stage binds from {BINDS_FROM:.0%}). The workers wait for each other: videos "
        "of very unlike length, or hand-over between processes, take the rest. --profile shows "
        "where."
    )


def _are(speed: StageSpeed) -> str:
    return "is" if speed.num_workers == 1 else "are"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rate_text(rate: float) -> str:
    """At least three digits: ``1240``, ``12.4``, ``0.0124``."""
    digits = 2 - math.floor(math.log10(rate)) if rate > 0 else 0
    return f"{rate:.{max(0, digits)}f}"
