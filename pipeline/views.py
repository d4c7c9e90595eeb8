"""Temporary."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    name: str
    dtype: str
    shape: tuple[int, ...]


def parse_views(text):
    return tuple(text.split(","))


def arrays_of(views, encoder, num_frames):
    return (
        ArraySpec(
            name="tokens",
            dtype="float16",
            shape=(num_frames, encoder.tokens_per_frame, encoder.dim),
        ),
    )


def encoded_views(views):
    return views


def arrays_of_clip(views, raw, valid_T):
    return {"tokens": raw["tokens"]}


def dequantise(q, scale):
    return (q.astype(np.float32) * scale[..., None].astype(np.float32)).astype(np.float16)
