"""One shard from clips and captions to committed rows: what a GPU worker does.

A video's place in its batch follows from its row, and every batch has the same shape, so a
video's tokens have the same bits whichever engine ran, whichever neighbour failed and however
often the run was cut off. Knows nothing of how clips are decoded or workers are placed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from muse.pipeline.encoders.base import Encoder, Precision, build_encoder
from muse.pipeline.header import EncoderInfo, StoreHeader, require_same_encoder
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, ClipTokens, Failure
from muse.pipeline.store_writer import StoreWriter

TEXTS_PER_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSetting:
    """How a worker builds its encoder."""

    spec: str
    device: str
    precision: Precision
    num_threads: int
    """Of torch on the CPU. Fixed, since the split of a sum decides its last bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """A committed shard and where its time went."""

    receipt: Receipt
    seconds: dict[str, float]
    """By stage: ``wait`` for decoded clips, ``encode``, ``write``."""


class ShardEncoder:
    """An encoder that writes what it encodes, shard by shard."""

    def __init__(self, setting: EncoderSetting) -> None:
        torch.set_num_threads(setting.num_threads)
        self._encoder: Encoder = build_encoder(
            setting.spec, device=setting.device, precision=setting.precision
        )
        self._store: StoreWriter | None = None

    def info(self) -> EncoderInfo:
        """What the features depend on."""
        return self._encoder.info

    def open_store(self, path: Path) -> None:
        """Opens the store to write to.

        Raises:
            IncompatibleStoreError: If it holds features of another encoder.
        """
        self._store = StoreWriter.open(path)
        require_same_encoder(self._store.header.encoder, self._encoder.info, what=str(path))

    def encode_videos(
        self, shard: VideoShard, clips: Sequence[Clip | Failure], *, wait_seconds: float = 0.0
    ) -> ShardReport:
        """Encodes and commits one shard of videos."""
        store = self._opened()
        started = time.perf_counter()
        size = store.header.batch_videos
        rows = [
            row
            for start in range(0, len(clips), size)
            for row in self._encode_batch(clips[start : start + size], store.header)
        ]
        encoded = time.perf_counter()
        receipt = store.write_video_shard(shard.index, shard.first_row, rows)
        return _report(receipt, started, encoded, wait_seconds)

    def encode_captions(self, shard: CaptionShard) -> ShardReport:
        """Encodes and commits one shard of captions."""
        started = time.perf_counter()
        embeddings = np.zeros((len(shard.texts), self._encoder.info.dim), dtype=np.float16)
        wanted = [(row, text) for row, text in enumerate(shard.texts) if text is not None]
        for start in range(0, len(wanted), TEXTS_PER_BATCH):
            batch = wanted[start : start + TEXTS_PER_BATCH]
            texts = [text for _, text in batch]
            embeddings[[row for row, _ in batch]] = self._encoder.encode_texts(texts)
        encoded = time.perf_counter()
        receipt = self._opened().write_caption_shard(shard.index, shard.first_row, embeddings)
        return _report(receipt, started, encoded, 0.0)

    def _encode_batch(
        self, clips: Sequence[Clip | Failure], header: StoreHeader
    ) -> list[ClipTokens | Failure]:
        """Tokens of up to ``batch_videos`` clips, in one forward pass of a constant shape."""
        frames, size = header.sampling.num_frames, header.encoder.preprocessing.size
        pixels = np.zeros((header.batch_videos, frames, size, size, 3), dtype=np.uint8)
        for place, clip in enumerate(clips):
            if isinstance(clip, Clip):
                pixels[place, : len(clip.frames_THWC)] = clip.frames_THWC
        if not any(isinstance(clip, Clip) for clip in clips):
            return [clip for clip in clips if isinstance(clip, Failure)]
        tokens = self._encoder.encode_frames(pixels.reshape(-1, size, size, 3))
        tokens_BTKD = tokens.reshape(header.batch_videos, frames, *tokens.shape[1:])
        return [
            _padded(clip, tokens_BTKD[place]) if isinstance(clip, Clip) else clip
            for place, clip in enumerate(clips)
        ]

    def _opened(self) -> StoreWriter:
        assert self._store is not None, "open_store comes first"
        return self._store


def _padded(clip: Clip, tokens_TKD: NDArray[np.float16]) -> ClipTokens:
    """The clip's tokens, with zeros in place of what the encoder made of the padding."""
    num_frames, num_valid = len(tokens_TKD), len(clip.frames_THWC)
    tokens = np.zeros_like(tokens_TKD)
    tokens[:num_valid] = tokens_TKD[:num_valid]
    pts_seconds = np.full(num_frames, np.nan)
    pts_seconds[:num_valid] = clip.pts_seconds_T
    return ClipTokens(
        video_id=clip.video_id,
        tokens_TKD=tokens,
        valid_T=np.arange(num_frames) < num_valid,
        pts_seconds_T=pts_seconds,
    )


def _report(receipt: Receipt, started: float, encoded: float, wait: float) -> ShardReport:
    written = time.perf_counter()
    seconds = {"wait": wait, "encode": encoded - started, "write": written - encoded}
    return ShardReport(
        receipt=receipt, seconds={name: round(value, 4) for name, value in seconds.items()}
    )
