"""A few frames of a video side by side, as a picture that is part of the page.

Frames are the store's thumbnails where it has them. Otherwise they are decoded again from the files
that the store's listing names, as the extraction saw them. A file that is gone, or no longer
decodes, has no strip; that is nobody's error. Knows nothing of retrieval.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muse.cli.page.markup import Markup, element
from muse.errors import StoreError
from muse.pipeline.decoding.decoder import DecodeTask
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, VideoRef
from muse.pipeline.store import FeatureStore

Frame = TypeVar("Frame", bytes, NDArray[np.uint8])
Decode = Callable[[DecodeTask], Clip | Failure]
Thumbnails = Callable[[str], Sequence[bytes]]
"""By video id, a JPEG file of each frame; empty where there are none."""
Strips = Mapping[str, str]
"""By video id, the picture as a data URI."""

NUM_FRAMES = 4
SIDE = 96  # pixels of a frame
MAX_BYTES = 1_500_000  # of all strips in a page, as base64
_QUALITIES = (72, 55, 40, 25)  # of JPEG: the first that fits is taken
_CROP = Preprocessing(
    size=SIDE, resize_to=SIDE, interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3
)


def film_strips(
    videos: Iterable[VideoRef],
    *,
    sampling: Sampling,
    decode: Decode,
    thumbnails: Thumbnails = lambda video_id: (),
    max_bytes: int = MAX_BYTES,
) -> Strips:
    """Strips of the videos that have thumbnails or still decode, in no more than ``max_bytes``.

    Args:
        videos: The more important first: those that do not fit at the lowest quality have none.
        sampling: The store's, so that the frames are among those that a head read.
        decode: Such as `muse.pipeline.decoding.decoder.IsolatedDecoder`; asked about a video
            without thumbnails.
        thumbnails: Such as `stored_thumbnails` of the store.
        max_bytes: Of all pictures, encoded.
    """
    pictures = {}
    for video in videos:
        if video.video_id in pictures:
            continue
        frames = _some_of(frames_of(video, sampling=sampling, decode=decode, thumbnails=thumbnails))
        if frames:
            pictures[video.video_id] = np.concatenate(frames, axis=1)
    for quality in _QUALITIES:
        strips = {video_id: _data_uri(picture, quality) for video_id, picture in pictures.items()}
        if sum(map(len, strips.values())) <= max_bytes:
            break
    return _first_that_fit(strips, max_bytes)


def frames_of(
    video: VideoRef, *, sampling: Sampling, decode: Decode, thumbnails: Thumbnails
) -> list[NDArray[np.uint8]]:
    """The middle square of each sampled frame, (SIDE, SIDE, 3); none where there is no picture.

    Arguments are those of `film_strips`.
    """
    frames = _cropped(thumbnails(video.video_id))
    if not frames and _is_file(video.path):
        clip = decode(DecodeTask(video=video, sampling=sampling, preprocessing=_CROP))
        frames = list(clip.frames_THWC) if isinstance(clip, Clip) else []
    return frames


def stored_thumbnails(store: FeatureStore) -> Thumbnails:
    """The thumbnails of a store by video id; of a damaged file none."""
    row_of = {video_id: row for row, video_id in enumerate(store.video_ids)}

    def thumbnails(video_id: str) -> Sequence[bytes]:
        try:
            return store.read_thumbnails(row_of[video_id]) or ()
        except StoreError:  # `muse store verify` says so; a page is worth having without
            return ()

    return thumbnails


def strip_element(video_id: str, strips: Strips) -> Markup:
    """The strip of a video, or a grey tile with its id."""
    if video_id not in strips:
        tile = element("span", video_id)
        words = f"{video_id}: no pictures"
        return element("div", tile, class_="film tile", role="img", aria_label=words)
    alt = f"Frames of video {video_id}"
    picture = element("img", src=strips[video_id], alt=alt, width=NUM_FRAMES * SIDE, height=SIDE)
    return element("div", picture, class_="film")


def _is_file(path: Path | None) -> bool:
    """True for what a decoding process may be started for."""
    try:
        return path is not None and path.is_file()
    except (OSError, ValueError):
        return False


def _cropped(jpegs: Sequence[bytes]) -> list[NDArray[np.uint8]]:
    """The middle square of each picture; none where one of them is damaged."""
    try:
        pictures = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs]
    except (OSError, SyntaxError, Image.DecompressionBombError):  # what Pillow says of such files
        return []
    return [crop_to_input(picture_HWC, _CROP) for picture_HWC in pictures]


def _some_of(frames: Sequence[Frame]) -> list[Frame]:
    """NUM_FRAMES of them, evenly apart; where there are fewer, some come twice."""
    if not frames:
        return []
    places = np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(np.intp)
    return [frames[place] for place in places.tolist()]


def _data_uri(picture_HWC: NDArray[np.uint8], quality: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture_HWC).save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _first_that_fit(strips: Strips, max_bytes: int) -> Strips:
    kept, size = {}, 0
    for video_id, uri in strips.items():
        size += len(uri)
        if size > max_bytes:
            break
        kept[video_id] = uri
    return kept
