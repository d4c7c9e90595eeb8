"""The readers of the benchmarks: on small files written here, and on the published ones."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.errors import ManifestError
from muse.pipeline.datasets.benchmark import benchmarks, list_benchmark, merged
from muse.pipeline.records import Listing
from muse.pipeline.window import ClipWindow, Window

MakeRoot = Callable[..., Path]


@pytest.fixture
def make_root(tmp_path: Path) -> MakeRoot:
    """A folder of annotation files, text or JSON, and empty videos."""

    def make(*videos: str, **files: object) -> Path:
        (tmp_path / "videos").mkdir()
        for name in videos:
            (tmp_path / "videos" / name).touch()
        for name, content in files.items():
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            stem, _, suffix = name.rpartition("_")
            file = tmp_path / f"{stem}.{suffix}"
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
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
    with pytest.raises(ManifestError, match="'ucf': choose one of msvd, msrvtt"):
        list_benchmark("ucf", tmp_path, ["test"])


def test_an_annotation_file_that_is_no_json_is_refused(msvd_root: Path) -> None:
    (msvd_root / "captions_msvd.json").write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError, match="can't be read as JSON"):
        list_benchmark("msvd", msvd_root, ["test"])


def test_an_object_in_place_of_captions_is_refused_with_its_file(msvd_root: Path) -> None:
    (msvd_root / "captions_msvd.json").write_text('{"one": "a"}', encoding="utf-8")
    with pytest.raises(
        ManifestError, match=r"captions_msvd\.json: expected .* list of texts 'one'"
    ):
        list_benchmark("msvd", msvd_root, ["test"])


def test_a_missing_file_s_error_says_where_to_get_it(msvd_root: Path) -> None:
    with pytest.raises(ManifestError, match=r"msvd_data\.zip"):
        list_benchmark("msvd", msvd_root, ["val"])


def test_msvd_s_captions_are_read_from_a_pickle_of_words(make_root: MakeRoot) -> None:
    content = pickle.dumps({"one": [["a", "dog"], ["it", "runs"]]})
    root = make_root("one.avi", test_list_txt="one", **{"raw-captions_pkl": content})
    texts = [text for _, text, _ in pairs(list_benchmark("msvd", root, ["test"]))]
    assert texts == ["a dog", "it runs"]


@pytest.mark.parametrize("content", [pickle.dumps(Path("x")), b"", b"garbage"])
def test_a_pickle_that_would_run_code_or_is_none_is_refused(
    make_root: MakeRoot, content: bytes
) -> None:
    root = make_root("one.avi", test_list_txt="one", **{"raw-captions_pkl": content})
    with pytest.raises(ManifestError, match="a pickle of plain lists"):
        list_benchmark("msvd", root, ["test"])


def test_splits_that_share_a_video_are_refused(msvd_root: Path) -> None:
    (msvd_root / "train_list.txt").write_text("three\ntwo\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"train and test: 1 videos are in both .first: two"):
        list_benchmark("msvd", msvd_root, ["train", "test"])


def test_a_video_that_is_listed_again_adds_only_its_other_captions() -> None:
    listed = [("one", ["a", "a"]), ("two", []), ("one", ["a", "b"])]
    assert merged(listed) == {"one": ["a", "a", "b"], "two": []}


MSRVTT_DATA = {
    "videos": [
        {"video_id": "video1", "split": "train"},
        {"video_id": "video2", "split": "validate"},
    ],
    "sentences": [
        {"video_id": "video1", "caption": "one"},
        {"video_id": "video2", "caption": "two"},
        {"video_id": "video1", "caption": "three"},
    ],
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


def test_msrvtt_s_full_split_is_what_the_json_says(make_root: MakeRoot) -> None:
    root = make_root("video1.mp4", MSRVTT_data_json=MSRVTT_DATA)
    listing = list_benchmark("msrvtt", root, ["train-full", "val-full"])
    assert listing.protocol == "MSR-VTT full train-full+val-full"
    assert pairs(listing) == [
        ("video1", "one", "train"),
        ("video1", "three", "train"),
        ("video2", "two", "val"),
    ]


def test_msrvtt_s_full_split_is_its_file_s_where_there_is_one(make_root: MakeRoot) -> None:
    ids = {"MSRVTT_test.full_csv": "video_id\nvideo2\n"}
    root = make_root("video2.mp4", MSRVTT_data_json=MSRVTT_DATA, **ids)
    assert pairs(list_benchmark("msrvtt", root, ["test-full"])) == [("video2", "two", "test")]


def test_two_protocols_in_one_store_are_both_named(make_root: MakeRoot) -> None:
    rows = "key,vid_key,video_id,sentence\nret0,msr2,video2,a\n"
    root = make_root("video1.mp4", MSRVTT_data_json=MSRVTT_DATA, MSRVTT_JSFUSION_test_csv=rows)
    listing = list_benchmark("msrvtt", root, ["train-full", "test"])
    assert listing.protocol == "MSR-VTT full train-full + MSR-VTT 1k-A test"


def test_a_sentence_without_a_caption_is_refused_with_its_place(make_root: MakeRoot) -> None:
    content = {"videos": [], "sentences": [{"video_id": "video1"}]}
    root = make_root("video1.mp4", MSRVTT_data_json=content)
    with pytest.raises(ManifestError, match=r"MSRVTT_data\.json, sentence 0: .* 'caption'"):
        list_benchmark("msrvtt", root, ["train-full"])


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
    listing = list_benchmark("activitynet", root, ["test"])
    assert pairs(listing) == [("v_x", "One.", "test")]
    assert found(listing) == {"v_x": "v_x.mp4", "v_gone": None}  # it is one of the protocol's


def test_activitynet_s_val2_is_of_those_that_it_has(make_root: MakeRoot) -> None:
    val = {"v_x": activitynet_video("One.")}
    root = make_root("v_x.mp4", val_2_json=val, val_ids_json=["v_x", "v_of_val1"])
    assert found(list_benchmark("activitynet", root, ["test-val2"])) == {"v_x": "v_x.mp4"}


def test_empty_texts_are_counted_and_no_captions(make_root: MakeRoot) -> None:
    val = {
        "v_x": activitynet_video("One."),
        "v_y": activitynet_video(),
        "v_z": activitynet_video(" "),
    }
    listing = list_benchmark("activitynet", make_root("v_x.mp4", val_1_json=val), ["test"])
    assert pairs(listing) == [("v_x", "One.", "test")]
    assert (len(listing.videos), listing.num_empty_captions) == (3, 2)


@pytest.mark.parametrize("name", ["v_x.mp4", "x.mkv"])
def test_activitynet_s_videos_are_found_with_and_without_v(make_root: MakeRoot, name: str) -> None:
    root = make_root(name, val_1_json={"v_x": activitynet_video("One.")})
    assert found(list_benchmark("activitynet", root, ["test"])) == {"v_x": name}


@pytest.mark.parametrize("listed", [["v_x"], ["x"]])
@pytest.mark.parametrize("annotated", ["v_x", "x"])
@pytest.mark.parametrize("name", ["v_x.webm", "x.mp4"])
def test_activitynet_s_ids_are_matched_with_and_without_v(
    make_root: MakeRoot, listed: list[str], annotated: str, name: str
) -> None:
    val = {annotated: activitynet_video("One.")}
    root = make_root(name, val_1_json=val, val_ids_json=listed)
    assert found(list_benchmark("activitynet", root, ["test"])) == {annotated: name}


def test_activitynet_s_other_annotation_is_named(make_root: MakeRoot) -> None:
    root = make_root("v_x.mp4", val_2_json={"v_x": activitynet_video("One.")})
    listing = list_benchmark("activitynet", root, ["test-val2"])
    assert listing.protocol == "ActivityNet Captions (paragraph, val2) test-val2"
    assert pairs(listing) == [("v_x", "One.", "test")]


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


def test_a_listed_video_of_didemo_that_nobody_described_is_listed(make_root: MakeRoot) -> None:
    listed = "1@N0_2_ab.mov\n5@N0_6_ef.mov\n"
    root = make_root("1@N0_2_ab.mp4", test_data_json=DIDEMO_DATA, test_list_txt=listed)
    listing = list_benchmark("didemo", root, ["test"])
    assert found(listing) == {"1@N0_2_ab": "1@N0_2_ab.mp4", "5@N0_6_ef": None}
    assert pairs(listing) == [("1@N0_2_ab", "first second", "test")]


DIDEMO_LABELS = """\
success,video_path,starts,ends,text,formatted_data
True,/a/b/1@N0_2_ab.mov,tensor([[0]]),tensor([[31]]),"first, second",/c/test_data_id_0.pth
True,/a/b/3@N0_4_cd.,tensor([[0]]),tensor([[31]]),other,/c/test_data_id_1.pth
"""


def test_didemo_s_label_table_has_the_paragraphs(make_root: MakeRoot) -> None:
    root = make_root("1@N0_2_ab.mp4", "3@N0_4_cd..mp4", didemo_test_label_csv=DIDEMO_LABELS)
    listing = list_benchmark("didemo", root, ["test"])
    assert pairs(listing) == [
        ("1@N0_2_ab", "first, second", "test"),
        ("3@N0_4_cd", "other", "test"),
    ]
    assert found(listing) == {"1@N0_2_ab": "1@N0_2_ab.mp4", "3@N0_4_cd": "3@N0_4_cd..mp4"}


WHOLE_VIDEOS = {
    "msvd": {
        "captions_msvd_json": {"a_b_5_15": ["x"], "a_b_20_31": ["y"]},
        "test_list_txt": "a_b_5_15\na_b_20_31\n",
    },
    "vatex": {
        "vatex_data_json": {
            i: {"enCap": ["x"]} for i in ("a_b_000005_000015", "a_b_000020_000031")
        },
        "test_list_txt": "a_b_000005_000015\na_b_000020_000031\n",
    },
    "msrvtt": {
        "MSRVTT_JSFUSION_test_csv": "key,vid_key,video_id,sentence\n0,0,video1,x\n1,1,video2,y\n",
        "MSRVTT_data_json": {
            "sentences": [],
            "videos": [
                {
                    "video_id": video_id,
                    "url": "https://www.youtube.com/watch?v=a_b",
                    "start time": start,
                    "end time": end,
                }
                for video_id, start, end in (("video1", 5, 15.0), ("video2", 20.0, 31))
            ],
        },
    },
}


@pytest.mark.parametrize("name", WHOLE_VIDEOS)
def test_clips_are_found_in_the_whole_videos_that_they_were_cut_from(
    make_root: MakeRoot, name: str
) -> None:
    root = make_root("a_b.webm", **WHOLE_VIDEOS[name])
    videos = list_benchmark(name, root, ["test"], clip_window="annotated").videos
    assert len({video.video_id for video in videos}) == 2
    assert [(v.path.name, v.window.text) for v in videos if v.path and v.window] == [
        ("a_b.webm", "5:15"),
        ("a_b.webm", "20:31"),
    ]


def test_a_clip_that_is_cut_already_is_no_whole_video(make_root: MakeRoot) -> None:
    root = make_root("a_b_5_15.avi", **WHOLE_VIDEOS["msvd"])
    with pytest.raises(ManifestError, match=r"first: a_b, the whole video that a_b_5_15 was cut"):
        list_benchmark("msvd", root, ["test"], clip_window="annotated")
    assert {v.window for v in list_benchmark("msvd", root, ["test"]).videos} == {None}


def test_an_id_that_tells_no_seconds_is_refused_with_what_to_do(msvd_root: Path) -> None:
    with pytest.raises(ManifestError, match=r"can't tell where .* Write --clip-window preset"):
        list_benchmark("msvd", msvd_root, ["test"], clip_window="annotated")


def test_didemo_is_its_first_31_seconds_unless_others_are_asked_for(make_root: MakeRoot) -> None:
    root = make_root("1@N0_2_ab.mp4", test_data_json=DIDEMO_DATA)
    window = Window(start_seconds=0, end_seconds=30)
    choices: dict[ClipWindow, str | None] = {"preset": "0:31", "none": None, window: "0:30"}
    for clip_window, text in choices.items():
        videos = list_benchmark("didemo", root, ["test"], clip_window=clip_window).videos
        assert {v.window.text if v.window else None for v in videos} == {text}
    with pytest.raises(ManifestError, match="don't say where clips lie in whole videos"):
        list_benchmark("didemo", root, ["test"], clip_window="annotated")


def lsmdc_row(clip_id: str, sentence: str) -> str:
    return "\t".join((clip_id, "00.01", "00.02", "00.01", "00.02", sentence)) + "\r\n"


CLIP = "0001_A_Film_00.00.51.926-00.00.54.129"


def test_lsmdc_has_no_header_and_gathers_a_clip_s_sentences(make_root: MakeRoot) -> None:
    rows = lsmdc_row(CLIP, 'He says "no.') + lsmdc_row("2", "b") + "\r\n" + lsmdc_row(CLIP, "c")
    root = make_root(f"{CLIP}.mkv", LSMDC16_annos_training_csv=rows)
    listing = list_benchmark("lsmdc", root, ["train"])
    assert pairs(listing) == [
        (CLIP, 'He says "no.', "train"),
        (CLIP, "c", "train"),
        ("2", "b", "train"),
    ]
    assert found(listing) == {CLIP: f"{CLIP}.mkv", "2": None}


def test_lsmdc_s_empty_sentence_costs_nobody_else_s(make_root: MakeRoot) -> None:
    rows = lsmdc_row(CLIP, "a") + lsmdc_row("2", "")
    listing = list_benchmark("lsmdc", make_root(f"{CLIP}.mkv", LSMDC16_annos_val_csv=rows), ["val"])
    assert pairs(listing) == [(CLIP, "a", "val")]
    assert (len(listing.videos), listing.num_empty_captions) == (2, 1)


@pytest.mark.parametrize("spelling", ["publictect", "publictest"])
def test_lsmdc_s_test_is_found_under_both_spellings(make_root: MakeRoot, spelling: str) -> None:
    files = {f"LSMDC16_challenge_1000_{spelling}_csv": lsmdc_row(CLIP, "a")}
    root = make_root(f"{CLIP}.avi", **files)
    assert pairs(list_benchmark("lsmdc", root, ["test"])) == [(CLIP, "a", "test")]


def test_lsmdc_s_rows_of_another_width_are_refused_with_their_line(make_root: MakeRoot) -> None:
    rows = lsmdc_row(CLIP, "a") + f"{CLIP},00.01,a\n"
    root = make_root(f"{CLIP}.avi", LSMDC16_annos_val_csv=rows)
    with pytest.raises(ManifestError, match=r"annos_val\.csv, line 2: 1 columns, expected 6"):
        list_benchmark("lsmdc", root, ["val"])


@pytest.fixture
def vatex_root(make_root: MakeRoot) -> Path:
    captions = {f"id{n}_000001_000011": {"enCap": [f"a{n}", f"b{n}"]} for n in range(4)}
    return make_root(
        "id0_000001_000011.mp4",
        "id1_000001_000011.webm",
        vatex_data_json=captions,
        val_list_txt="id0_000001_000011\n",
        test_list_txt="id1_000001_000011\nid2_000001_000011\n",
        test1k5_sec_list_txt="id0_000001_000011\nid1_000001_000011\n",
    )


@pytest.mark.parametrize(
    ("split", "title", "num_missing"),
    [("test", "test_list.txt", 1), ("test-sec", "test1k5_sec_list.txt", 0)],
)
def test_vatex_s_protocol_names_the_test_list(
    vatex_root: Path, split: str, title: str, num_missing: int
) -> None:
    listing = list_benchmark("vatex", vatex_root, [split])
    assert listing.protocol == f"VATEX (English, {title}) {split}"
    assert {caption.split for caption in listing.captions} == {"test"}
    assert sum(video.path is None for video in listing.videos) == num_missing


@pytest.mark.parametrize("splits", [["test", "test-sec"], ["val", "test-sec"]])
def test_vatex_s_overlapping_lists_are_not_mixed(vatex_root: Path, splits: list[str]) -> None:
    with pytest.raises(ManifestError, match=r"overlap|1 videos are in both"):
        list_benchmark("vatex", vatex_root, splits)


def test_vatex_s_captions_in_another_form_are_refused(vatex_root: Path) -> None:
    content = {"id1_000001_000011": {"chCap": ["x"]}}
    (vatex_root / "vatex_data.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"video id1_000001_000011: .* list of texts 'enCap'"):
        list_benchmark("vatex", vatex_root, ["test"])


# -- the published files -------------------------------------------------------------------------


def texts_of(name: str, root: Path, *splits: str) -> dict[str, list[str]]:
    benchmark = benchmarks()[name]
    return {
        video_id: texts for split in splits for video_id, texts in benchmark.read_split(root, split)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "splits", "num_videos", "num_captions"),
    [
        ("msvd", ("test",), 670, 27763),
        ("msvd", ("train", "val", "test"), 1970, 80827),
        ("msrvtt", ("test",), 1000, 1000),
        pytest.param(
            "msrvtt",
            ("train-full", "val-full", "test-full"),
            10000,
            200000,
            marks=pytest.mark.slow,
        ),
        pytest.param("msrvtt", ("train",), 9000, 180000, marks=pytest.mark.slow),
        pytest.param("activitynet", ("train",), 10009, 10009, marks=pytest.mark.slow),
        pytest.param("msrvtt", ("train-7k",), 7010, 140200, marks=pytest.mark.slow),
        pytest.param("msrvtt", ("train-full",), 6513, 130260, marks=pytest.mark.slow),
        pytest.param("msrvtt", ("val-full",), 497, 9940, marks=pytest.mark.slow),
        pytest.param("msrvtt", ("test-full",), 2990, 59800, marks=pytest.mark.slow),
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
@pytest.mark.parametrize(("name", "splits"), [("msvd", ("train", "val", "test")), ("msrvtt", ())])
def test_every_published_clip_tells_its_seconds_of_a_whole_video(
    real_data: Path, name: str, splits: tuple[str, ...]
) -> None:
    root, benchmark = real_data / name, benchmarks()[name]
    splits = splits or ("train-full", "val-full", "test-full")
    assert benchmark.read_cuts is not None
    cuts = benchmark.read_cuts(root, texts_of(name, root, *splits))
    seconds = [cut.window.end_seconds - cut.window.start_seconds for cut in cuts.values()]
    assert len(cuts) == {"msvd": 1970, "msrvtt": 10000}[name]
    assert 1 <= min(seconds) <= max(seconds) <= 61  # a clip is at most a minute long


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
