"""Caption files of all four kinds, good and bad."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse.errors import ManifestError
from muse.pipeline.datasets.captions import CaptionRow, read_captions

OBJECTS = [
    {"video": "a.mp4", "captions": ["a man, who sings", "a song"], "split": "train"},
    {"video": "b.mp4", "captions": ["ein Hund läuft"]},
]
ROWS = [
    CaptionRow(video="a.mp4", text="a man, who sings", split="train"),
    CaptionRow(video="a.mp4", text="a song", split="train"),
    CaptionRow(video="b.mp4", text="ein Hund läuft", split="all"),
]


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_captions(path)
    return str(caught.value)


# -- good files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_has_a_row_a_caption(tmp_path: Path, encoding: str) -> None:
    text = (
        "video,caption,split\r\n"
        'a.mp4,"a man, who sings",train\r\n'
        "a.mp4, a song ,train\r\n"
        "b.mp4,ein Hund läuft,\r\n"
    )
    assert read_captions(written(tmp_path / "c.csv", text, encoding)) == ROWS


def test_csv_without_splits_has_one_named_all(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", "caption,video\na song,a.mp4\n")
    assert read_captions(path) == [CaptionRow(video="a.mp4", text="a song", split="all")]


def test_a_quoted_caption_may_hold_quotes_and_line_ends(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", 'video,caption\na.mp4,"she said ""hi""\nand left"\n')
    assert read_captions(path)[0].text == 'she said "hi"\nand left'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_is_a_list_of_objects(tmp_path: Path, encoding: str) -> None:
    assert read_captions(written(tmp_path / "c.json", json.dumps(OBJECTS), encoding)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_jsonl_is_an_object_a_line_and_blank_lines_are_passed_over(
    tmp_path: Path, encoding: str
) -> None:
    text = "\n\n".join(json.dumps(entry, ensure_ascii=False) for entry in OBJECTS)
    assert read_captions(written(tmp_path / "c.jsonl", text, encoding)) == ROWS


def test_parquet_may_have_a_row_a_caption(tmp_path: Path) -> None:
    columns = {
        "video": [row.video for row in ROWS],
        "caption": [row.text for row in ROWS],
        "split": ["train", "train", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    assert read_captions(tmp_path / "c.parquet") == ROWS


def test_parquet_may_have_a_row_a_video(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(OBJECTS), tmp_path / "c.parquet")
    assert read_captions(tmp_path / "c.parquet") == ROWS


# -- what a caption asks for ---------------------------------------------------------------------

AXES = [("a man", "what"), ("a man, then a dog", "order"), ("two dogs", "")]


def axes_of(path: Path) -> list[tuple[str, str]]:
    return [(row.text, row.axis) for row in read_captions(path)]


def test_csv_may_say_what_each_caption_asks_for(tmp_path: Path) -> None:
    text = 'axis,video,caption\nwhat,a,a man\n order ,a,"a man, then a dog"\n,b,two dogs\n'
    assert axes_of(written(tmp_path / "c.csv", text)) == AXES


def test_parquet_may_say_what_each_caption_asks_for(tmp_path: Path) -> None:
    columns = {
        "video": list("aab"),
        "caption": [text for text, _ in AXES],
        "axis": ["what", "order", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    assert axes_of(tmp_path / "c.parquet") == AXES


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_an_object_has_an_axis_a_caption(tmp_path: Path, suffix: str) -> None:
    path, texts = tmp_path / f"c{suffix}", [text for text, _ in AXES]
    entries = [{"video": "a", "captions": texts, "axis": ["what", "order", None]}]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(entries), path)
    else:
        written(path, json.dumps(entries if suffix == ".json" else entries[0]))
    assert axes_of(path) == AXES


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_an_object_may_have_one_axis_for_all_its_captions(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    entries = [
        {"video": "a", "captions": ["left", "right"], "axis": "where"},
        {"video": "b", "captions": ["a dog"], "axis": None},
    ]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(entries), path)
    else:
        written(path, json.dumps(entries))
    assert axes_of(path) == [("left", "where"), ("right", "where"), ("a dog", "")]


def test_the_extension_may_be_in_capitals(tmp_path: Path) -> None:
    assert len(read_captions(written(tmp_path / "C.CSV", "video,caption\na,b\n"))) == 1


# -- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("caption\na song\n", "no column 'video'"),
        ("video,text\na.mp4,a song\n", "no column 'caption'"),
        ("video,caption,language\na.mp4,a song,en\n", "unknown column 'language'"),
        ("", "no column 'video'"),
        ("video,caption\na.mp4,a man, who sings\n", "line 2: 3 fields, expected 2"),
        ("video,caption\na.mp4,ok\nb.mp4\n", "line 3: 1 fields, expected 2"),
        ("video,caption\na.mp4,ok\nb.mp4,  \n", "line 3: caption is '  '"),
        ("video,caption\n ,a song\n", "line 2: video is ' '"),
        ("video,caption\n", "0 captions"),
        ('video,caption\na.mp4,"open\n', "can't be read as .csv"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(written(tmp_path / "c.csv", text))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a.mp4": ["a song"]}, "expected a list of objects, found dict"),
        (["a song"], "object 0: expected an object, found str"),
        ([{"video": "a.mp4"}], "object 0: no column 'captions'"),
        ([{"video": "a", "captions": ["x"], "lang": 1}], "object 0: unknown column 'lang'"),
        ([{"video": "a", "captions": "a song"}], "captions is str, expected a list"),
        ([{"video": "a", "captions": ["x", ""]}], "caption is ''"),
        ([{"video": "a", "captions": [None]}], "caption is None"),
        ([{"video": 7, "captions": ["x"]}], "video is 7"),
        ([{"video": "a", "captions": ["x"], "split": 1}], "split is 1"),
        ([{"video": "a", "captions": ["x"], "axis": 1}], "axis is 1"),
        ([{"video": "a", "captions": ["x"], "axis": [1]}], "axis is 1"),
        ([{"video": "a", "captions": ["x"], "axis": ["u", "v"]}], "2 names for 1 captions"),
        ([{"video": "a", "captions": []}], "0 captions"),
        ([], "0 captions"),
    ],
)
def test_a_bad_json_is_refused_with_its_object(tmp_path: Path, content: object, words: str) -> None:
    assert words in refused(written(tmp_path / "c.json", json.dumps(content)))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_video_with_two_objects_is_refused_with_both_places(tmp_path: Path, suffix: str) -> None:
    entries = [{"video": name, "captions": ["x"]} for name in ("a", "b", "a")]
    text = json.dumps(entries) if suffix == ".json" else "\n".join(map(json.dumps, entries))
    places = ("object 2", "object 0") if suffix == ".json" else ("line 3", "line 1")
    message = refused(written(tmp_path / f"c{suffix}", text))
    assert all(place in message for place in places)


def test_a_broken_line_of_jsonl_is_refused_with_its_number(tmp_path: Path) -> None:
    text = '{"video": "a", "captions": ["x"]}\n{"video": "b", "capti\n'
    assert "line 2: can't be read as JSON" in refused(written(tmp_path / "c.jsonl", text))


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path, suffix: str) -> None:
    assert f"can't be read as {suffix}" in refused(written(tmp_path / f"c{suffix}", "[{"))


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"c{suffix}", "video,caption\na,läuft\n", "latin-1")
    assert f"can't be read as {suffix}" in refused(path)


def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refused(written(tmp_path / "c.xlsx", ""))
    assert ".csv, .json, .jsonl, .parquet" in message


def test_a_caption_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such caption file" in refused(tmp_path / "c.csv")


@pytest.mark.parametrize("name", ["c.csv", "c.json", "c.jsonl", "c.parquet"])
def test_a_refusal_is_one_line_that_begins_with_the_file(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, '"\n[')
    message = refused(path)
    assert (message.startswith(str(path)), "\n" in message) == (True, False)
