"""A store made of another one: each video's map is encoded again, all else is copied.

    source -> shards to do -> maps -> encoder -> tokens -> write -> receipt -> origin

What a finetuned encoder makes of a video belongs to no store that was extracted, so it gets one of
its own (docs/adr/0029). Knows nothing of what the encoder is, nor of videos' files.
"""

# Legend: N videos of a batch, T frames, K tokens a frame, W width of the map, D of the joint space.

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from muse.errors import IncompatibleStoreError
from muse.pipeline.derivation import (
    Derivation,
    ShardOrigin,
    read_derivation,
    write_derivation,
    write_origin,
)
from muse.pipeline.forecasting.store_size import (
    THUMBNAIL_BYTES,
    StoreShape,
    other_bytes,
    require_space,
)
from muse.pipeline.golden import CAPTION, require_same_golden
from muse.pipeline.header import EncoderInfo, Golden
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import ReceiptKind
from muse.pipeline.records import ClipFeatures, ClipTokens, Failure
from muse.pipeline.run_record import package_versions, write_failures
from muse.pipeline.schedule import available_cpus
from muse.pipeline.sole_writer import existing_store, only_writer
from muse.pipeline.source_rows import SourceRows, hash_of_clip
from muse.pipeline.storage.files import Storage, WriteLock, open_storage
from muse.pipeline.store import CAPTIONS_PER_SHARD, RawStore, clip_map
from muse.pipeline.store_writer import StoreWriter, writing
from muse.pipeline.store_zarr import ZarrStore

TEXTS_PER_BATCH = 64
MOST_READERS = 8  # of a batch; each decodes a video where the source keeps no frames

OnProgress = Callable[[int, int], None]
"""Called with videos done and videos in all, after each video."""


class ReEncoder(Protocol):
    """An encoder that begins at a map of a store: the top of a tower, or all of it."""

    @property
    def info(self) -> EncoderInfo:
        """Its own: the hash is that of the weights it has now."""
        ...

    @property
    def golden(self) -> Golden | None:
        """What it makes of the built-in clip and caption; None where nobody asks."""
        ...

    def encode_clips(
        self, maps_NTKW: NDArray[Any], valid_NT: NDArray[np.bool_]
    ) -> NDArray[np.float16]:
        """(N, T, K, D) finite tokens, not normalised.

        Args:
            maps_NTKW: As `muse.pipeline.store.clip_map` has them; N is the same at every call.
            valid_NT: True for a frame. Of the others, and of videos without any, the maps are
                zeros, and what is made of them is not kept.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float16] | None:
        """(Q, D), not normalised; None where the text tower is that of the source."""
        ...


def reencode(
    source: RawStore,
    out: Path | str,
    encoder: ReEncoder,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> ZarrStore:
    """The store that an encoder makes of another one, brought up to it; finished, it is only read.

    Args:
        source: Opened on the view that is encoded.
        out: Folder or URL of the new store.
        encoder: What makes the tokens.
        on_progress: Called after each video.

    A shard of the source with rows that are pending is waited for: it is done by the first call
    that finds it whole. A kill costs the shards that have no receipt.

    Raises:
        StoreError: If one can't be read or written, or another run is writing to it.
        IncompatibleStoreError: If there is a store of another encoder or source, or rows of the
            source that were encoded have changed since.
    """
    work = _Reencoding(source, open_storage(out), encoder)
    store = existing_store(work.storage)
    if store is None or not work.is_done(store):
        with only_writer(out) as (_, lock):
            work.run(lock, on_progress)
        store = ZarrStore.open(work.storage.location)
        write_failures(store)
    return store


class _Reencoding:
    """One source, one encoder, and the store between them."""

    def __init__(self, source: RawStore, storage: Storage, encoder: ReEncoder) -> None:
        self.source, self.storage, self.encoder = source, storage, encoder
        self.map = clip_map(source)
        self.found = SourceRows(source)
        self.header = dataclasses.replace(
            source.header,
            encoder=encoder.info,
            views=("tokens",),
            golden=encoder.golden,
            parity=None,  # the source's, and of other weights
            versions=package_versions(),
            files={},
        )

    # -- what is to be done -------------------------------------------------------------------

    def is_done(self, store: ZarrStore) -> bool:
        """True if the store has all that its source has."""
        self._require_own(store)
        has_rows = store.header.listing_sha256 == self.header.listing_sha256
        is_whole = bool(store.header.files) and read_derivation(self.storage) is not None
        return (
            has_rows
            and is_whole
            and not self.found.videos_to_do(store)
            and not self.found.captions_to_do(store)
        )

    def _require_own(self, store: ZarrStore) -> None:
        """Nothing, if the store was made by this encoder of this source's view, so far as it is."""
        made_from = read_derivation(self.storage)
        if made_from is None and (store.video_receipts or store.caption_receipts):
            raise self._other("made from", "no other store", self.source.location)
        pairs: list[tuple[str, object, object]] = [
            ("made by weights", store.header.encoder.weights_sha256, self._info.weights_sha256),
            ("made by an encoder", store.header.encoder, self._info),
        ]
        if made_from is not None:
            header = made_from.header
            pairs += [
                ("made from the view", made_from.view, self.source.token_view),
                ("made from features of", header.encoder, self.source.header.encoder),
                ("made with the sampling", header.sampling, self.source.header.sampling),
            ]
        for words, found, wanted in pairs:
            if found != wanted:
                raise self._other(words, found, wanted)
        self._require_known_rows(store)
        golden, now = store.header.golden, self.encoder.golden
        if golden is not None and now is not None:
            where, precision = store.location, self._info.precision
            require_same_golden(now, golden, precision=precision, what=where)

    def _require_known_rows(self, store: ZarrStore) -> None:
        for words, found, wanted in (
            ("videos", store.video_ids, self.source.video_ids),
            ("windows", store.windows, self.source.windows),
            ("captions", store.captions, self.source.captions),
        ):
            if list(found) != list(wanted[: len(found)]):
                raise self._other(f"made for other {words}", len(found), len(wanted))

    def _other(self, words: str, found: object, wanted: object) -> IncompatibleStoreError:
        return IncompatibleStoreError(
            f"{self.storage.location}: {words} {found}, and {wanted} is needed for "
            f"{self.source.location}. Remove this folder, or name another one."
        )

    # -- doing it -----------------------------------------------------------------------------

    def run(self, lock: WriteLock, on_progress: OnProgress) -> None:
        """Brings the store up; the lock is this run's."""
        store = existing_store(self.storage)
        if store is not None:
            self._require_own(store)
            self.found.videos_to_do(store)  # before anything is written
        with writing(self.storage.location):
            writer = self._described(store)
        store = ZarrStore.open(self.storage.location)
        videos, captions = self.found.videos_to_do(store), self.found.captions_to_do(store)
        self._require_space(videos, captions)
        num_todo = sum(len(self.found.fresh(shard)) for shard in videos)
        done = int(store.has_features_N.sum())
        total = done + num_todo

        def count() -> None:
            nonlocal done
            done = min(done + 1, total)
            on_progress(done, total)

        for shard in videos:
            self._write_videos(writer, store, shard, lock, count)
        for texts in captions:
            self._write_captions(writer, store, texts, lock)

    def _described(self, store: ZarrStore | None) -> StoreWriter:
        """The store's writer, its header and tables those of the source as it is now."""
        location = self.storage.location
        if store is None:
            writer = StoreWriter.create(location, self.header, self.found.rows)
        else:
            writer = StoreWriter.open(location)
            if store.header.listing_sha256 != self.header.listing_sha256 or not store.header.files:
                kept = {name: getattr(store.header, name) for name in ("golden", "versions")}
                writer.describe(dataclasses.replace(self.header, **kept), self.found.rows)
        source = self.source
        derivation = Derivation(
            source=source.location,
            view=source.token_view,
            root_sha256=source.root_sha256,
            texts="copied" if self.encoder.encode_texts([CAPTION]) is None else "encoded",
            header=source.header,
        )
        write_derivation(self.storage, derivation)
        return writer

    def _write_videos(
        self,
        writer: StoreWriter,
        store: ZarrStore,
        shard: VideoShard,
        lock: WriteLock,
        count: Callable[[], None],
    ) -> None:
        hashes = [""] * len(shard.videos)
        rows: dict[int, ClipFeatures | Failure] = {}
        for place in range(len(shard.videos)):
            row = shard.first_row + place
            if place in shard.kept:
                rows[place], hashes[place] = store.read_features(row), self.found.hash_of_video(row)
            elif not self.source.has_features_N[row]:
                rows[place] = self.found.failures[row]
        size = self.header.batch_videos
        for start in range(0, len(shard.videos), size):
            clips = self._read(
                shard.first_row,
                [place for place in self.found.fresh(shard) if start <= place < start + size],
            )
            for place, tokens_TKD in self._tokens(clips, start).items():
                hashes[place] = hash_of_clip(clips[place])
                rows[place] = self._features(shard.first_row + place, clips[place], tokens_TKD)
                count()
        lock.check()
        done, first = store.done("videos"), shard.first_row
        changing = [p for p in range(len(rows)) if p not in shard.kept]
        for receipt in store.video_receipts:
            again = [p + first for p in changing if done[p + first]]
            if receipt.index == shard.index and again:  # never wrong, at most pending
                writer.reopen(receipt, again)
        # A failure's file is the source's to tell, not the disk's as it is today.
        told = dataclasses.replace(shard, kept=shard.kept | frozenset(self.found.failed(shard)))
        writer.write_video_shard(told, [rows[p] for p in range(len(rows))], seconds={})
        self._write_origin("videos", shard.index, hashes)

    def _read(self, first_row: int, places: Sequence[int]) -> dict[int, ClipTokens]:
        """Some videos of a shard by their places, read side by side."""
        rows = [first_row + place for place in places]
        with ThreadPoolExecutor(min(MOST_READERS, available_cpus())) as pool:
            return dict(zip(places, pool.map(self.source.read_clip, rows), strict=True))

    def _tokens(self, clips: dict[int, ClipTokens], start: int) -> dict[int, NDArray[np.float16]]:
        """Place -> (T, K, D), in one call of a constant shape: a place decides a video's bits."""
        if not clips:
            return {}
        size = self.header.batch_videos
        maps = np.zeros((size, *self.map.shape), self.map.dtype)
        valid_NT = np.zeros((size, self.header.sampling.num_frames), np.bool_)
        for place, clip in clips.items():
            maps[place - start], valid_NT[place - start] = clip.tokens_TKD, clip.valid_T
        tokens_NTKD = self.encoder.encode_clips(maps, valid_NT)
        tokens_NTKD = np.where(valid_NT[:, :, None, None], tokens_NTKD, np.float16(0))
        return {place: tokens_NTKD[place - start] for place in clips}

    def _features(
        self, row: int, clip: ClipTokens, tokens_TKD: NDArray[np.float16]
    ) -> ClipFeatures:
        return ClipFeatures(
            video_id=clip.video_id,
            arrays={"tokens": tokens_TKD},
            valid_T=clip.valid_T,
            pts_seconds_T=clip.pts_seconds_T,
            source=self.source.sources.get(row),
            thumbnails=self.source.read_thumbnails(row) or (),
        )

    def _write_captions(
        self, writer: StoreWriter, store: ZarrStore, shard: CaptionShard, lock: WriteLock
    ) -> None:
        embeddings = np.zeros((len(shard.captions), self._info.dim), np.float16)
        kept = np.array(sorted(shard.kept), np.intp)
        if len(kept):
            embeddings[kept] = store.read_caption_embeddings(kept + shard.first_row)
        wanted = shard.to_embed
        for start in range(0, len(wanted), TEXTS_PER_BATCH):
            batch = wanted[start : start + TEXTS_PER_BATCH]
            places = np.array([place for place, _ in batch], np.intp)
            made = self.encoder.encode_texts([text for _, text in batch])
            if made is None:
                made = self.source.read_caption_embeddings(places + shard.first_row)
            embeddings[places] = made
        lock.check()
        writer.write_caption_shard(shard, embeddings, seconds={})
        self._write_origin("captions", shard.index, self.found.hashes_of_captions(shard))

    def _require_space(
        self, videos: Sequence[VideoShard], captions: Sequence[CaptionShard]
    ) -> None:
        sampling, size = self.header.sampling, self.header.shard_size
        shape = StoreShape.of(self._info, views=("tokens",), sampling=sampling, shard_size=size)
        needed = other_bytes(videos, captions)
        needed += len(captions) * CAPTIONS_PER_SHARD * self._info.dim * 2  # float16
        for shard in videos:
            num_rows = len(self.found.fresh(shard))
            needed += sum(shape.video_shard_bytes(num_rows, is_new=not shard.kept).values())
            if self.header.thumbnail_side:
                needed += num_rows * sampling.num_frames * THUMBNAIL_BYTES
        free, where = self.storage.free_bytes(), self.storage.location
        require_space(needed, free, where, advice="or name a folder on another disk")

    @property
    def _info(self) -> EncoderInfo:
        return self.header.encoder

    def _write_origin(self, kind: ReceiptKind, index: int, hashes: Sequence[str]) -> None:
        state = self.found.state(kind, index)
        origin = ShardOrigin(kind=kind, index=index, state_sha256=state, rows=tuple(hashes))
        with writing(self.storage.location):
            write_origin(self.storage, origin)
