"""Stores of muse-nano in memory, open on what lies below a part of it that is trained."""

import dataclasses

import numpy as np
from memory_store import MemoryStore, make_header
from numpy.typing import NDArray

from muse.pipeline.encoders.open_clip import OpenClipEncoder
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.records import Caption, ClipTokens

NUM_VIDEOS, NUM_FRAMES, TOP = 6, 2, 2
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def kept_frames() -> NDArray[np.uint8]:
    """(B, 256, 256, 3): two frames a video, of 64 coloured squares each."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (NUM_VIDEOS * NUM_FRAMES, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(32, axis=1).repeat(32, axis=2)


def inputs_of(frames_BSSC: NDArray[np.uint8], encoder: OpenClipEncoder) -> NDArray[np.uint8]:
    """(B, 224, 224, 3): the same frames, resized by PIL as extraction does."""
    return np.stack([crop_to_input(frame, encoder.info.preprocessing) for frame in frames_BSSC])


def store_below(finetune: str, encoder: OpenClipEncoder) -> MemoryStore:
    """Videos of two frames, the last one's second a padded one; ``top:2`` or ``all`` reads it."""
    maps = frames_BSSC = kept_frames()
    view = "frames:uint8"
    if finetune != "all":
        view = f"block:{encoder.info.num_blocks - TOP}"
        maps = encoder.encode_frames(inputs_of(frames_BSSC, encoder), (view,))[view]
    captions = [
        Caption(video_id=f"video{row}", text=f"a {colour} square", split="train")
        for row, colour in enumerate(COLOURS)
    ]
    header = dataclasses.replace(
        make_header(num_videos=NUM_VIDEOS, num_captions=NUM_VIDEOS),
        encoder=encoder.info,
        views=("tokens", view),
    )
    header = dataclasses.replace(
        header, sampling=dataclasses.replace(header.sampling, num_frames=NUM_FRAMES)
    )
    clips = [_clip(row, maps[row * NUM_FRAMES : (row + 1) * NUM_FRAMES]) for row in range(6)]
    embeddings = encoder.encode_texts([caption.text for caption in captions])
    made = MemoryStore(header, clips, captions, embeddings, np.ones(NUM_VIDEOS, dtype=np.bool_))
    made.token_view = view
    return made


def _clip(row: int, map_T: NDArray[np.float16] | NDArray[np.uint8]) -> ClipTokens:
    valid_T = np.array([True, row < NUM_VIDEOS - 1])
    return ClipTokens(
        video_id=f"video{row}",
        tokens_TKD=map_T * valid_T.reshape(-1, *[1] * (map_T.ndim - 1)).astype(map_T.dtype),
        valid_T=valid_T,
        pts_seconds_T=np.where(valid_T, np.arange(NUM_FRAMES), np.nan),
    )
