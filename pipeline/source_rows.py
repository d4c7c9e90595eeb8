"""What of a source is still to be encoded: its shards, and whether its rows are what they were.

A shard is compared by what its receipt says; where that differs from what was noted, each row that
was encoded is read and compared by a hash: the source may have grown, and must not have changed.
Knows nothing of the encoder.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from muse.errors import IncompatibleStoreError
from muse.pipeline.derivation import ShardOrigin, read_origin
from muse.pipeline.listing import ListedRows
from muse.pipeline.plan import CaptionShard, VideoShard, all_caption_shards, all_video_shards
from muse.pipeline.receipts import Receipt, ReceiptKind
from muse.pipeline.records import ClipTokens, Failure, VideoRef
from muse.pipeline.sealed_json import hash_of_json
from muse.pipeline.store import RawStore
from muse.pipeline.store_zarr import ZarrStore


class SourceRows:
    """The rows of a source, and which of them another store has still to get."""

    def __init__(self, source: RawStore) -> None:
        self.source = source
        self.rows = _rows_of(source)
        reason_of = {failure.video_id: failure for failure in source.failures}
        self.failures: dict[int, Failure] = {
            row: reason_of[video_id]
            for row, video_id in enumerate(source.video_ids)
            if video_id in reason_of
        }

    def videos_to_do(self, store: ZarrStore) -> list[VideoShard]:
        """Shards that the source has whole and the store has not, with what of them is kept.

        Raises:
            IncompatibleStoreError: If a row of the source is not what was encoded.
        """
        found, changed, done = [], [], store.done("videos")
        for shard in all_video_shards(self.rows, shard_size=self.source.header.shard_size):
            rows = range(shard.first_row, shard.first_row + len(shard.videos))
            if not all(self.source.has_features_N[row] or row in self.failures for row in rows):
                continue
            origin = read_origin(store.storage, "videos", shard.index)
            is_done = rows.stop <= len(done) and bool(done[rows.start : rows.stop].all())
            if is_done and origin and origin.state_sha256 == self.state("videos", shard.index):
                continue
            kept, other = self._kept_videos(store, shard, origin)
            changed += other
            receipt = self._sources_of(shard)
            found.append(dataclasses.replace(shard, kept=kept, receipts=(receipt,)))
        self._require_unchanged(store, "videos", changed)
        return found

    def captions_to_do(self, store: ZarrStore) -> list[CaptionShard]:
        """Shards of captions with an embedding that the store has not."""
        found, changed, done = [], [], store.done("captions")
        for shard in all_caption_shards(self.rows):
            rows = range(shard.first_row, shard.first_row + len(shard.captions))
            there = self.source.has_embedding_Q[rows.start : rows.stop]
            if not there.any():
                continue
            origin = read_origin(store.storage, "captions", shard.index)
            is_done = rows.stop <= len(done) and bool(done[rows.start : rows.stop].all())
            if is_done and origin and origin.state_sha256 == self.state("captions", shard.index):
                continue
            kept, other = self._kept_captions(store, shard, origin)
            changed += other
            left_out = tuple(row for row, has in zip(rows, there.tolist(), strict=True) if not has)
            found.append(dataclasses.replace(shard, kept=kept, left_out=left_out))
        self._require_unchanged(store, "captions", changed)
        return found

    def _kept_videos(
        self, store: ZarrStore, shard: VideoShard, origin: ShardOrigin | None
    ) -> tuple[frozenset[int], list[str]]:
        """Places whose features stay, and ids of videos that were encoded and are others now."""
        kept, changed = set(), []
        for place, known in enumerate(origin.rows if origin else ()):
            row = shard.first_row + place
            if known and row < len(store.has_features_N) and store.has_features_N[row]:
                is_same = self.source.has_features_N[row] and self.hash_of_video(row) == known
                if is_same:
                    kept.add(place)
                else:
                    changed.append(shard.videos[place].video_id)
        return frozenset(kept), changed

    def _kept_captions(
        self, store: ZarrStore, shard: CaptionShard, origin: ShardOrigin | None
    ) -> tuple[frozenset[int], list[str]]:
        kept, changed = set(), []
        now = self.hashes_of_captions(shard) if origin else ()
        for place, known in enumerate(origin.rows if origin else ()):
            row = shard.first_row + place
            if known and row < len(store.has_embedding_Q) and store.has_embedding_Q[row]:
                if now[place] == known:
                    kept.add(place)
                else:
                    changed.append(shard.captions[place].video_id)
        return frozenset(kept), changed

    def _require_unchanged(self, store: ZarrStore, what: str, changed: Sequence[str]) -> None:
        if changed:
            raise IncompatibleStoreError(
                f"{store.location}: {len(changed)} {what} of {self.source.location} are not "
                f"what was encoded here (first: {changed[0]!r}). Remove this folder, or name "
                "another one."
            )

    def fresh(self, shard: VideoShard) -> list[int]:
        """Places that are to be encoded."""
        has = self.source.has_features_N
        places = range(len(shard.videos))
        return [p for p in places if p not in shard.kept and has[shard.first_row + p]]

    def failed(self, shard: VideoShard) -> list[int]:
        """Places that stay without features."""
        places = range(len(shard.videos))
        return [p for p in places if not self.source.has_features_N[shard.first_row + p]]

    def _sources_of(self, shard: VideoShard) -> Receipt:
        """A receipt that tells the files of the source's rows, as `StoreWriter` asks for one."""
        rows = range(shard.first_row, shard.first_row + len(shard.videos))
        return Receipt(
            kind="videos",
            index=shard.index,
            first_row=shard.first_row,
            num_rows=len(rows),
            members_sha256=shard.members_sha256,
            sources=tuple(self.source.sources.get(row) for row in rows),
        )

    @cached_property
    def _states(self) -> dict[tuple[ReceiptKind, int], str]:
        if not isinstance(self.source, ZarrStore):
            return {}
        receipts = [*self.source.video_receipts, *self.source.caption_receipts]
        return {(r.kind, r.index): hash_of_json(r.lasting_part()) for r in receipts}

    def state(self, kind: ReceiptKind, index: int) -> str:
        """Of a shard of the source: of its receipt, or of the whole file that has none."""
        return self._states.get((kind, index), self.source.root_sha256)

    def hash_of_video(self, row: int) -> str:
        """Of all that is read of a video."""
        return hash_of_clip(self.source.read_clip(row))

    def hashes_of_captions(self, shard: CaptionShard) -> tuple[str, ...]:
        """Of the source's embeddings; empty where a caption has none."""
        rows = np.arange(shard.first_row, shard.first_row + len(shard.captions))
        has = self.source.has_embedding_Q[rows]
        found = iter(self.source.read_caption_embeddings(rows[has]))
        return tuple(_short(next(found).tobytes()) if one else "" for one in has.tolist())


def _rows_of(source: RawStore) -> ListedRows:
    """The source's; paths and duplicates only where its form tells them."""
    paths: Sequence[str] = [""] * len(source.video_ids)
    duplicate_of: Sequence[int | None] = [None] * len(source.video_ids)
    if isinstance(source, ZarrStore):
        paths, duplicate_of = source.video_paths, source.duplicate_of
    refs = zip(source.video_ids, paths, source.windows, strict=True)
    return ListedRows(
        protocol=source.header.protocol,
        videos=tuple(
            VideoRef(video_id=video_id, path=Path(path) if path else None, window=window)
            for video_id, path, window in refs
        ),
        duplicate_of=tuple(duplicate_of),
        captions=tuple(source.captions),
    )


def hash_of_clip(clip: ClipTokens) -> str:
    """Of a map, its frames and their times."""
    parts = (clip.tokens_TKD, clip.valid_T, clip.pts_seconds_T)
    return _short(b"".join(part.tobytes() for part in parts))


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
