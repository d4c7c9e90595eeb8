"""Views of a video: what is kept of it, each an array of its own with the same rows.

``frames:jpeg`` alone is none: its files differ in length, and lie in `muse.pipeline.picture_files`.
All views come from one decode and one forward pass: what an encoder gives are *raw maps*
(``tokens``, ``unprojected``, ``block:k``), what a decoder gives are the pixels of ``frames:…``, all
else follows from ``tokens``. Knows nothing of how arrays lie on disk, and of encoders only their
shapes. No torch: readers import this.
"""

# Legend: T frames, K tokens a frame, D width of the joint space, W width before the projection,
# S side of a kept frame.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.errors import EncoderError, UsageError
from muse.pipeline.header import EncoderInfo

FROM_TOKENS = ("tokens", "int8", "class", "pooled")
FRAMES_JPEG = "frames:jpeg"
FRAME_VIEWS = ("frames:uint8", FRAMES_JPEG)
"""Pixels, for an encoder that is trained later; none comes from the encoder."""
FRAMES_DECODED = "frames:decoded"
"""The same pixels out of the videos' files when they are read (`muse.pipeline.decoded_frames`).

No store keeps it, and a store with the paths of its videos can be read as it."""
PIXEL_VIEWS = (*FRAME_VIEWS, FRAMES_DECODED)
"""What can be read as pixels; the earlier, the faster."""
_BLOCK = "block:"
INT8_MAX = 127  # -128 is left out, so that a token and its negative have the same error
_FLOAT16_MAX = 65504.0
_ORDER = (*FROM_TOKENS, "unprojected")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """An array of the store, by one video's row of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def parse_views(text: str) -> tuple[str, ...]:
    """The views that a text names with commas, in their canonical order.

    Raises:
        UsageError: If it names none, one twice, or one that is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*_ORDER, *FRAME_VIEWS) and not _is_block(name):
            raise UsageError(
                f"view {name!r}: choose of {', '.join((*_ORDER, *FRAME_VIEWS))} and {_BLOCK}K, the "
                "output of block K counted from 1"
            )
    if not names or len(set(names)) < len(names):
        raise UsageError(f"views {text!r}: name at least one, and each once")
    return tuple(sorted(names, key=_place))


def arrays_of(views: Sequence[str], encoder: EncoderInfo, num_frames: int) -> tuple[ArraySpec, ...]:
    """The arrays that hold some views; ``frames:jpeg`` is held by none.

    Args:
        views: Of `parse_views`.
        encoder: Its shapes.
        num_frames: T.

    Raises:
        EncoderError: If the encoder has no such view.
    """
    return tuple(spec for view in views for spec in _arrays_of_view(view, encoder, num_frames))


def readable_views(views: Sequence[str]) -> tuple[str, ...]:
    """Of some views, those that are maps of a video's frames: what training can read."""
    return tuple(view for view in views if view not in ("class", "pooled"))


def map_of(view: str, encoder: EncoderInfo, num_frames: int) -> ArraySpec:
    """What a reader gets of a video from one of `readable_views`, or from ``frames:decoded``.

    (T, K, D or W) float16, where ``int8`` reads as ``tokens``, which it stands for; of
    ``frames:…`` (T, S, S, 3) uint8 RGB.

    Raises:
        EncoderError: If the encoder has no such view.
    """
    pixels = dict.fromkeys((FRAMES_JPEG, FRAMES_DECODED), "frames:uint8")
    stands_for = {"int8": "tokens", **pixels}
    return _arrays_of_view(stands_for.get(view, view), encoder, num_frames)[0]


def encoded_views(views: Sequence[str]) -> tuple[str, ...]:
    """The raw maps that an encoder has to give for some views."""
    tokens = ("tokens",) if set(views) & set(FROM_TOKENS) else ()
    return (*tokens, *(view for view in views if view not in (*FROM_TOKENS, *FRAME_VIEWS)))


def frame_views(views: Sequence[str]) -> tuple[str, ...]:
    """Of some views, those that a decoder has to give."""
    return tuple(view for view in views if view in FRAME_VIEWS)


def arrays_of_clip(
    views: Sequence[str], raw: Mapping[str, NDArray[Any]], valid_T: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """One video's row of each array.

    Args:
        views: What is kept.
        raw: (T, K, D or W) float16 of each of `encoded_views`, and (T, S, S, 3) uint8 of
            ``frames:uint8``; zeros where a frame is padding.
        valid_T: (T,) True for a frame.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for view in views:
        if view == "int8":
            arrays["tokens_int8"], arrays["tokens_int8_scale"] = quantise(raw["tokens"])
        elif view == "class":
            arrays["class_tokens"] = np.ascontiguousarray(raw["tokens"][:, 0])
        elif view == "pooled":
            arrays["pooled"] = mean_pooled(raw["tokens"][:, 0], valid_T)
        elif view != FRAMES_JPEG:
            arrays[array_name(view)] = raw[view]
    return arrays


def quantise(tokens: NDArray[np.float16]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Each token as int8 with a scale of its own: 0.50 times the bytes at D = 512.

    Args:
        tokens: (..., D) finite float16.

    Returns:
        (..., D) int8 from -127 to 127, and (...) float16 with ``tokens`` within ``scale / 2`` of
        ``int8 * scale``. The scale is the smallest float16 that is at least max / 127: rounded
        down, the largest value would not fit. A token of zeros has scale 0. A token's result
        depends on its own bits alone.
    """
    bits = np.ascontiguousarray(tokens).view(np.uint16)
    # Without their sign bit, float16 numbers are in the order of their bits.
    scale = _scale_of((bits & np.uint16(0x7FFF)).max(axis=-1).view(np.float16))
    divisor = np.where(scale == 0, np.float32(1), scale.astype(np.float32))
    steps = _widened(bits)
    np.divide(steps, divisor[..., None], out=steps)
    return np.rint(steps, out=steps).astype(np.int8), scale


def dequantise(quantised: NDArray[np.int8], scale: NDArray[np.float16]) -> NDArray[np.float16]:
    """(..., D) float16 tokens of (..., D) int8 and (...) float16: the nearest to their product.

    From the tokens that `quantise` took they differ by ``scale / 2`` at most, and by float16's own
    rounding of the product (a relative 2 ** -11).
    """
    product = np.multiply(quantised, scale[..., None].astype(np.float32), dtype=np.float32)
    # 127 rounded-up steps can pass the largest float16, which then is the nearest.
    return np.clip(product, -_FLOAT16_MAX, _FLOAT16_MAX, out=product).astype(np.float16)


def mean_pooled(
    class_tokens_TD: NDArray[np.float16], valid_T: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(D,) unit vector: class tokens at unit length, their mean over the valid frames, unit length.

    What the ``mean-pool`` head makes of a video (CLIP4Clip's parameter-free similarity, Luo et al.
    2021 sec. 3.3). Float32, as that head computes: a search over it gives the head's own order.
    """
    frames = class_tokens_TD[valid_T].astype(np.float32)
    return _unit(_unit(frames).mean(axis=0))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # As torch.nn.functional.normalize: a vector of zeros stays one.
    unit: NDArray[np.float32] = vectors / np.maximum(norm, np.float32(1e-12))
    return unit


def _scale_of(largest: NDArray[np.float16]) -> NDArray[np.float16]:
    scale = largest / np.float16(INT8_MAX)
    is_low = scale.astype(np.float32) * INT8_MAX < largest.astype(np.float32)
    return np.where(is_low, np.nextafter(scale, np.float16(np.inf)), scale)


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of float16 bits, exactly, 3x faster than ``astype``.

    A float16's fields, moved to where float32 has its own, are the number times 2 ** (15 - 127).
    """
    moved = bits.view(np.int16).astype(np.int32)
    np.left_shift(moved, 13, out=moved)
    np.bitwise_and(moved, np.int32(-0x70002000), out=moved)  # 0x8FFFE000: the sign, 15 fields' bits
    wide = moved.view(np.float32)
    return np.multiply(wide, np.float32(2.0**112), out=wide)


def _arrays_of_view(view: str, encoder: EncoderInfo, num_frames: int) -> tuple[ArraySpec, ...]:
    map_shape = (num_frames, encoder.tokens_per_frame)
    if view == "tokens":
        return (ArraySpec(name="tokens", dtype="float16", shape=(*map_shape, encoder.dim)),)
    if view == "int8":
        return (
            ArraySpec(name="tokens_int8", dtype="int8", shape=(*map_shape, encoder.dim)),
            ArraySpec(name="tokens_int8_scale", dtype="float16", shape=map_shape),
        )
    if view == "class":
        return (ArraySpec(name="class_tokens", dtype="float16", shape=(num_frames, encoder.dim)),)
    if view == "pooled":
        return (ArraySpec(name="pooled", dtype="float32", shape=(encoder.dim,)),)
    if view == FRAMES_JPEG:
        return ()
    if view == "frames:uint8":
        side = encoder.preprocessing.kept_side
        return (ArraySpec(name="frames", dtype="uint8", shape=(num_frames, side, side, 3)),)
    _require_transformer(view, encoder)
    shape = (*map_shape, encoder.width)
    return (ArraySpec(name=array_name(view), dtype="float16", shape=shape),)


def _require_transformer(view: str, encoder: EncoderInfo) -> None:
    last = encoder.num_blocks
    if not last or (_is_block(view) and block_number(view) > last):
        has = f"{last} blocks" if last else "no transformer"
        raise EncoderError(
            f"view {view!r}: the image tower of {encoder.spec} has {has}. Leave the view out"
            + (f", or choose {_BLOCK}1 to {_BLOCK}{last}." if last else ".")
        )


def block_number(view: str) -> int:
    """K of ``block:K``, counted from 1."""
    return int(view.removeprefix(_BLOCK))


def _is_block(view: str) -> bool:
    number = view.removeprefix(_BLOCK)
    return view.startswith(_BLOCK) and number.isdecimal() and number == str(int(number)) != "0"


def array_name(view: str) -> str:
    """The array that holds a map of `encoded_views` or ``frames:uint8``."""
    if view == "frames:uint8":
        return "frames"
    return f"block_{block_number(view):02d}" if _is_block(view) else view


def _place(view: str) -> tuple[int, int]:
    if view in FRAME_VIEWS:
        return (len(_ORDER) + 1, FRAME_VIEWS.index(view))
    return (len(_ORDER), block_number(view)) if _is_block(view) else (_ORDER.index(view), 0)
