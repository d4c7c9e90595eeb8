"""A folder of videos with a caption file: the data of a user of their own."""

from pathlib import Path

from muse.errors import ManifestError
from muse.pipeline.datasets.captions import CaptionRow, read_captions
from muse.pipeline.datasets.videos import VIDEO_SUFFIXES, VideoFolder
from muse.pipeline.records import Caption, Listing, VideoRef, printable


def list_folder(folder: Path, captions_file: Path | None) -> Listing:
    """Every video of a folder and every caption of a file.

    A caption may name its video by path below the folder, by file name or by stem. One that names
    no file is kept and its video listed as missing, so that nothing is left out in silence. Videos
    without captions are listed too: they can be searched.

    Args:
        folder: Searched to any depth.
        captions_file: See `read_captions`; None lists the videos alone.

    Raises:
        ManifestError: If there is nothing to list, or two names mean one file.
    """
    videos = VideoFolder(folder)
    rows = read_captions(captions_file) if captions_file else []
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
    id_of = _ids(found, videos, source=captions_file)
    refs = _refs(videos)
    for name, file in found.items():
        refs[id_of[name]] = VideoRef(video_id=id_of[name], path=file)
    return Listing(
        protocol="folder",
        videos=tuple(refs.values()),
        captions=tuple(_caption(row, id_of) for row in rows),
    )


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


def _caption(row: CaptionRow, id_of: dict[str, str]) -> Caption:
    return Caption(video_id=id_of[row.video], text=row.text, split=row.split, axis=row.axis)
