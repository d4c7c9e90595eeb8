"""A folder of videos with a caption file: the data of a user of their own."""

import dataclasses
from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.captions import CaptionRow, read_captions
from muse.pipeline.datasets.videos import VIDEO_SUFFIXES, VideoFolder
from muse.pipeline.records import Caption, Listing, VideoRef, printable
from muse.pipeline.window import ClipWindow, Window


def list_folder(
    folder: Path, captions_file: Path | None, *, clip_window: ClipWindow = "preset"
) -> Listing:
    """Every video of a folder and every caption of a file.

    A caption may name its video by path below the folder, by file name or by stem. One that names
    no file is kept and its video listed as missing, so that nothing is left out in silence. Videos
    without captions are listed too: they can be searched. A part of a file, of the columns
    ``start`` and ``end``, is a video of its own, ``walk.mp4#t=2,4``; the whole file then is one
    only if a caption is about all of it.

    Args:
        folder: Searched to any depth.
        captions_file: See `read_captions`; None lists the videos alone.
        clip_window: One for all videos, ``none`` for whole files whatever the columns say, else
            what the columns say.

    Raises:
        ManifestError: If there is nothing to list, two names mean one file, or a window is given
            for videos that have their own.
    """
    videos = VideoFolder(folder)
    rows = read_captions(captions_file) if captions_file else []
    rows = [_windowed(row, clip_window, source=captions_file) for row in rows]
    found = {name: videos.find(name) for name in dict.fromkeys(row.video for row in rows)}
    if rows and not any(found.values()):
        raise ManifestError(
            f"{captions_file}: none of its {len(found)} videos is in {printable(folder)} "
            f"(first: {next(iter(found))!r}). Check the folder, or the column video."
        )
    if not rows and not videos.files:
        raise ManifestError(
            f"{printable(folder)}: 0 videos in it. Known extensions: "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}."
        )
    if clip_window == "annotated" and not any(row.window for row in rows):
        raise ManifestError(
            f"{captions_file or printable(folder)}: no windows in it for --clip-window annotated. "
            "Add columns start and end to the caption file, or leave it out."
        )
    id_of = _ids(found, videos, source=captions_file)
    refs = _refs(videos)
    for name in {row.video for row in rows if row.window}:
        refs.pop(id_of[name], None)
    for row in rows:
        video_id = _id_of(row, id_of)
        refs[video_id] = VideoRef(video_id=video_id, path=found[row.video], window=row.window)
    if isinstance(clip_window, Window):
        refs = {i: dataclasses.replace(ref, window=clip_window) for i, ref in refs.items()}
    return Listing(
        protocol="folder",
        videos=tuple(refs.values()),
        captions=tuple(_caption(row, id_of) for row in rows),
    )


def _windowed(row: CaptionRow, clip_window: ClipWindow, *, source: Path | None) -> CaptionRow:
    """The row with the window that counts."""
    if isinstance(clip_window, Window) and row.window:
        raise ManifestError(
            f"{source}: has windows of its own (first: {row.window.text} of {row.video!r}). Leave "
            "out --clip-window, or write --clip-window none for whole files."
        )
    return dataclasses.replace(row, window=None) if clip_window == "none" else row


def _refs(videos: VideoFolder) -> dict[str, VideoRef]:
    refs: dict[str, VideoRef] = {}
    for file in videos.files:
        video_id = videos.id_of(file)
        if video_id in refs:
            raise ManifestError(
                f"{printable(videos.root)}: two files have the id {video_id!r}: the one of that "
                "name, and the one whose bytes are escaped so. Rename one."
            )
        refs[video_id] = VideoRef(video_id=video_id, path=file)
    return refs


def _ids(
    found: dict[str, Path | None], videos: VideoFolder, *, source: Path | None
) -> dict[str, str]:
    """Name in the caption file -> id; a missing video keeps its name."""
    ids: dict[str, str] = {}
    names_of: dict[str, str] = {}
    for name, file in found.items():
        video_id = videos.id_of(file) if file else name
        if video_id in names_of:
            raise ManifestError(
                f"{source}: {names_of[video_id]!r} and {name!r} both mean {video_id}. "
                "Write one name for one video."
            )
        names_of[video_id] = name
        ids[name] = video_id
    return ids


def _id_of(row: CaptionRow, id_of: dict[str, str]) -> str:
    return id_of[row.video] + (row.window.fragment if row.window else "")


def _caption(row: CaptionRow, id_of: dict[str, str]) -> Caption:
    return Caption(video_id=_id_of(row, id_of), text=row.text, split=row.split, axis=row.axis)
