"""What is there of a benchmark: counted on small files written here, and on the published ones."""

import json
from pathlib import Path

import pytest

from muse.errors import ManifestError
from muse.pipeline.datasets.benchmark import Size
from muse.pipeline.datasets.inventory import SplitContent, SplitInventory, take_inventory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MSVD's test list of three videos: one there, one twice, one not."""
    (tmp_path / "test_list.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    captions = '{"one": ["a", "b"], "two": ["a"], "three": ["c", "c"]}'
    (tmp_path / "captions_msvd.json").write_text(captions, encoding="utf-8")
    (tmp_path / "videos").mkdir()
    for name in ("one.avi", "two.avi", "two.mp4"):
        (tmp_path / "videos" / name).touch()
    return tmp_path


def content_of(root: Path) -> SplitContent:
    (found,) = take_inventory("msvd", root, ["test"])
    assert found.content is not None
    return found.content


def test_videos_that_are_there_missing_and_ambiguous_are_told_apart(root: Path) -> None:
    content = content_of(root)
    assert (content.num_present, content.num_videos, content.num_captions) == (1, 3, 5)
    assert (content.missing, content.ambiguous) == (("three",), ("two",))


def test_captions_that_are_there_twice_are_counted(root: Path) -> None:
    assert content_of(root).num_repeated_captions == 2


def test_captions_that_are_empty_are_counted(root: Path) -> None:
    captions = '{"one": ["a", " "], "two": [""], "three": ["c"]}'
    (root / "captions_msvd.json").write_text(captions, encoding="utf-8")
    content = content_of(root)
    assert (content.num_captions, content.num_empty_captions) == (2, 2)
    assert content.without_captions == ("two",)


def test_ids_that_are_listed_again_and_ids_without_a_caption_are_named(root: Path) -> None:
    (root / "test_list.txt").write_text("one\none\nfour\n", encoding="utf-8")
    content = content_of(root)
    assert content.num_videos == 2
    assert (content.repeated_ids, content.without_captions) == (("one",), ("four",))


def test_a_split_without_files_says_which_were_looked_for(root: Path) -> None:
    train, val, test = take_inventory("msvd", root)
    assert [each.has_files for each in (train, val, test)] == [False, False, True]
    assert (train.content, train.problem) == (None, "")
    assert [file.names for file in train.files if file.path is None] == [("train_list.txt",)]


def test_a_file_of_another_form_is_told_and_not_raised(root: Path) -> None:
    (root / "captions_msvd.json").write_text("{", encoding="utf-8")
    (found,) = take_inventory("msvd", root, ["test"])
    assert found.content is None
    assert "can't be read as JSON" in found.problem
    assert not found.is_whole


def test_two_files_of_one_name_are_a_problem_of_their_split(root: Path) -> None:
    for folder in ("a", "b"):
        (root / folder).mkdir()
        (root / folder / "val_list.txt").write_text(folder, encoding="utf-8")
    val, test = take_inventory("msvd", root, ["val", "test"])
    assert "one name and other bytes" in val.problem
    assert (test.problem, test.content is None) == ("", False)


def test_unknown_splits_datasets_and_folders_are_refused(root: Path) -> None:
    with pytest.raises(ManifestError, match="MSVD has train, val, test"):
        take_inventory("msvd", root, ["dev"])
    with pytest.raises(ManifestError, match="choose one of msvd"):
        take_inventory("ucf", root)
    with pytest.raises(ManifestError, match="no such folder"):
        take_inventory("msvd", root / "gone")


def split_of(*sizes: Size, num_videos: int = 3) -> SplitInventory:
    content = SplitContent(
        num_videos=num_videos,
        num_captions=5,
        missing=(),
        ambiguous=(),
        repeated_ids=(),
        num_repeated_captions=0,
        without_captions=(),
    )
    return SplitInventory(
        split="test", label="A test", files=(), sizes=sizes, content=content, problem=""
    )


def test_any_published_size_will_do_and_none_asks_for_nothing() -> None:
    assert split_of().is_whole
    assert split_of(Size(num_videos=3)).is_whole
    assert split_of(Size(num_videos=4), Size(num_captions=5)).is_whole
    assert not split_of(Size(num_videos=4)).is_whole
    assert not split_of(Size(num_videos=3, num_captions=6)).is_whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msvd", "msrvtt", "activitynet", "didemo"])
def test_the_published_files_have_the_sizes_of_the_literature(real_data: Path, name: str) -> None:
    found = [each for each in take_inventory(name, real_data / name) if each.has_files]
    assert found
    assert all(each.has_published_size and not each.problem for each in found)


def test_didemo_s_1037_names_are_1004_videos_by_their_stem(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "didemo" / "test_data.json"
    (tmp_path / "test_data.json").symlink_to(file)
    moments = json.loads(file.read_text(encoding="utf-8"))
    assert len({moment["video"] for moment in moments}) == 1037
    (found,) = take_inventory("didemo", tmp_path, ["test"])  # without the list that chooses
    assert found.content is not None
    assert found.content.num_videos == 1004
    assert found.has_published_size
