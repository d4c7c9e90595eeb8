"""Caption files: csv, json, jsonl or parquet to (video, text, split, axis) rows.

Checked here, where they enter: columns, types and empty texts, each error with its line. Knows
nothing of where the videos are.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from muse.errors import ManifestError
from muse.pipeline.window import Window

DEFAULT_SPLIT = "all"  # of captions that name none
_ROW_COLUMNS = ("video", "caption", "split", "axis", "start", "end")
_OBJECT_KEYS = ("video", "captions", "split", "axis", "start", "end")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionRow:
    """One text of a caption file."""

    video: str
    """As the file names it."""
    text: str
    split: str
    axis: str = ""
    """What it asks for; empty where the file does not say."""
    window: Window | None = None
    """The part of the video that it describes; None where the file does not say."""


def read_captions(file: Path) -> list[CaptionRow]:
    """All captions of a file, in its order.

    Args:
        file: ``.csv`` with columns ``video,caption[,split][,axis][,start,end]``, one row a caption;
            ``.json`` (a list) or ``.jsonl`` (a line each) of ``{"video", "captions": [...],
            "split", "axis", "start", "end"}``, where ``axis`` is one name, or a list of one a
            caption; ``.parquet`` with the columns of either. ``start`` and ``end`` are seconds.

    Raises:
        ManifestError: If it can't be read, with file and row.
    """
    readers = {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{file}: unknown kind of caption file {file.suffix!r}. Use {', '.join(readers)}."
        )
    if not file.is_file():
        raise ManifestError(f"{file}: no such caption file.")
    try:
        rows = list(reader(file))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as e:
        raise ManifestError(f"{file}: can't be read as {file.suffix}: {e}.") from e
    if not rows:
        raise ManifestError(f"{file}: 0 captions in it.")
    return rows


def _csv(file: Path) -> Iterator[CaptionRow]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        _check_names(file, tuple(reader.fieldnames or ()), known=_ROW_COLUMNS)
        for record in reader:
            where = f"{file}, line {reader.line_num}"
            if None in record or None in record.values():
                raise ManifestError(
                    f"{where}: {_num_fields(record)} fields, expected "
                    f"{len(reader.fieldnames or ())}. Quote captions that hold commas."
                )
            yield _row_of_record(record, where=where)


def _num_fields(record: Mapping[Any, Any]) -> int:
    extra = len(record[None]) if None in record else 0
    return sum(1 for key, value in record.items() if key is not None and value is not None) + extra


def _json(file: Path) -> Iterator[CaptionRow]:
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(content, list):
        raise ManifestError(f"{file}: expected a list of objects, found {type(content).__name__}.")
    yield from _objects(file, ((f"{file}, object {n}", entry) for n, entry in enumerate(content)))


def _jsonl(file: Path) -> Iterator[CaptionRow]:
    with file.open(encoding="utf-8-sig") as stream:
        entries = (
            (where, _json_value(line, where=where))
            for where, line in ((f"{file}, line {n}", line) for n, line in enumerate(stream, 1))
            if line.strip()
        )
        yield from _objects(file, entries)


def _json_value(line: str, *, where: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: can't be read as JSON: {error.msg}.") from error


def _parquet(file: Path) -> Iterator[CaptionRow]:
    table = pq.read_table(file)
    records = ((f"{file}, row {n}", record) for n, record in enumerate(table.to_pylist()))
    if "captions" in table.column_names:
        yield from _objects(file, records)
        return
    _check_names(file, tuple(table.column_names), known=_ROW_COLUMNS)
    for where, record in records:
        yield _row_of_record(record, where=where)


def _objects(file: Path, entries: Iterator[tuple[str, object]]) -> Iterator[CaptionRow]:
    seen: dict[tuple[str, Window | None], str] = {}
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise ManifestError(f"{where}: expected an object, found {type(entry).__name__}.")
        _check_names(where, tuple(entry), known=_OBJECT_KEYS)
        video, captions = entry["video"], entry["captions"]
        if not isinstance(captions, list):
            raise ManifestError(
                f"{where}: captions is {type(captions).__name__}, expected a list of texts."
            )
        window = _window(entry.get("start"), entry.get("end"), where=where)
        if (str(video), window) in seen:
            raise ManifestError(
                f"{where}: video {video!r} again, first in {seen[str(video), window]}. "
                "Put all its captions in one object."
            )
        seen[str(video), window] = where
        axes = _axes(entry.get("axis"), len(captions), where=where)
        for text, axis in zip(captions, axes, strict=True):
            yield _row(video, text, split=entry.get("split"), axis=axis, window=window, where=where)


def _axes(axis: object, num_captions: int, *, where: str) -> list[object]:
    """One a caption: those of a list, or the same for all."""
    if not isinstance(axis, list):
        return [axis] * num_captions
    if len(axis) != num_captions:
        raise ManifestError(
            f"{where}: axis has {len(axis)} names for {num_captions} captions. Write one a "
            "caption, or one name for all."
        )
    return axis


def _check_names(where: object, names: tuple[str, ...], *, known: tuple[str, ...]) -> None:
    missing = [name for name in known[:2] if name not in names]
    unknown = [name for name in names if name not in known]
    if missing or unknown:
        problem = f"no column {missing[0]!r}" if missing else f"unknown column {unknown[0]!r}"
        raise ManifestError(
            f"{where}: {problem}; it has {', '.join(map(repr, names)) or 'none'}. "
            f"Known are {', '.join(known[:2])} and, optional, {', '.join(known[2:])}."
        )


def _row_of_record(record: Mapping[str, object], *, where: str) -> CaptionRow:
    video, text, split, axis, start, end = (record.get(name) for name in _ROW_COLUMNS)
    window = _window(start, end, where=where)
    return _row(video, text, split=split, axis=axis, window=window, where=where)


def _window(start: object, end: object, *, where: str) -> Window | None:
    """The part of a video between two cells; None where both are empty."""
    if start in (None, "") and end in (None, ""):
        return None
    try:
        return Window(start_seconds=_seconds(start), end_seconds=_seconds(end))
    except (TypeError, ValueError) as error:
        raise ManifestError(
            f"{where}: start is {start!r} and end {end!r}, expected seconds, both or neither "
            f"({error})."
        ) from error


def _seconds(cell: object) -> float:
    return float(cell)  # type: ignore[arg-type]  # what is no number raises


def _row(
    video: object, text: object, *, split: object, axis: object, window: Window | None, where: str
) -> CaptionRow:
    if not isinstance(video, str) or not video.strip():
        raise ManifestError(f"{where}: video is {video!r}, expected the name of a file.")
    if not isinstance(text, str) or not text.strip():
        raise ManifestError(f"{where}: caption is {text!r}, expected a text. Remove the row.")
    if split is not None and not isinstance(split, str):
        raise ManifestError(f"{where}: split is {split!r}, expected a name such as train or test.")
    if axis is not None and not isinstance(axis, str):
        raise ManifestError(f"{where}: axis is {axis!r}, expected a name such as where or order.")
    return CaptionRow(
        video=video.strip(),
        text=text.strip(),
        split=split or DEFAULT_SPLIT,
        axis=(axis or "").strip(),
        window=window,
    )
