"""The golden vector: what an encoder makes of a clip and a caption that come with muse.

It goes through all that a feature goes through: libav's decoder, its conversion to RGB, the
resize, the crop, the network, the tokenizer. A store remembers it, and every worker makes it again
before it writes a row, so a library upgrade that changes features is an error and not a corpus of
two kinds.
"""

import base64
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.errors import IncompatibleStoreError
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.header import Golden, Preprocessing, Sampling
from muse.pipeline.records import VideoRef

CLIP = Path(__file__).with_name("golden.mp4")
CAPTION = "A yellow bar moves over a red disc with white rings, beside 2 blue checkerboards!"
PARTS = ("class_token", "mean_patch", "text")

# Relative distance of two golden vectors. Between two CPUs and an H100 it was at most 7.6e-4 in
# fp32, 2e-3 in fp16 and 1.6e-2 in bf16; a bilinear resize moves one by 3e-2, no antialias by 7e-2,
# another colour range by 2e-2 (docs/lab/LOG.md).
_TOLERANCE = {"fp32": 1.5e-3, "fp16": 5e-3, "bf16": 2e-2}


def measure_golden(encoder: Encoder) -> Golden:
    """What an encoder makes of the built-in clip's frame and of the built-in caption."""
    frame_HWC = _golden_frame(encoder.info.preprocessing)
    tokens_KD = encoder.encode_frames(frame_HWC[None])["tokens"][0]
    text_D = encoder.encode_texts([CAPTION])[0]
    mean_patch = tokens_KD[1:].astype(np.float32).mean(axis=0).astype(np.float16)
    return Golden(
        class_token=_packed(tokens_KD[0]), mean_patch=_packed(mean_patch), text=_packed(text_D)
    )


def require_same_golden(found: Golden, wanted: Golden, *, precision: str, what: str) -> None:
    """Nothing, if an encoder still gives what it gave when a store was created.

    Args:
        found: Measured now.
        wanted: Of the store.
        precision: Of the matrix products; decides how far apart two machines may be.
        what: The store, for the message.

    Raises:
        IncompatibleStoreError: Naming the part that differs, by how much, and the limit.
    """
    for part in PARTS:
        _require_same_part(
            part, getattr(found, part), getattr(wanted, part), precision=precision, what=what
        )


def require_same_text(encoder: Encoder, wanted: Golden, *, what: str) -> None:
    """Nothing, if an encoder still makes of the built-in caption what it did; for a search.

    Raises:
        IncompatibleStoreError: With the difference and the limit.
    """
    text = _packed(encoder.encode_texts([CAPTION])[0])
    _require_same_part("text", text, wanted.text, precision=encoder.info.precision, what=what)


def _require_same_part(part: str, found: str, wanted: str, *, precision: str, what: str) -> None:
    error, tolerance = relative_distance(found, wanted), _TOLERANCE[precision]
    if not error <= tolerance:
        raise IncompatibleStoreError(
            f"{what}: golden.{part} differs from the store's by {error:.1e} (limit "
            f"{tolerance:g}): the encoder no longer gives what it gave. `muse store info --json` "
            "has the versions it was made with: install those, or extract into another --out."
        )


def relative_distance(left: str, right: str) -> float:
    """Of two parts of golden vectors: norm of the difference over the norm of the second."""
    ours, theirs = _unpacked(left), _unpacked(right)
    if ours.shape != theirs.shape:
        return float("inf")
    norm = float(np.linalg.norm(theirs)) or 1.0
    return float(np.linalg.norm(ours - theirs)) / norm


@lru_cache(maxsize=4)
def _golden_frame(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(size, size, 3) of the clip's second frame, a B-frame, as a run would decode it."""
    from muse.pipeline.decoding.decode import decode_clip  # loads libav

    clip = decode_clip(
        VideoRef(video_id="golden", path=CLIP),
        sampling=Sampling(kind="uniform", num_frames=1),
        preprocessing=preprocessing,
    )
    frame_HWC: NDArray[np.uint8] = clip.frames_THWC[0]
    return frame_HWC


def _packed(vector: NDArray[np.float16]) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii")


def _unpacked(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64)
