"""The parity certificate: how far a run's features are from those of the encoder's own library.

A run that creates a store takes frames of its first videos and encodes them twice: by the very path
that all others will take, and by the library's, with PIL, in float32 (`encoders.reference`). The
distance is written into the header, and beyond a bound the run ends before there is a store. Knows
nothing of how videos are decoded or where encoders are.
"""

# Legend: B frames, S side of the input, K = 1 + P tokens a frame, D width of the joint space.

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import ParityError
from muse.pipeline.encoders.base import Encoder, normalised
from muse.pipeline.encoders.batches import BatchEncoder, FrameBatch
from muse.pipeline.header import Parity, Preprocessing
from muse.pipeline.listing import ListedRows
from muse.pipeline.records import Clip, VideoRef
from muse.pipeline.schedule import Engine
from muse.pipeline.views import encoded_views

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig

logger = logging.getLogger(__name__)

NUM_VIDEOS = 4
MOST_TRIED = 8  # videos that are decoded to find so many that can be
PIXEL_LIMIT = 0.05  # levels of 1/255; a bilinear resize is 0.6 and more away (docs/adr/0046)


def certified(engine: Engine, rows: ListedRows, config: "ExtractConfig") -> Parity | None:
    """The certificate of a run that is about to create a store; None if it encodes no frame.

    Raises:
        ParityError: If its features are too far from the library's.
    """
    if not encoded_views(config.views):
        return None
    videos = [video for video in rows.videos if video.path is not None][:MOST_TRIED]
    if not videos:
        return None
    clips = _first_clips(engine, videos, config)
    if not clips:
        logger.warning(
            "none of the first %d videos could be decoded, so the store gets no parity "
            "certificate: nobody compared its features with those of the encoder's library",
            len(videos),
        )
        return None
    found = engine.parity(clips, num_frames=config.batch_videos * config.sampling.num_frames)
    require_parity(found, what=f"encoder {config.encoder} ({engine.encoder_info().precision})")
    return found


def _first_clips(engine: Engine, videos: Sequence[VideoRef], config: "ExtractConfig") -> list[Clip]:
    """Of the first videos that can be decoded, in their order: the same in every run."""
    clips: list[Clip] = []
    for first in range(0, len(videos), NUM_VIDEOS):
        if len(clips) < NUM_VIDEOS:
            found = engine.sample(videos[first : first + NUM_VIDEOS], sampling=config.sampling)
            clips += [clip for clip in found if isinstance(clip, Clip)]
    return clips[:NUM_VIDEOS]


def measure_parity(
    encoder: Encoder,
    batch_encoder: BatchEncoder,
    batch: FrameBatch,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    num_videos: int,
    device: str,
) -> Parity:
    """How far the features of some frames are from the library's.

    Args:
        encoder: Of the run.
        batch_encoder: Of that encoder.
        batch: The frames as the run has them, from its first place on.
        pictures: The same frames as they were decoded, (H, W, 3) RGB.
        num_videos: That they are of.
        device: Of the run, ``cpu`` or ``cuda``.
    """
    num_frames = len(pictures)
    levels_BSS3 = batch_encoder.input_of(batch)[:num_frames]
    (tokens_BKD,) = (m["tokens"][:num_frames] for m in batch_encoder.maps_of([batch], ("tokens",)))
    reference = encoder.reference()
    pixels_B3SS = reference.pixels(pictures)
    cosine_BK = _cosines(tokens_BKD, reference.tokens(pixels_B3SS))
    class_B, patches_BP = cosine_BK[:, 0], cosine_BK[:, 1:]
    return Parity(
        num_videos=num_videos,
        num_frames=num_frames,
        device=device,
        pixels=_pixel_distance(levels_BSS3, pixels_B3SS, encoder.info.preprocessing),
        class_token_mean=_rounded(class_B.mean()),
        class_token_min=_rounded(class_B.min()),
        patch_tokens_mean=_rounded(patches_BP.mean()),
        patch_tokens_min=_rounded(patches_BP.min()),
        cosine_limit=reference.cosine_limits[encoder.info.precision],
    )


def _pixel_distance(
    levels_BSS3: NDArray[np.uint8], wanted_B3SS: Tensor, preprocessing: Preprocessing
) -> float:
    """Mean distance in levels; taken after both were normalised, so that means and deviations that
    are not the library's count, too."""
    found_B3SS = normalised(torch.from_numpy(levels_BSS3).permute(0, 3, 1, 2), preprocessing)
    levels_per_unit_3 = 255.0 * torch.tensor(preprocessing.std)
    apart_B3SS = (found_B3SS - wanted_B3SS).abs() * levels_per_unit_3.view(1, 3, 1, 1)
    return round(float(apart_B3SS.double().mean()), 4)


def _cosines(found_BKD: NDArray[Any], wanted_BKD: NDArray[Any]) -> NDArray[np.float64]:
    """(B, K) in float64."""
    found, wanted = found_BKD.astype(np.float64), wanted_BKD.astype(np.float64)
    norms_BK = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    cosine_BK: NDArray[np.float64] = (found * wanted).sum(axis=-1) / norms_BK
    return cosine_BK


def _rounded(cosine: np.float64) -> float:
    """To digits that the number of cores does not move."""
    return round(float(cosine), 6)


def require_parity(found: Parity, *, what: str) -> None:
    """Nothing, if features are as near to the library's as their precision lets them be.

    Args:
        found: Of a run.
        what: Its encoder, for the message.

    Raises:
        ParityError: Naming the first part that is too far away, its value and the limit.
    """
    if not found.pixels <= PIXEL_LIMIT:
        words = f"its input is {found.pixels:g} levels of 1/255 from the library's"
        raise _too_far(what, words, PIXEL_LIMIT)
    for part in ("class_token_min", "patch_tokens_mean"):
        cosine = getattr(found, part)
        if not cosine >= found.cosine_limit:
            words = f"the cosine with the library's float32 tokens, {part}, is {cosine:g}"
            raise _too_far(what, words, found.cosine_limit)


def _too_far(what: str, words: str, limit: float) -> ParityError:
    return ParityError(
        f"{what}: on the first frames of this run {words} (limit {limit:g}). Nothing was stored. "
        "Try --device cpu or --precision fp32: what then passes says what is at fault here. "
        "Report it with the output of `muse doctor`."
    )
