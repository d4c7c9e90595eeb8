"""The readers of four benchmarks: on small files written here, and on the published ones."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.errors import ManifestError
from muse.pipeline.datasets.benchmark import benchmarks, list_benchmark
from muse.pipeline.records import Listing

MakeRoot = Callable[..., Path]


@pytest.fixture
def make_root(tmp_path: Path) -> MakeRoot:
    """A folder of annotation files, text or JSON, and empty videos."""

    def make(*videos: str, **files: object) -> Path:
        (tmp_path / "videos").mkdir()
        for name in videos:
            (tmp_path / "videos" / name).touch()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            stem, _, suffix = name.rpartition("_")
            (tmp_path / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def pairs(listing: Listing) -> list[tuple[str, str, str]]:
    return [(caption.video_id, caption.text, caption.split) for caption in listing.captions]


def found(listing: Listing) -> dict[str, str | None]:
    return {video.video_id: video.path.name if video.path else None for video in listing.videos}


# -- small files ---------------------------------------------------------------------------------


@pytest.fixture
def msvd_root(make_root: MakeRoot) -> Path:
    return make_root(
        "one.avi",
        captions_msvd_json={"one": ["a", "b"], "two": ["c"], "three": ["d"]},
        train_list_txt="three\n",
        test_list_txt="one\ntwo\n\n",
    )


def test_msvd_gives_every_caption_of_the_split_s_videos(msvd_root: Path) -> None:
    assert pairs(list_benchmark("msvd", msvd_root, ["test"])) == [
        ("one", "a", "test"),
        ("one", "b", "test"),
        ("two", "c", "test"),
    ]


def test_a_video_that_is_not_there_is_listed_as_missing(msvd_root: Path) -> None:
    assert found(list_benchmark("msvd", msvd_root, ["test"])) == {"one": "one.avi", "two": None}


def test_several_splits_are_listed_together_and_named(msvd_root: Path) -> None:
    listing = list_benchmark("msvd", msvd_root, ["train", "test", "train"])
    assert (listing.protocol, len(listing.captions)) == ("MSVD train+test", 4)


def test_a_split_of_which_no_video_is_there_is_refused(msvd_root: Path) -> None:
    with pytest.raises(ManifestError, match=r"none of the 1 videos of MSVD train .*three"):
        list_benchmark("msvd", msvd_root, ["train"])


def test_a_split_that_lists_nothing_is_refused(msvd_root: Path) -> None:
    (msvd_root / "train_list.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="MSVD train has 0 videos"):
        list_benchmark("msvd", msvd_root, ["train"])


def test_a_missing_annotation_file_is_refused_by_name(msvd_root: Path) -> None:
    with pytest.raises(ManifestError, match=r"no val_list\.txt"):
        list_benchmark("msvd", msvd_root, ["val"])


def test_an_unknown_split_is_refused_with_the_known_ones(msvd_root: Path) -> None:
    with pytest.raises(ManifestError, match="split 'dev': MSVD has train, val, test"):
        list_benchmark("msvd", msvd_root, ["dev"])


def test_an_unknown_benchmark_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'lsmdc': choose one of msvd, msrvtt"):
        list_benchmark("lsmdc", tmp_path, ["test"])


def test_an_annotation_file_that_is_no_json_is_refused(msvd_root: Path) -> None:
    (msvd_root / "captions_msvd.json").write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError, match="can't be read as JSON"):
        list_benchmark("msvd", msvd_root, ["test"])


MSRVTT_DATA = {
    "sentences": [
        {"video_id": "video1", "caption": "one"},
        {"video_id": "video2", "caption": "two"},
        {"video_id": "video1", "caption": "three"},
    ]
}


def test_msrvtt_train_gives_all_sentences_of_the_listed_videos(make_root: MakeRoot) -> None:
    root = make_root(
        "video1.mp4", MSRVTT_data_json=MSRVTT_DATA, **{"MSRVTT_train.9k_csv": "video_id\nvideo1\n"}
    )
    assert pairs(list_benchmark("msrvtt", root, ["train"])) == [
        ("video1", "one", "train"),
        ("video1", "three", "train"),
    ]


def test_msrvtt_s_smaller_training_set_is_train_to_a_head(make_root: MakeRoot) -> None:
    root = make_root(
        "video2.mp4", MSRVTT_data_json=MSRVTT_DATA, **{"MSRVTT_train.7k_csv": "video_id\nvideo2\n"}
    )
    assert pairs(list_benchmark("msrvtt", root, ["train-7k"])) == [("video2", "two", "train")]


def test_msrvtt_test_gives_the_one_sentence_of_its_file(make_root: MakeRoot) -> None:
    rows = 'key,vid_key,video_id,sentence\nret0,msr1,video1,"a man, singing"\n'
    root = make_root("video1.mp4", MSRVTT_JSFUSION_test_csv=rows)
    assert pairs(list_benchmark("msrvtt", root, ["test"])) == [("video1", "a man, singing", "test")]


def test_msrvtt_test_without_sentences_is_refused(make_root: MakeRoot) -> None:
    root = make_root("video1.mp4", MSRVTT_JSFUSION_test_csv="video_id\nvideo1\n")
    with pytest.raises(ManifestError, match="no column 'sentence'"):
        list_benchmark("msrvtt", root, ["test"])


def activitynet_video(*sentences: str) -> dict[str, object]:
    return {"duration": 9.0, "timestamps": [], "sentences": list(sentences)}


def test_activitynet_joins_a_video_s_sentences(make_root: MakeRoot) -> None:
    val = {"v_x": activitynet_video("One. ", " Two."), "v_y": activitynet_video("Three.")}
    root = make_root("v_x.mp4", val_1_json=val)
    assert pairs(list_benchmark("activitynet", root, ["test"])) == [
        ("v_x", "One. Two.", "test"),
        ("v_y", "Three.", "test"),
    ]


def test_activitynet_s_id_file_chooses(make_root: MakeRoot) -> None:
    val = {"v_x": activitynet_video("One."), "v_y": activitynet_video("Three.")}
    root = make_root("v_x.mp4", val_1_json=val, val_ids_json=["v_x", "v_gone"])
    assert pairs(list_benchmark("activitynet", root, ["test"])) == [("v_x", "One.", "test")]


@pytest.mark.parametrize("name", ["v_x.mp4", "x.mkv"])
def test_activitynet_s_videos_are_found_with_and_without_v(make_root: MakeRoot, name: str) -> None:
    root = make_root(name, val_1_json={"v_x": activitynet_video("One.")})
    assert found(list_benchmark("activitynet", root, ["test"])) == {"v_x": name}


DIDEMO_DATA = [
    {"video": "1@N0_2_ab.mov", "description": "first "},
    {"video": "3@N0_4_cd.avi", "description": "other"},
    {"video": "1@N0_2_ab.mov", "description": "second"},
]


def test_didemo_joins_a_video_s_descriptions(make_root: MakeRoot) -> None:
    root = make_root("1@N0_2_ab.mp4", test_data_json=DIDEMO_DATA)
    assert pairs(list_benchmark("didemo", root, ["test"])) == [
        ("1@N0_2_ab", "first second", "test"),
        ("3@N0_4_cd", "other", "test"),
    ]


def test_didemo_s_videos_are_found_under_another_extension(make_root: MakeRoot) -> None:
    root = make_root("1@N0_2_ab.mp4", test_data_json=DIDEMO_DATA, test_list_txt="1@N0_2_ab.mov\n")
    assert found(list_benchmark("didemo", root, ["test"])) == {"1@N0_2_ab": "1@N0_2_ab.mp4"}


# -- the published files -------------------------------------------------------------------------


def texts_of(name: str, root: Path, *splits: str) -> dict[str, list[str]]:
    benchmark = benchmarks()[name]
    return {
        video_id: texts
        for split in splits
        for video_id, texts in benchmark.read_split(root, split).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "splits", "num_videos", "num_captions"),
    [
        ("msvd", ("test",), 670, 27763),
        ("msvd", ("train", "val", "test"), 1970, 80827),
        ("msrvtt", ("test",), 1000, 1000),
        pytest.param("msrvtt", ("train",), 9000, 180000, marks=pytest.mark.slow),
        pytest.param("activitynet", ("train",), 10009, 10009, marks=pytest.mark.slow),
        ("activitynet", ("test",), 4917, 4917),
        ("didemo", ("test",), 1004, 1004),
    ],
)
def test_published_files_give_the_numbers_of_the_protocol(
    real_data: Path, name: str, splits: tuple[str, ...], num_videos: int, num_captions: int
) -> None:
    texts = texts_of(name, real_data / name, *splits)
    assert (len(texts), sum(map(len, texts.values()))) == (num_videos, num_captions)


def test_the_1k_test_of_msrvtt_has_995_distinct_captions(real_data: Path) -> None:
    texts = texts_of("msrvtt", real_data / "msrvtt", "test")
    assert len(Counter(text for each in texts.values() for text in each)) == 995


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "num_present"),
    [("msvd", "test", 18), ("msvd", "val", 4), ("msrvtt", "test", 1), ("activitynet", "test", 1)],
)
def test_real_clips_are_found_and_all_others_are_missing(
    real_data: Path, name: str, split: str, num_present: int
) -> None:
    videos = list_benchmark(name, real_data / name, [split]).videos
    assert sum(video.path is not None for video in videos) == num_present
