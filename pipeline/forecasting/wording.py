"""The forecast's one sentence of advice: which stage is the slow one, and what would help."""

import math

from muse.pipeline.forecasting.run_model import Pace


def binding_sentence(
    binds: str, pace: Pace, *, device: str, decode_rate: float, encode_rate: float
) -> str:
    """Which stage binds, with rates.

    Args:
        binds: The stage.
        pace: Of the machine.
        device: Of the encoder.
        decode_rate: Videos a second of all decoders while no encoder works.
        encode_rate: Videos a second of all encoders while no decoder works.
    """
    rates = (
        f"{_count(pace.num_decoders, 'core')} decode {_rate(decode_rate)} videos/s, "
        f"{_count(pace.num_encoders, 'encoder')} could take {_rate(encode_rate)}"
    )
    return f"{binds}-bound: {rates}; {_advice(binds, pace, device, decode_rate, encode_rate)}"


def _advice(binds: str, pace: Pace, device: str, decode_rate: float, encode_rate: float) -> str:
    if binds == "write":
        return "a faster disk for --out would help"
    if binds == "captions":
        return "captions take most of the time; a GPU or fewer captions would help"
    if device == "cpu":
        return "both share the cores: more of them, or a GPU for the encoder, would help"
    if binds == "encode":
        return "another GPU would help, more cores would not"
    missing = math.ceil(pace.num_decoders * (encode_rate / decode_rate - 1))
    return f"{_count(max(1, missing), 'more core')} would help until the encoder binds"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rate(rate: float) -> str:
    return f"{rate:.3g}"
