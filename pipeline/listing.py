"""A listing as the rows of a store: which video and which caption is which row.

Rows never move. A new store has its videos by id, those whose bytes another one has after the
others; what is appended later follows, in the same order within itself. Knows nothing of shards,
and of videos only whether two files have the same bytes.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from muse.errors import IncompatibleStoreError, ManifestError
from muse.pipeline.records import Caption, Listing, VideoRef
from muse.pipeline.sealed_json import hash_of_json
from muse.pipeline.sources import first_with_same_bytes
from muse.pipeline.window import FRAGMENT, Window

if TYPE_CHECKING:
    from muse.pipeline.store_zarr import ZarrStore


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedRows:
    """What a store is about, in row order."""

    protocol: str
    videos: tuple[VideoRef, ...]
    """N; the path is the one of this run, None where the file is missing now."""
    duplicate_of: tuple[int | None, ...]
    """For each video the earlier row that has the same bytes."""
    captions: tuple[Caption, ...]
    """Q."""

    @property
    def sha256(self) -> str:
        """Of ids, windows and captions in row order; where the files lie does not enter."""
        captions = [caption.hashed for caption in self.captions]
        return hash_of_json([[video.hashed for video in self.videos], captions])


def sorted_listing(listing: Listing) -> Listing:
    """The listing by video id, checked.

    Raises:
        ManifestError: If it is empty or two videos share an id.
    """
    if not listing.videos:
        raise ManifestError(f"{listing.protocol}: 0 videos are listed. Nothing to extract.")
    for video in listing.videos:
        if not _is_unicode(video.video_id):
            raise ManifestError(
                f"{video.video_id!a}: this id is not valid UTF-8, which a table can't hold. "
                "Give the video another id."
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


def rows_of_new_store(listing: Listing, *, finds_duplicates: bool = True) -> ListedRows:
    """The rows of a store for a listing.

    Args:
        listing: Of `sorted_listing`.
        finds_duplicates: Whether files of equal size are compared byte for byte.
    """
    nothing = ListedRows(protocol=listing.protocol, videos=(), duplicate_of=(), captions=())
    return _grown(nothing, listing.videos, listing.captions, finds_duplicates=finds_duplicates)


def rows_of_continued_store(
    store: "ZarrStore", listing: Listing, *, append: bool, finds_duplicates: bool = True
) -> ListedRows:
    """The rows of a store that is continued with a listing, new ones at the end.

    Args:
        store: As it is.
        listing: Of `sorted_listing`.
        append: Whether it may grow, and may hold rows that are no longer listed.
        finds_duplicates: Whether new files are compared with all others.

    Raises:
        IncompatibleStoreError: If the listing is another one and ``append`` is False, or a video
            of the store has another window in it.
    """
    listing = _under_known_ids(listing, store)
    path_of = {video.video_id: video.path for video in listing.videos}
    window_of = dict(zip(store.video_ids, store.windows, strict=True))
    _refuse_other_windows(store, listing, window_of)
    known = ListedRows(
        protocol=store.header.protocol,
        videos=tuple(
            VideoRef(video_id=i, path=path_of.get(i), window=window)
            for i, window in window_of.items()
        ),
        duplicate_of=tuple(store.duplicate_of),
        captions=tuple(store.captions),
    )
    ids = set(store.video_ids)
    new_videos = tuple(video for video in listing.videos if video.video_id not in ids)
    new_captions, gone_captions = _difference(listing.captions, known.captions)
    if not append:
        _refuse("videos", store, new=[v.video_id for v in new_videos], gone=ids - set(path_of))
        texts = ([caption.text for caption in c] for c in (new_captions, gone_captions))
        _refuse("captions", store, new=next(texts), gone=next(texts))
    _require_finished(store, path_of)
    grown = _grown(known, new_videos, new_captions, finds_duplicates=finds_duplicates)
    return _labelled(grown, listing.protocol) if new_videos or new_captions else known


def _grown(
    known: ListedRows,
    videos: Sequence[VideoRef],
    captions: Sequence[Caption],
    *,
    finds_duplicates: bool,
) -> ListedRows:
    """``known`` with new rows after its own: what is like another video comes last."""
    num_known = len(known.videos)
    listed = [*known.videos, *videos]
    first: Sequence[int | None] = [None] * len(listed)
    if finds_duplicates and videos:
        paths, windows = [v.path for v in listed], [v.window for v in listed]
        first = first_with_same_bytes(paths, windows)
    new = range(num_known, len(listed))
    order = [*range(num_known), *(i for i in new if first[i] is None)]
    order += [i for i in new if first[i] is not None]
    row_of_place = {place: row for row, place in enumerate(order)}
    originals = [first[place] for place in order[num_known:]]
    all_videos = tuple(listed[place] for place in order)
    row_of = {video.video_id: row for row, video in enumerate(all_videos)}
    return ListedRows(
        protocol=known.protocol,
        videos=all_videos,
        duplicate_of=(
            *known.duplicate_of,
            *(None if place is None else row_of_place[place] for place in originals),
        ),
        captions=(
            *known.captions,
            *sorted(captions, key=lambda caption: row_of[caption.video_id]),
        ),
    )


def _refuse_other_windows(
    store: "ZarrStore", listing: Listing, window_of: Mapping[str, Window | None]
) -> None:
    other = [v for v in listing.videos if v.window != window_of.get(v.video_id, v.window)]
    if other:
        first = other[0]
        found, wanted = (
            "the whole file" if window is None else f"--clip-window {window.text}"
            for window in (window_of[first.video_id], first.window)
        )
        raise IncompatibleStoreError(
            f"{store.location}: {len(other)} videos were made of other seconds of their files "
            f"(first: {first.video_id!r}, made of {found}; this run has {wanted}). Repeat the "
            "--clip-window it was made with, or choose another --out."
        )


def _require_finished(store: "ZarrStore", listed: Collection[str]) -> None:
    """Nothing, unless videos that are pending are not in this listing: nobody would find them."""
    done = store.done("videos").tolist()
    lost = [i for i, is_done in zip(store.video_ids, done, strict=True) if not is_done]
    lost = [video_id for video_id in lost if video_id not in listed]
    if lost:
        raise IncompatibleStoreError(
            f"{store.location}: {len(lost)} videos are still to be extracted and are not in this "
            f"listing (first: {lost[0]!r}). Finish the store with its own listing first."
        )


def _under_known_ids(listing: Listing, store: "ZarrStore") -> Listing:
    """The listing with each file that turned up under the id of the row that waited for it.

    A caption that names ``walk`` has that id while there is no file, and a folder then gives the
    file's own id, ``walk.mp4``.
    """
    named = {video.video_id for video in listing.videos}
    waiting = set(_ids_without_file(store)) - named
    bare_of = {i: _without_extension(i) for i in named - set(store.video_ids)}
    num_fitting = Counter(bare_of.values())
    id_of = {i: bare for i, bare in bare_of.items() if bare in waiting and num_fitting[bare] == 1}
    videos = (
        dataclasses.replace(video, video_id=id_of.get(video.video_id, video.video_id))
        for video in listing.videos
    )
    captions = (
        dataclasses.replace(caption, video_id=id_of.get(caption.video_id, caption.video_id))
        for caption in listing.captions
    )
    return sorted_listing(
        Listing(protocol=listing.protocol, videos=tuple(videos), captions=tuple(captions))
    )


def _without_extension(video_id: str) -> str:
    """``a/walk#t=2,4`` of ``a/walk.mp4#t=2,4``."""
    name, mark, seconds = video_id.partition(FRAGMENT)
    return f"{PurePosixPath(name).with_suffix('').as_posix()}{mark}{seconds}"


def _ids_without_file(store: "ZarrStore") -> Iterator[str]:
    """Of videos that had no file when they were listed, and have no features since."""
    done = store.done("videos").tolist()
    for video_id, path, is_done in zip(store.video_ids, store.video_paths, done, strict=True):
        if not path and not is_done:
            yield video_id
    yield from (f.video_id for f in store.failures if f.reason == "missing")


def _labelled(rows: ListedRows, protocol: str) -> ListedRows:
    """With the label of what was appended."""
    if protocol in rows.protocol.split(" + "):
        return rows
    return ListedRows(
        protocol=f"{rows.protocol} + {protocol}",
        videos=rows.videos,
        duplicate_of=rows.duplicate_of,
        captions=rows.captions,
    )


def _difference(
    listed: Sequence[Caption], known: Sequence[Caption]
) -> tuple[list[Caption], list[Caption]]:
    """(captions that are new, captions that are gone); the same one twice counts twice."""
    spare, new = Counter(known), []
    for caption in listed:
        if spare[caption]:
            spare[caption] -= 1
        else:
            new.append(caption)
    return new, list(spare.elements())


def _refuse(what: str, store: "ZarrStore", *, new: Collection[str], gone: Collection[str]) -> None:
    differences = [
        f"{len(names)} {what} {where} (first: {sorted(names)[0]!r})"
        for names, where in ((new, "are not in it"), (gone, "are no longer listed"))
        if names
    ]
    if differences:
        raise IncompatibleStoreError(
            f"{store.location}: made for another listing: {' and '.join(differences)}. --append "
            "adds what is new and keeps every row; else repeat the listing or choose another --out."
        )


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
