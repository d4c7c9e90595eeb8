"""A store in memory of which everything can be read, in every state that a row can have."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.head.memory_store import MemoryStore, make_store

from muse.errors import StoreError
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling, StoreHeader
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import all_caption_shards, all_video_shards, header_of
from muse.pipeline.records import Caption, ClipFeatures, ClipTokens, Failure, SourceFile, VideoRef
from muse.pipeline.store import StoreCounts, counts_of, token_view_of
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.views import ArraySpec, dequantise

Row = ClipFeatures | Failure | None
"""Of a video: its features, why it has none, or None while it is pending."""


class RawMemoryStore:
    """Implements `muse.pipeline.store.RawStore`."""

    location = "memory"
    root_sha256 = "12" * 32
    timestamps_sha256 = "34" * 32

    def __init__(
        self,
        header: StoreHeader,
        arrays: tuple[ArraySpec, ...],
        video_ids: Sequence[str],
        rows: Sequence[Row],
        captions: Sequence[Caption],
        embeddings: Sequence[NDArray[np.float16] | None],
    ) -> None:
        self.header, self.arrays, self.video_ids = header, arrays, video_ids
        self.rows, self.captions, self.embeddings = rows, captions, embeddings
        self.windows = (None,) * len(video_ids)
        self.token_view = token_view_of(header)
        self.has_features_N = np.array([isinstance(row, ClipFeatures) for row in rows], np.bool_)
        self.has_embedding_Q = np.array([e is not None for e in embeddings], np.bool_)
        self.sources = {
            number: row.source
            for number, row in enumerate(rows)
            if isinstance(row, ClipFeatures) and row.source is not None
        }
        self.failures = [row for row in rows if isinstance(row, Failure)]

    def counts(self) -> StoreCounts:
        return counts_of(self, done_N=np.array([row is not None for row in self.rows]))

    def size_bytes(self) -> int:
        return 0

    def read_features(self, row: int) -> ClipFeatures:
        features = self.rows[row]
        if not isinstance(features, ClipFeatures):
            raise StoreError(f"row {row} has no features")
        return features

    def read_clip(self, row: int) -> ClipTokens:
        features = self.read_features(row)
        arrays = features.arrays
        return ClipTokens(
            video_id=features.video_id,
            tokens_TKD=arrays["tokens"]
            if self.token_view == "tokens"
            else dequantise(arrays["tokens_int8"], arrays["tokens_int8_scale"]),
            valid_T=features.valid_T,
            pts_seconds_T=features.pts_seconds_T,
        )

    def read_clips_into(
        self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]
    ) -> NDArray[np.bool_]:
        clips = [self.read_clip(row) for row in rows]
        tokens_NTKD[...] = np.stack([clip.tokens_TKD for clip in clips])
        return np.stack([clip.valid_T for clip in clips])

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        found = [self.embeddings[row] for row in rows.tolist()]
        if any(embedding is None for embedding in found):
            raise StoreError("a caption has no embedding")
        return np.stack(found)  # type: ignore[arg-type]

    def read_thumbnails(self, row: int) -> tuple[bytes, ...] | None:
        features = self.rows[row]
        return (features.thumbnails or None) if isinstance(features, ClipFeatures) else None


class FeaturesInMemory(MemoryStore):
    """The head's store of tokens that a head can learn from, as a `RawStore`."""

    def __init__(self, **how: Any) -> None:
        made = make_store(**how)
        super().__init__(
            made.header, made._clips, made.captions, made._embeddings_QD, made.has_embedding_Q
        )
        tokens = next(clip for clip in made._clips if clip is not None).tokens_TKD
        self.arrays = (ArraySpec(name="tokens", dtype="float16", shape=tokens.shape),)
        self.windows = (None,) * len(self.video_ids)

    def read_features(self, row: int) -> ClipFeatures:
        clip = self.read_clip(row)
        return ClipFeatures(
            video_id=clip.video_id,
            arrays={"tokens": clip.tokens_TKD},
            valid_T=clip.valid_T,
            pts_seconds_T=clip.pts_seconds_T,
        )


FRAMES = 3
ENCODER = EncoderInfo(
    spec="made-up",
    weights_sha256="12ab",
    dim=4,
    tokens_per_frame=5,
    grid=2,
    width=4,
    num_blocks=2,
    precision="fp32",
    logit_scale=2.5,
    preprocessing=Preprocessing(
        size=32, resize_to=32, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1)
    ),
)
TOKENS_ONLY = ("tokens",)
ALL_VIEWS = ("tokens", "int8", "class", "pooled")
IDS = ("a", "b\nwith a second line", "c", "d 犬", "e", "f", "g", "h")
_TEXTS = ("a dog", "ein Hündchen 🐕", 'says "hi",\tthen\n leaves', "")
SHARD_SIZE = 2


def make_raw(*, views: tuple[str, ...] = TOKENS_ONLY) -> RawMemoryStore:
    """Eight videos: c failed, e was skipped, g and h are pending; c's captions are left out."""
    rows: list[Row] = [_features(row, views) for row in range(len(IDS))]
    rows[2] = _failure("c", "truncated", "moov atom not found\nat 犬.mp4")
    rows[4] = _failure("e", "too_long", "e: 7,200 s, longer than --max-duration 3600")
    rows[6] = rows[7] = None
    captions = [
        Caption(
            video_id=IDS[number // 2], text=_TEXTS[number % 4], split=("train", "test")[number % 2]
        )
        for number in range(16)
    ]
    rng = np.random.default_rng(5)
    embeddings: list[NDArray[np.float16] | None] = [
        None if caption.video_id == "c" else rng.normal(size=ENCODER.dim).astype(np.float16)
        for caption in captions
    ]
    return RawMemoryStore(
        _header(_listed(captions), views),
        _specs(views),
        IDS,
        rows,
        captions,
        embeddings,
    )


def written_as_zarr(store: RawMemoryStore, folder: Path) -> Path:
    """The same in a folder. Only shards of which no row is pending are there."""
    listed = _listed(store.captions)
    writer = StoreWriter.create(folder, store.header, listed)
    for shard in all_video_shards(listed, shard_size=SHARD_SIZE):
        rows = [row for row in store.rows[shard.first_row :][:SHARD_SIZE] if row is not None]
        if rows:
            writer.write_video_shard(shard, rows, seconds={})
    (captions,) = all_caption_shards(listed)
    left_out = tuple(np.flatnonzero(~store.has_embedding_Q).tolist())
    blank = np.zeros(store.header.encoder.dim, np.float16)
    writer.write_caption_shard(
        dataclasses.replace(captions, left_out=left_out),
        np.stack([blank if e is None else e for e in store.embeddings]),
        seconds={},
    )
    return folder


def _listed(captions: Sequence[Caption]) -> ListedRows:
    return ListedRows(
        protocol="made up",
        videos=tuple(VideoRef(video_id=i, path=Path(f"/videos/{i}.mp4")) for i in IDS),
        duplicate_of=(None,) * len(IDS),
        captions=tuple(captions),
    )


def _header(listed: ListedRows, views: tuple[str, ...]) -> StoreHeader:
    return header_of(
        listed,
        encoder=ENCODER,
        sampling=Sampling(num_frames=FRAMES),
        shard_size=SHARD_SIZE,
        batch_videos=2,
        views=views,
        versions={"torch": "9.9", "ray": None},
    )


def _specs(views: tuple[str, ...]) -> tuple[ArraySpec, ...]:
    map_shape = (FRAMES, ENCODER.tokens_per_frame, ENCODER.dim)
    by_view = {
        "tokens": [("tokens", "float16", map_shape)],
        "int8": [
            ("tokens_int8", "int8", map_shape),
            ("tokens_int8_scale", "float16", map_shape[:2]),
        ],
        "class": [("class_tokens", "float16", (FRAMES, ENCODER.dim))],
        "pooled": [("pooled", "float32", (ENCODER.dim,))],
    }
    return tuple(
        ArraySpec(name=name, dtype=dtype, shape=shape)
        for view in views
        for name, dtype, shape in by_view[view]
    )


def _features(row: int, views: tuple[str, ...]) -> ClipFeatures:
    """Random, with ``row % 3 + 1`` frames that are there."""
    rng = np.random.default_rng(row)
    valid_T = np.arange(FRAMES) < row % FRAMES + 1
    tokens = rng.normal(size=(FRAMES, ENCODER.tokens_per_frame, ENCODER.dim)).astype(np.float16)
    tokens[~valid_T] = 0
    scale = (np.abs(tokens).max(-1) / 127).astype(np.float16)
    steps = tokens.astype(np.float32) / np.maximum(scale.astype(np.float32), 1e-6)[..., None]
    arrays = {
        "tokens": tokens,
        "tokens_int8": np.clip(np.round(steps), -127, 127).astype(np.int8),
        "tokens_int8_scale": scale,
        "class_tokens": tokens[:, 0].copy(),
        "pooled": rng.normal(size=ENCODER.dim).astype(np.float32),
    }
    return ClipFeatures(
        video_id=IDS[row],
        arrays={spec.name: arrays[spec.name] for spec in _specs(views)},
        valid_T=valid_T,
        pts_seconds_T=np.where(valid_T, row + np.arange(FRAMES) / 4, np.nan),
        source=SourceFile(
            size_bytes=1000 + row, mtime_ns=1_700_000_000_123_456_789, sha256="ab" if row else None
        ),
    )


def _failure(video_id: str, reason: str, message: str) -> Failure:
    return Failure(
        video_id=video_id,
        path=f"/videos/{video_id} 犬.mp4",
        stage="decode",
        reason=reason,
        message=message,
    )
