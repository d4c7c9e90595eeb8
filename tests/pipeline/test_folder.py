"""A folder of a user's videos and a caption file to a listing."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from muse.errors import ManifestError
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.datasets.videos import VideoFolder
from muse.pipeline.records import Listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.mp4, sub/b.avi, sub/twin.mp4, twin.mkv, and files that are no videos of the folder."""
    root = tmp_path / "videos"
    names = ("a.mp4", "sub/b.avi", "sub/twin.mp4", "twin.mkv")
    for name in (*names, "notes.txt", ".hidden.mp4", ".cache/c.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(folder: Path, videos: Sequence[str]) -> Listing:
    file = folder.parent / "captions.csv"
    rows = "".join(f"{video},text {number}\n" for number, video in enumerate(videos))
    file.write_text("video,caption\n" + rows, encoding="utf-8")
    return list_folder(folder, file)


def paths(listing: Listing, folder: Path) -> dict[str, str | None]:
    return {
        video.video_id: str(video.path.relative_to(folder)) if video.path else None
        for video in listing.videos
    }


def test_every_video_below_the_folder_is_listed_by_its_path(folder: Path) -> None:
    names = ("a.mp4", "sub/b.avi", "sub/twin.mp4", "twin.mkv")
    assert paths(list_folder(folder, None), folder) == {name: name for name in names}


def test_videos_without_captions_are_listed_too(folder: Path) -> None:
    assert len(listed(folder, ["a.mp4"]).videos) == 4


def test_a_caption_keeps_its_split_and_axis(folder: Path) -> None:
    file = folder.parent / "captions.csv"
    file.write_text("video,caption,split,axis\na,left,test,where\na,a dog,,\n", encoding="utf-8")
    captions = list_folder(folder, file).captions
    assert [(c.split, c.axis) for c in captions] == [("test", "where"), ("all", "")]


@pytest.mark.parametrize("name", ["sub/b.avi", "b.avi", "b", "b.mp4"])
def test_a_caption_names_its_video_by_path_name_or_stem(folder: Path, name: str) -> None:
    assert listed(folder, [name]).captions[0].video_id == "sub/b.avi"


def test_a_path_is_taken_before_a_stem(folder: Path) -> None:
    assert listed(folder, ["twin.mkv"]).captions[0].video_id == "twin.mkv"


def test_a_stem_with_a_dot_is_a_stem(folder: Path) -> None:
    (folder / "clip.v2.mp4").touch()
    assert listed(folder, ["clip.v2"]).captions[0].video_id == "clip.v2.mp4"


def test_captions_keep_their_texts_and_order(folder: Path) -> None:
    listing = listed(folder, ["b", "a.mp4", "b"])
    assert [(caption.video_id, caption.text) for caption in listing.captions] == [
        ("sub/b.avi", "text 0"),
        ("a.mp4", "text 1"),
        ("sub/b.avi", "text 2"),
    ]


def test_a_missing_video_is_listed_without_a_file(folder: Path) -> None:
    assert paths(listed(folder, ["a.mp4", "gone.mp4"]), folder)["gone.mp4"] is None


def test_an_absolute_name_is_found_by_its_stem(folder: Path) -> None:
    assert listed(folder, ["/somewhere/else/b.avi"]).captions[0].video_id == "sub/b.avi"


def test_an_absolute_name_of_a_file_elsewhere_is_missing(folder: Path) -> None:
    outside = folder.parent / "outside.mp4"
    outside.touch()
    assert paths(listed(folder, ["a.mp4", str(outside)]), folder)[str(outside)] is None


def test_a_stem_of_two_files_is_refused_with_both(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"'twin' fits 2 files: .*twin\.mp4, .*twin\.mkv"):
        listed(folder, ["twin"])


def test_two_names_for_one_file_are_refused_with_both(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"'b' and 'b\.avi' both mean sub/b\.avi"):
        listed(folder, ["b", "b.avi"])


def test_captions_of_which_no_video_is_there_are_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"none of its 2 videos .*'x\.mp4'"):
        listed(folder, ["x.mp4", "y.mp4"])


def test_a_folder_without_videos_is_refused_with_the_known_extensions(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"0 videos in it.*\.mp4"):
        list_folder(tmp_path, None)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        list_folder(tmp_path / "nowhere", None)


def test_a_subfolder_named_like_a_video_is_no_video(folder: Path) -> None:
    (folder / "frames.mp4").mkdir()
    assert VideoFolder(folder).find("frames.mp4") is None


def test_a_relative_folder_gives_absolute_paths_for_workers_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    listing = list_folder(Path(folder.name), None)
    assert [video.path for video in listing.videos] == [
        folder / video.video_id for video in listing.videos
    ]


def test_a_name_with_a_folder_never_means_a_file_of_another_folder(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    for name in ("cooking/0002.mp4", "sports/0001.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    found = paths(listed(root, ["sports/0002.mp4", "sports/0001"]), root)
    assert found == {
        "cooking/0002.mp4": "cooking/0002.mp4",
        "sports/0001.mp4": "sports/0001.mp4",
        "sports/0002.mp4": None,
    }


def test_only_the_extension_of_a_video_is_cut_off(folder: Path) -> None:
    assert VideoFolder(folder).find("a.1") is None


def test_a_path_with_dots_is_the_file_it_leads_to(folder: Path) -> None:
    assert VideoFolder(folder).find("sub/../sub/b.avi") == folder / "sub/b.avi"


def test_a_name_that_is_not_utf8_has_an_id_with_escapes(folder: Path) -> None:
    file = folder / "caf\udce9.mp4"
    file.touch()
    refs = {video.video_id: video.path for video in list_folder(folder, None).videos}
    assert refs[r"caf\xe9.mp4"] == file


@pytest.mark.parametrize(
    "name", [r"s\xff/caf\xe9.mp4", r"caf\xe9.mp4", r"caf\xe9", r"s\xff/caf\xe9"]
)
def test_a_caption_names_what_is_not_utf8_by_its_escapes(folder: Path, name: str) -> None:
    (folder / "s\udcff").mkdir()
    (folder / "s\udcff/caf\udce9.mp4").touch()
    assert listed(folder, [name]).captions[0].video_id == r"s\xff/caf\xe9.mp4"


def test_a_name_that_spells_another_one_s_escapes_is_refused(folder: Path) -> None:
    (folder / "caf\udce9.mp4").touch()
    (folder / r"caf\xe9.mp4").touch()
    with pytest.raises(ManifestError, match=r"two files have the id 'caf.*Rename one"):
        list_folder(folder, None)
