"""One shard from clips and captions to committed rows: what a GPU worker does, in two steps.

A shard is encoded, then written, and may be written by another thread while the next is encoded.

A video's place in its batch follows from its row, and every batch has the same shape, so a
video's features have the same bits whichever engine ran, whichever neighbour failed and however
often the run was cut off. Knows nothing of how clips are decoded or workers are placed.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from muse.pipeline.encoded_shard import EncodedCaptions, EncodedShard, EncodedVideos, written
from muse.pipeline.encoders.base import Encoder, build_encoder
from muse.pipeline.encoders.batches import BatchEncoder, FrameBatch, FramePart, Maps
from muse.pipeline.encoders.exact_resize import is_exact_on
from muse.pipeline.encoders.pil_resize import resize_of
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.feature_rows import FeatureRows
from muse.pipeline.golden import measure_golden, require_same_golden
from muse.pipeline.header import EncoderInfo, Golden, Parity, StoreHeader, require_same_encoder
from muse.pipeline.parity import measure_parity
from muse.pipeline.plan import CaptionShard, VideoShard
from muse.pipeline.receipts import Receipt
from muse.pipeline.records import Clip, ClipFeatures, Failure, VideoRef, printable
from muse.pipeline.sources import source_of
from muse.pipeline.speed.device_probe import measure_device
from muse.pipeline.speed.report import DeviceRates
from muse.pipeline.speed.spans import Measured, SpanLog
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.views import arrays_of_clip, encoded_views

logger = logging.getLogger(__name__)
TEXTS_PER_BATCH = 64

Row = ClipFeatures | Failure


class ShardEncoder:
    """An encoder, and the store that it encodes for, shard by shard.

    Args:
        setting: Of the encoder.
        worker: What its spans call it, ``encoder`` and which one; its ``writer`` is called alike.
    """

    def __init__(self, setting: EncoderSetting, *, worker: str = "encoder 1") -> None:
        torch.set_num_threads(setting.num_threads)
        self._encoder: Encoder = build_encoder(
            setting.spec, device=setting.device, precision=setting.precision
        )
        self._batch_encoder = BatchEncoder(self._encoder, device=setting.device)
        self._device = setting.device
        self._store: StoreWriter | None = None
        self.worker = worker

    def info(self) -> EncoderInfo:
        """What the features depend on."""
        return self._encoder.info

    @cached_property
    def resizes(self) -> bool:
        """Whether clips may come unresized: on a GPU, and if it gives PIL's bits."""
        if self._device != "cuda":
            return False
        is_exact = is_exact_on(self._device, self._encoder.info.preprocessing)
        if not is_exact:
            logger.warning("frames are resized by decoders: this GPU does not give PIL's pixels")
        return is_exact

    @cached_property
    def golden(self) -> Golden:
        """What the encoder makes of the built-in clip and caption."""
        return measure_golden(self._encoder)

    def parity(self, clips: Sequence[Clip], *, num_frames: int) -> Parity:
        """How far the features of some clips' whole frames are from the library's.

        Args:
            clips: With whole frames, as they come in a run otherwise.
            num_frames: Of a batch of the run.
        """
        pictures = [whole for clip in clips for whole in clip.whole_frames.values()]
        parts, first = [], 0
        for clip in clips:
            frames = clip.frames_THWC[list(clip.whole_frames)]
            parts.append(self._part(dataclasses.replace(clip, frames_THWC=frames), first))
            first += len(frames)
        # The shape of a batch chooses a GPU's kernels. On a CPU it would cost seconds, and it has
        # no others.
        size = max(num_frames, first) if self._device == "cuda" else first
        batch = FrameBatch(num_frames=size, parts=parts)
        return measure_parity(
            self._encoder,
            self._batch_encoder,
            batch,
            pictures,
            num_videos=len(clips),
            device=self._device,
        )

    def device_rates(self, views: Sequence[str]) -> DeviceRates | None:
        """What its device can do at most, measured now; None if no frame is encoded for views."""
        return measure_device(self._encoder, device=self._device, views=encoded_views(views))

    def open_store(self, location: str) -> None:
        """Opens the store to write to.

        Raises:
            IncompatibleStoreError: If it holds features of another encoder, or this one no longer
                gives what it gave when the store was created.
        """
        self._store = StoreWriter.open(location)
        header = self._store.header
        require_same_encoder(header.encoder, self._encoder.info, what=location)
        if header.golden is not None:
            require_same_golden(
                self.golden, header.golden, precision=header.encoder.precision, what=location
            )

    def encode_videos(
        self, shard: VideoShard, clips: Sequence[Clip | Failure], *, wait_seconds: float = 0.0
    ) -> EncodedVideos:
        """Encodes one shard of videos.

        Args:
            shard: What is to be done.
            clips: Of ``shard.to_decode``, in its order.
            wait_seconds: What it took to get them.
        """
        started, log = time.perf_counter(), SpanLog(self.worker)
        decoded = {place: clip for (place, _), clip in zip(shard.to_decode, clips, strict=True)}
        rows = {**self._kept_rows(shard), **self._encoded(shard, decoded, log)}
        for place, original in shard.copies.items():
            rows[place] = self._copy(shard, place, original, rows)
        return EncodedVideos(
            shard=shard,
            rows=[rows[place] for place in range(len(shard.videos))],
            seconds=_rounded({"wait": wait_seconds, "encode": time.perf_counter() - started}),
            spans=log.taken(),
        )

    def encode_captions(self, shard: CaptionShard) -> EncodedCaptions:
        """Encodes one shard of captions."""
        started, log, wanted = time.perf_counter(), SpanLog(self.worker), shard.to_embed
        with log.measured("captions", what=f"captions {shard.index}", num_items=len(wanted)):
            embeddings = self._embeddings(shard, wanted)
        return EncodedCaptions(
            shard=shard,
            embeddings_BD=embeddings,
            seconds=_rounded({"wait": 0.0, "encode": time.perf_counter() - started}),
            spans=log.taken(),
        )

    def write(self, encoded: EncodedShard) -> tuple[Measured, Receipt]:
        """Commits a shard. Another thread may encode meanwhile, if no other writes.

        Returns:
            What encoder and writer did for it, and its receipt.
        """
        return written(encoded, self._opened(), encoder_name=self.worker)

    def _embeddings(
        self, shard: CaptionShard, wanted: Sequence[tuple[int, str]]
    ) -> NDArray[np.float16]:
        """(captions of the shard, D), zeros for those left out."""
        store = self._opened()
        embeddings = np.zeros((len(shard.captions), self._encoder.info.dim), dtype=np.float16)
        kept = np.array(sorted(shard.kept), dtype=np.intp)
        if len(kept):
            rows = FeatureRows(store.storage, store.header)
            embeddings[kept] = rows.captions(kept + shard.first_row)
        for start in range(0, len(wanted), TEXTS_PER_BATCH):
            batch = wanted[start : start + TEXTS_PER_BATCH]
            texts = [text for _, text in batch]
            embeddings[[place for place, _ in batch]] = self._encoder.encode_texts(
                texts, store.header.text_length
            )
        return embeddings

    def _encoded(
        self, shard: VideoShard, decoded: Mapping[int, Clip | Failure], log: SpanLog
    ) -> dict[int, Row]:
        """Features of a shard's clips by their places, and the failures as they are.

        A span of ``encode`` lasts from the rows of one batch to those of the next, so spans never
        overlap, whatever the device does meanwhile.
        """
        header = self._opened().header
        rows: dict[int, Row] = {p: clip for p, clip in decoded.items() if isinstance(clip, Failure)}
        batches = _batches({p: c for p, c in decoded.items() if isinstance(c, Clip)}, header)
        maps = self._maps_of(batches)
        for first, clips in batches.items():
            with log.measured(
                "encode",
                what=f"shard {shard.index}, places {first} to {max(clips)}",
                num_items=len(clips),
                num_frames=sum(len(clip.frames_THWC) for clip in clips.values()),
            ):
                rows.update(_rows(clips, next(maps), header=header))
        return rows

    def _maps_of(self, batches: Mapping[int, Mapping[int, Clip]]) -> Iterator[Maps]:
        """Of each batch, in their order; of frames alone none are made."""
        header = self._opened().header
        wanted, num_frames = encoded_views(header.views), header.sampling.num_frames
        if not wanted:
            return itertools.repeat({})
        sent = (
            FrameBatch(
                num_frames=header.batch_videos * num_frames,
                parts=[self._part(clip, (p - first) * num_frames) for p, clip in clips.items()],
            )
            for first, clips in batches.items()
        )
        return self._batch_encoder.maps_of(sent, wanted)

    def _part(self, clip: Clip, first: int) -> FramePart:
        """A clip's frames, from their place in a batch on."""
        size = clip.unresized_from
        resize = resize_of(*size, self._encoder.info.preprocessing) if size is not None else None
        return FramePart(first=first, frames_NHWC=clip.frames_THWC, resize=resize)

    def _kept_rows(self, shard: VideoShard) -> dict[int, Row]:
        """Rows that are committed and stay as they are, read back."""
        return {
            place: self._committed(shard, shard.first_row + place, shard.videos[place].video_id)
            for place in sorted(shard.kept)
        }

    def _copy(self, shard: VideoShard, place: int, original: int, rows: Mapping[int, Row]) -> Row:
        """The row of a video with the same bytes, under this video's name."""
        video = shard.videos[place]
        if original >= shard.first_row:
            row = rows[original - shard.first_row]
        else:
            row = self._committed(shard, original, video.video_id)
        if isinstance(row, Failure):
            return dataclasses.replace(row, video_id=video.video_id, path=printable(video.path))
        sha256 = row.source.sha256 if row.source else None
        now = source_of(video.path, wants_sha256=sha256 is not None) if video.path else None
        if sha256 is not None and (now is None or now.sha256 != sha256):
            return _changed_meanwhile(video)
        return dataclasses.replace(row, video_id=video.video_id, source=now)

    def _committed(self, shard: VideoShard, row: int, video_id: str) -> Row:
        receipt = next(receipt for receipt in shard.receipts if row in receipt.rows)
        for failed, failure in receipt.failures:
            if failed == row:
                return failure
        store = self._opened()
        source = receipt.sources[row - receipt.first_row]
        return FeatureRows(store.storage, store.header).read(row, video_id=video_id, source=source)

    def _opened(self) -> StoreWriter:
        assert self._store is not None, "open_store comes first"
        return self._store


def _changed_meanwhile(video: VideoRef) -> Failure:
    """A file that was another one's equal when the run began, and is not any more."""
    path = printable(video.path)
    return Failure(
        video_id=video.video_id,
        path=path,
        stage="decode",
        reason="unreadable",
        message=f"{path}: changed during the run. Run again with --retry-failed unreadable.",
    )


def _batches(clips: Mapping[int, Clip], header: StoreHeader) -> dict[int, dict[int, Clip]]:
    """Clips by their places, in batches by their first places; those without any are left out."""
    batches: dict[int, dict[int, Clip]] = {}
    for place in sorted(clips):
        first = place - place % header.batch_videos
        batches.setdefault(first, {})[place] = clips[place]
    return batches


def _rows(clips: Mapping[int, Clip], maps: Maps, *, header: StoreHeader) -> dict[int, Row]:
    """The clips' features, of the maps of the batch that they are in."""
    num_frames, rows = header.sampling.num_frames, dict[int, Row]()
    for place, clip in clips.items():
        first = place % header.batch_videos * num_frames
        own = {name: tokens[first : first + num_frames] for name, tokens in maps.items()}
        rows[place] = _features(clip, own, views=header.views, num_frames=num_frames)
    return rows


def _features(
    clip: Clip,
    maps: Mapping[str, NDArray[np.float16]],
    *,
    views: tuple[str, ...],
    num_frames: int,
) -> ClipFeatures:
    """The clip's views, with nothing in place of what the encoder made of the padding."""
    num_valid = len(clip.frames_THWC)
    valid_T = np.arange(num_frames) < num_valid
    pts_seconds_T = np.full(num_frames, np.nan)
    pts_seconds_T[:num_valid] = clip.pts_seconds_T
    padded = {name: _padded(tokens[:num_valid], num_frames) for name, tokens in maps.items()}
    if clip.squares_TSSC is not None:
        padded["frames:uint8"] = _padded(clip.squares_TSSC, num_frames)
    return ClipFeatures(
        video_id=clip.video_id,
        arrays=arrays_of_clip(views, padded, valid_T),
        valid_T=valid_T,
        pts_seconds_T=pts_seconds_T,
        source=clip.source,
        thumbnails=clip.thumbnails,
        frame_pictures=clip.frame_pictures,
    )


def _padded(frames: NDArray[Any], num_frames: int) -> NDArray[Any]:
    """A map of T frames, zeros behind those that there are."""
    padded = np.zeros((num_frames, *frames.shape[1:]), frames.dtype)
    padded[: len(frames)] = frames
    return padded


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in seconds.items()}
