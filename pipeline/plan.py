"""Listing and store state to the shards that are still to do.

The members of a shard follow from the listing and the shard size alone, so every run, engine and
number of workers cuts the work the same way. Knows nothing of decoding or of Ray.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muse.errors import IncompatibleStoreError, ManifestError
from muse.pipeline.header import EncoderInfo, Sampling, StoreHeader
from muse.pipeline.records import Listing, VideoRef
from muse.pipeline.store_writer import CAPTIONS_PER_SHARD
from muse.pipeline.store_zarr import ZarrStore


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoShard:
    """A unit of work: consecutive videos of the listing."""

    index: int
    first_row: int
    videos: tuple[VideoRef, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionShard:
    """A unit of work: consecutive captions of the listing."""

    index: int
    first_row: int
    texts: tuple[str | None, ...]
    """None where the video is missing: its captions keep their rows and need no embedding."""


def sorted_listing(listing: Listing) -> Listing:
    """The listing in row order, checked.

    Raises:
        ManifestError: If it is empty or two videos share an id.
    """
    if not listing.videos:
        raise ManifestError(f"{listing.protocol}: 0 videos are listed. Nothing to extract.")
    for video in listing.videos:
        if not _is_unicode(f"{video.video_id}{video.path}"):
            raise ManifestError(
                f"{video.video_id!a}: its name is not valid UTF-8, which a table can't hold. "
                "Rename the file."
            )
    videos = tuple(sorted(listing.videos, key=lambda video: video.video_id))
    for left, right in itertools.pairwise(videos):
        if left.video_id == right.video_id:
            raise ManifestError(
                f"video id {left.video_id!r} is listed twice ({left.path} and {right.path}). "
                "Give each video an id of its own."
            )
    row_of = {video.video_id: row for row, video in enumerate(videos)}
    captions = tuple(sorted(listing.captions, key=lambda caption: row_of[caption.video_id]))
    return Listing(protocol=listing.protocol, videos=videos, captions=captions)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def listing_sha256(listing: Listing) -> str:
    """A hash of the ids and captions in row order; where the files lie does not enter."""
    digest = hashlib.sha256()
    for video in listing.videos:
        digest.update(json.dumps(video.video_id).encode())
    for caption in listing.captions:
        fields = [caption.video_id, caption.text, caption.split]
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def header_of(
    listing: Listing,
    *,
    encoder: EncoderInfo,
    sampling: Sampling,
    shard_size: int,
    batch_videos: int,
    versions: Mapping[str, str | None] | None = None,
) -> StoreHeader:
    """The header of a store for this listing and these settings."""
    return StoreHeader(
        encoder=encoder,
        sampling=sampling,
        protocol=listing.protocol,
        num_videos=len(listing.videos),
        num_captions=len(listing.captions),
        shard_size=shard_size,
        batch_videos=batch_videos,
        listing_sha256=listing_sha256(listing),
        versions=dict(versions or {}),
    )


def require_same_plan(
    store: ZarrStore,
    listing: Listing,
    *,
    encoder_spec: str,
    sampling: Sampling,
    shard_size: int,
    batch_videos: int,
) -> None:
    """Nothing, if a run with these settings may go on with a store.

    Raises:
        IncompatibleStoreError: Naming the first setting that differs and both its values.
    """
    header = store.header
    settings: tuple[tuple[str, object, object], ...] = (
        ("encoder", header.encoder.spec, encoder_spec),
        ("sampling", header.sampling.kind, sampling.kind),
        ("num_frames", header.sampling.num_frames, sampling.num_frames),
        ("fps", header.sampling.fps, sampling.fps),
        ("shard_size", header.shard_size, shard_size),
        ("batch_videos", header.batch_videos, batch_videos),
        ("videos", header.num_videos, len(listing.videos)),
        ("captions", header.num_captions, len(listing.captions)),
        ("listing_sha256", header.listing_sha256, listing_sha256(listing)),
    )
    for name, found, wanted in settings:
        if found != wanted:
            raise IncompatibleStoreError(
                f"{store.path}: made with {name} = {found!r}, this run has {wanted!r}. "
                "Repeat the settings it was made with, or choose another --out."
            )


def pending_video_shards(store: ZarrStore, listing: Listing) -> list[VideoShard]:
    """Shards without a receipt, in order."""
    size = store.header.shard_size
    done = {receipt.index for receipt in store.video_receipts}
    return [
        VideoShard(index=index, first_row=start, videos=tuple(listing.videos[start : start + size]))
        for index, start in _pieces(listing.videos, size)
        if index not in done
    ]


def pending_caption_shards(store: ZarrStore, listing: Listing) -> list[CaptionShard]:
    """Caption shards without a receipt, in order."""
    size = CAPTIONS_PER_SHARD
    done = {receipt.index for receipt in store.caption_receipts}
    # As the store lists them, not this run: `ZarrStore.has_embedding_Q` goes by the same.
    paths = zip(store.video_ids, store.video_paths, strict=True)
    missing = {video_id for video_id, path in paths if not path}
    return [
        CaptionShard(
            index=index,
            first_row=start,
            texts=tuple(
                None if caption.video_id in missing else caption.text
                for caption in listing.captions[start : start + size]
            ),
        )
        for index, start in _pieces(listing.captions, size)
        if index not in done
    ]


def _pieces(rows: Sequence[object], size: int) -> list[tuple[int, int]]:
    return list(enumerate(range(0, len(rows), size)))
