"""Annotation files: where they are, and their rows, fields and lines, read defensively.

Marks at a file's start, line ends of any system and blank lines are passed over; anything else that
is not as expected is an error with file, line and what was expected. Knows no benchmark.
"""

import csv
import filecmp
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from muse.errors import ManifestError


def find_annotation(root: Path, *names: str) -> Path | None:
    """The first of the names that is a file in a folder, or at any depth below it.

    Raises:
        ManifestError: If files of that name but of other bytes are in several folders below.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    for name in names:
        if found := sorted(path for path in root.rglob(name) if path.is_file()):
            return _only(found, root)
    return None


def annotation_file(root: Path, *names: str) -> Path:
    """What `find_annotation` finds.

    Raises:
        ManifestError: If none is there.
    """
    file = find_annotation(root, *names)
    if file is None:
        raise ManifestError(
            f"{root}: no {' or '.join(names)} in it. Put the benchmark's annotation files there."
        )
    return file


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ManifestError: If it is not JSON.
    """
    try:
        return json.loads(_text(file))
    except ValueError as error:
        raise ManifestError(f"{file}: can't be read as JSON: {error}.") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line for _, line in _lines(file)]


def read_rows(file: Path, *, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises:
        ManifestError: If a needed column is not there, or a row has other columns than the header.
    """
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise ManifestError(f"{file}: no column {missing[0]!r}; it has {reader.fieldnames}.")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ManifestError(
                f"{file}, line {reader.line_num}: more or fewer columns than the header's "
                f"{len(reader.fieldnames or ())} ({', '.join(reader.fieldnames or ())}). Quote "
                "texts that hold commas."
            )
        rows.append(row)
    return rows


def read_tab_rows(file: Path, *, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a file without a header, tabs between its columns and quotes left as they are.

    Raises:
        ManifestError: If a row has more or fewer columns.
    """
    for number, line in _whole_lines(file):
        cells = [cell.strip() for cell in line.split("\t")]  # the last or the first may be empty
        if len(cells) != len(columns):
            raise ManifestError(
                f"{file}, line {number}: {len(cells)} columns, expected {len(columns)} with tabs "
                f"between them: {', '.join(columns)}."
            )
        yield dict(zip(columns, cells, strict=True))


def text_field(entry: object, key: str, *, where: str) -> str:
    """A text of a JSON object.

    Raises:
        ManifestError: If it is no object, has no such key, or that is no text.
    """
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, str):
        raise ManifestError(f"{where}: expected an object with a text {key!r}, found {entry!r:.80}")
    return value


def texts_field(entry: object, key: str, *, where: str) -> list[str]:
    """A list of texts of a JSON object.

    Raises:
        ManifestError: If it is no object, has no such key, or that is no list of texts.
    """
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ManifestError(
            f"{where}: expected an object with a list of texts {key!r}, found {entry!r:.80}"
        )
    return value


def _only(found: list[Path], root: Path) -> Path:
    # Several benchmarks call a file train_list.txt: the first one below /data is anybody's.
    other = next((f for f in found[1:] if not filecmp.cmp(found[0], f, shallow=False)), None)
    if other is not None:
        raise ManifestError(
            f"{root}: {found[0]} and {other} have one name and other bytes. Name the folder of one "
            "benchmark."
        )
    return found[0]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without space around it) of those that are not blank."""
    return ((number, line.strip()) for number, line in _whole_lines(file))


def _whole_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of those that are not blank."""
    # Not splitlines: a caption may hold one of the signs that Unicode counts as line ends.
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ManifestError(
            f"{file}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise ManifestError(f"{file}: can't be read: {error}.") from error
