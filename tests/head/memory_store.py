"""A feature store in memory: the protocol's shape without files, small and made up.

The tokens of a video are noise around a direction of its own, and its captions point the same way
after a fixed rotation: mean pooling knows nothing of it, and a head can learn it. Without the
rotation mean pooling is right from the start.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from muse.errors import StoreError
from muse.pipeline.header import EncoderInfo, Preprocessing, Sampling, StoreHeader
from muse.pipeline.records import Caption, ClipTokens, Failure
from muse.pipeline.store import StoreCounts

DIM = 16
GRID = 2
NUM_FRAMES = 4


def make_header(*, num_videos: int, num_captions: int) -> StoreHeader:
    preprocessing = Preprocessing(
        size=8, resize_to=8, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    encoder = EncoderInfo(
        spec="fake",
        weights_sha256="0" * 64,
        dim=DIM,
        tokens_per_frame=1 + GRID * GRID,
        grid=GRID,
        width=DIM,
        num_blocks=2,
        precision="fp32",
        logit_scale=3.0,
        preprocessing=preprocessing,
    )
    return StoreHeader(
        encoder=encoder,
        sampling=Sampling(kind="uniform", num_frames=NUM_FRAMES),
        protocol="made up",
        num_videos=num_videos,
        num_captions=num_captions,
        shard_size=4,
        batch_videos=2,
        listing_sha256=f"{num_videos}-{num_captions}",
    )


class MemoryStore:
    """Implements `muse.pipeline.store.FeatureStore`; counts what is read."""

    def __init__(
        self,
        header: StoreHeader,
        clips: Sequence[ClipTokens | None],
        captions: Sequence[Caption],
        embeddings_QD: NDArray[np.float16],
        has_embedding_Q: NDArray[np.bool_],
    ) -> None:
        self.location = "memory"
        self.header = header
        self.token_view = "tokens"
        self.video_ids = [f"video{row}" for row in range(len(clips))]
        self.captions = captions
        self.has_features_N = np.array([clip is not None for clip in clips])
        self.has_embedding_Q = has_embedding_Q
        self.failures: Sequence[Failure] = ()
        self.root_sha256 = self.timestamps_sha256 = header.listing_sha256
        self.reads: list[int] = []
        self._clips = clips
        self._embeddings_QD = embeddings_QD

    def counts(self) -> StoreCounts:
        ok = int(self.has_features_N.sum())
        return StoreCounts(
            listed=len(self._clips),
            ok=ok,
            failed=0,
            skipped=0,
            pending=len(self._clips) - ok,
            captions=len(self.captions),
            captions_embedded=int(self.has_embedding_Q.sum()),
        )

    def size_bytes(self) -> int:
        return 0

    def read_clip(self, row: int) -> ClipTokens:
        self.reads.append(row)
        clip = self._clips[row]
        if clip is None:
            raise StoreError(f"video{row}: no features")
        return clip

    def read_clips_into(
        self, rows: Sequence[int], tokens_NTKD: NDArray[np.float16]
    ) -> NDArray[np.bool_]:
        clips = [self.read_clip(row) for row in rows]
        for tokens_TKD, clip in zip(tokens_NTKD, clips, strict=True):
            tokens_TKD[...] = clip.tokens_TKD
        return np.array([clip.valid_T for clip in clips])

    def read_caption_embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        if not self.has_embedding_Q[rows].all():
            raise StoreError("a caption has no embedding")
        return self._embeddings_QD[rows]

    def read_thumbnails(self, row: int) -> tuple[bytes, ...] | None:
        return None


def make_store(
    *,
    num_videos: int = 12,
    captions_per_video: int = 2,
    missing_videos: Sequence[int] = (),
    missing_captions: Sequence[int] = (),
    num_test_videos: int = 0,
    axes: Sequence[str] = ("",),
    noise: float = 0.5,
    is_turned: bool = True,
    seed: int = 0,
) -> MemoryStore:
    """Videos ``video0``… of 2 to T frames; the last ``num_test_videos`` are the ``test`` split.

    The captions take the ``axes`` in turn.
    """
    rng = np.random.default_rng(seed)
    topic_ND = rng.normal(size=(num_videos, DIM))
    turn_DD = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] if is_turned else np.eye(DIM)
    clips: list[ClipTokens | None] = []
    for row in range(num_videos):
        valid_T = np.arange(NUM_FRAMES) < rng.integers(2, NUM_FRAMES + 1)
        shape = (NUM_FRAMES, 1 + GRID * GRID, DIM)
        tokens_TKD = (topic_ND[row] + noise * rng.normal(size=shape)) * valid_T[:, None, None]
        clip = ClipTokens(
            video_id=f"video{row}",
            tokens_TKD=tokens_TKD.astype(np.float16),
            valid_T=valid_T,
            pts_seconds_T=np.where(valid_T, np.arange(NUM_FRAMES), np.nan).astype(np.float64),
        )
        clips.append(None if row in missing_videos else clip)
    captions, embeddings = [], []
    for row in range(num_videos):
        split = "test" if row >= num_videos - num_test_videos else "train"
        for number in range(captions_per_video):
            axis = axes[len(captions) % len(axes)]
            captions.append(
                Caption(video_id=f"video{row}", text=f"{row}.{number}", split=split, axis=axis)
            )
            embeddings.append((topic_ND[row] + 0.1 * rng.normal(size=DIM)) @ turn_DD)
    has_embedding_Q = np.array([number not in missing_captions for number in range(len(captions))])
    return MemoryStore(
        make_header(num_videos=num_videos, num_captions=len(captions)),
        clips,
        captions,
        np.array(embeddings).astype(np.float16),
        has_embedding_Q,
    )


def with_header(store: MemoryStore, header: StoreHeader) -> MemoryStore:
    """The same features under another header."""
    return MemoryStore(
        header, store._clips, store.captions, store._embeddings_QD, store.has_embedding_Q
    )


def with_split(store: MemoryStore, split: str, *, num_videos: int) -> MemoryStore:
    """The same features, the first videos' captions in another split."""
    names = {f"video{row}" for row in range(num_videos)}
    captions = [
        replace(caption, split=split) if caption.video_id in names else caption
        for caption in store.captions
    ]
    return MemoryStore(
        store.header, store._clips, captions, store._embeddings_QD, store.has_embedding_Q
    )


def other_frames(store: MemoryStore) -> MemoryStore:
    """A store that says it was sampled otherwise."""
    sampling = replace(store.header.sampling, num_frames=NUM_FRAMES + 1)
    return with_header(store, replace(store.header, sampling=sampling))
