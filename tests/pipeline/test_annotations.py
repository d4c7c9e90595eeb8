"""Annotation files: what is passed over, and what is refused with file and line."""

from pathlib import Path

import pytest

from muse.errors import ManifestError
from muse.pipeline.datasets.annotations import (
    annotation_file,
    find_annotation,
    read_json,
    read_lines,
    read_rows,
    read_tab_rows,
    text_field,
    texts_field,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "annotations.txt"


def test_the_first_name_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").touch()
    (tmp_path / "b.json").touch()
    assert find_annotation(tmp_path, "a.json") == tmp_path / "deep" / "a.json"
    assert find_annotation(tmp_path, "c.json", "b.json") == tmp_path / "b.json"
    assert find_annotation(tmp_path, "c.json") is None


def test_files_of_one_name_are_refused_unless_they_are_copies(tmp_path: Path) -> None:
    for folder in ("msvd", "vatex"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train_list.txt").write_text("one", encoding="utf-8")
    assert find_annotation(tmp_path, "train_list.txt") == tmp_path / "msvd" / "train_list.txt"
    (tmp_path / "vatex" / "train_list.txt").write_text("two", encoding="utf-8")
    with pytest.raises(ManifestError, match="one name and other bytes"):
        find_annotation(tmp_path, "train_list.txt")


def test_a_file_that_is_not_there_is_refused_by_all_its_names(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no a\.json or b\.json in it"):
        annotation_file(tmp_path, "a.json", "b.json")


def test_marks_line_ends_and_blank_lines_are_passed_over(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfone\r\n\r\n two \n\n")
    assert read_lines(file) == ["one", "two"]


def test_json_may_begin_with_a_mark(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file) == {"a": 1}


def test_bytes_that_are_no_utf_8_are_refused_with_their_line(file: Path) -> None:
    file.write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(ManifestError, match=r"annotations\.txt, line 2: not UTF-8"):
        read_lines(file)


def test_a_folder_in_a_file_s_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="can't be read"):
        read_json(tmp_path)


def test_rows_of_a_table_with_a_header(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"a, b"\r\n\r\n2,c\r\n')
    rows = read_rows(file, needed=("id", "text"))
    assert rows == [{"id": "1", "text": "a, b"}, {"id": "2", "text": "c"}]


@pytest.mark.parametrize("row", ["1", "1,a,b"])
def test_a_row_of_another_width_is_refused_with_its_line(file: Path, row: str) -> None:
    file.write_text(f"id,text\n0,a\n{row}\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"line 3: more or fewer .* 2 \(id, text\)"):
        read_rows(file, needed=("id",))


def test_a_table_without_the_column_is_refused(file: Path) -> None:
    file.write_text("", encoding="utf-8")
    with pytest.raises(ManifestError, match="no column 'id'"):
        read_rows(file, needed=("id",))


def test_tab_rows_keep_quotes_and_unusual_line_ends_in_a_text(file: Path) -> None:
    file.write_text('1\tHe says "so.\r\n\n2\ta\u2028b\n', encoding="utf-8")
    rows = list(read_tab_rows(file, columns=("id", "text")))
    assert [row["text"] for row in rows] == ['He says "so.', "a\u2028b"]


@pytest.mark.parametrize("line", ["1 a", "1\ta\tb"])
def test_a_tab_row_of_another_width_is_refused_with_its_line(file: Path, line: str) -> None:
    file.write_text(f"0\ta\n{line}\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"line 2: . columns, expected 2 .* id, text"):
        list(read_tab_rows(file, columns=("id", "text")))


@pytest.mark.parametrize("entry", [[], {}, {"text": 1}, {"text": None}])
def test_an_object_without_the_text_is_refused(entry: object) -> None:
    with pytest.raises(ManifestError, match="f, row 1: expected an object with a text 'text'"):
        text_field(entry, "text", where="f, row 1")


@pytest.mark.parametrize("entry", [[], {"texts": "a"}, {"texts": ["a", 1]}])
def test_an_object_without_the_list_of_texts_is_refused(entry: object) -> None:
    with pytest.raises(ManifestError, match="f, row 1: expected an object with a list of texts"):
        texts_field(entry, "texts", where="f, row 1")
