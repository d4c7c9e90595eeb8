"""Rows of a LaTeX table: as many cells as columns, names that can't break out, numbers as asked."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muse.cli.json_file import write_json
from muse.cli.latex_rows import NUMBERS, escaped, latex_rows
from muse.cli.results_file import EVALUATION, SCHEMA_VERSION, SEEDS
from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]
HOSTILE = 'a\\b&c%d$e#f_g{h}i~j^k<l>m|n"o\np'


def _report(
    *, head: str = "mean-pool", first: float = 40.0, protocol: str = "MSVD test"
) -> dict[str, Any]:
    numbers = dict(zip(NUMBERS, (first, 50.0, 60.0, 2.0, 10.0), strict=True))
    return {
        "schema": EVALUATION,
        "schema_version": SCHEMA_VERSION,
        "protocol": protocol,
        "split": "test",
        "head": head,
        "num_videos": 3,
        "num_videos_listed": 3,
        "num_captions": 3,
        "num_captions_listed": 3,
        "tie_rule": "expected",
        "v2t_rule": "best caption",
        "text_to_video": numbers,
        "video_to_text": {**numbers, "R@1": 30.04},
    }


def _with_intervals(report: dict[str, Any]) -> dict[str, Any]:
    around = {
        way: {name: [value - 1.26, value + 2] for name, value in report[way].items()}
        for way in ("text_to_video", "video_to_text")
    }
    return {**report, "intervals": {"level": 0.9, **around}}


def _seeds(*firsts: float) -> dict[str, Any]:
    reports = [_report(head=f"runs/a_b/seed-{n}", first=first) for n, first in enumerate(firsts)]
    spread = {"mean": 41.25, "sd": 1.5 if len(firsts) > 1 else None, "num_seeds": len(firsts)}
    ways = {way: dict.fromkeys(NUMBERS, spread) for way in ("text_to_video", "video_to_text")}
    seeds = [{"seed": n, "report": report} for n, report in enumerate(reports)]
    return {"schema": SEEDS, "schema_version": SCHEMA_VERSION, "spread": ways, "seeds": seeds}


def _rows(text: str) -> list[list[str]]:
    """The cells of each row, by a reader that knows ``&`` and ``\\\\`` alone."""
    rows = []
    for line in text.splitlines():
        if not line.startswith("%"):
            assert line.endswith(r" \\")
            rows.append(re.split(r"(?<!\\)&", line.removesuffix(r" \\")))
    return [[cell.strip() for cell in row] for row in rows]


def test_a_row_has_a_name_and_five_numbers_of_each_direction() -> None:
    text = latex_rows([_report()])
    assert _rows(text) == [
        ["mean-pool", "40.0", "50.0", "60.0", "2.0", "10.0", "30.0", "50.0", "60.0", "2.0", "10.0"]
    ]
    columns, about = (line for line in text.splitlines() if line.startswith("%"))
    assert len(columns.split(", ")) == 11
    assert "MSVD test, split test: 3 of 3 videos" in about


def test_intervals_are_what_they_are_away_from_the_number() -> None:
    text = latex_rows([_with_intervals(_report())])
    assert _rows(text)[0][1] == "$40.0^{+2.0}_{-1.3}$"
    assert "intervals of 90 %" in text
    exact = _with_intervals(_report())
    exact["intervals"]["text_to_video"]["R@1"] = [40.0, 40.0]
    assert _rows(latex_rows([exact]))[0][1] == "$40.0^{+0.0}_{-0.0}$"


def test_a_folder_of_seeds_is_mean_and_standard_deviation() -> None:
    text = latex_rows([_seeds(40.0, 42.5)])
    (row,) = _rows(text)
    assert len(row) == 11
    assert row[:2] == [r"runs/a\_b", r"$41.2 \pm 1.5$"]
    assert "2 seeds" in text
    assert _rows(latex_rows([_seeds(41.25)]))[0][1] == "41.2"


def test_post_processed_numbers_have_rows_of_their_own() -> None:
    changed = _report(first=44.0)
    content = {**_with_intervals(_report()), "post_processed": {"dual-softmax": changed}}
    plain, post = _rows(latex_rows([content]))
    assert plain[:2] == ["mean-pool", "$40.0^{+2.0}_{-1.3}$"]
    assert post[:2] == ["mean-pool (dual-softmax)", "44.0"]


def test_a_comment_tells_where_the_protocol_changes() -> None:
    text = latex_rows([_report(), _report(head="b"), _report(protocol="DiDeMo test")])
    kinds = ["%" if line.startswith("%") else "row" for line in text.splitlines()]
    assert kinds == ["%", "%", "row", "row", "%", "row"]


def test_no_name_breaks_out_of_its_cell_or_comment() -> None:
    text = latex_rows([_report(head=HOSTILE, protocol="x\n\\input{y}")])
    (row,) = _rows(text)
    assert len(row) == 11
    assert len(text.splitlines()) == 3
    assert not re.search(r"(?<!\\)[&%$#_~^|<>]", row[0])
    assert escaped("50%_a") == r"50\%\_a"


def test_files_are_rows_of_one_table(muse: Muse, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", _report())
    write_json(tmp_path / "b.json", _seeds(1.0, 2.0))
    outcome = muse("latex", tmp_path / "a.json", tmp_path / "b.json")
    assert (outcome.code, outcome.err) == (0, "")
    assert [row[0] for row in _rows(outcome.out)] == ["mean-pool", r"runs/a\_b"]
    refused = muse("latex", tmp_path / "none.json")
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1


@pytest.mark.slow
def test_evaluate_writes_a_row_or_prints_it(muse: Muse, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "tables" / "row.tex"
    assert muse("evaluate", store, "--interval", "0.9", "--latex", file).code == 0
    (row,) = _rows(file.read_text())
    assert row[0] == "mean-pool"
    assert all(cell.startswith("$") for cell in row[1:])
    printed = muse("evaluate", store, "--interval", "0.9", "--latex", "-").out
    assert printed.endswith(file.read_text())
    assert "can't be written" in muse("evaluate", store, "--latex", tmp_path).err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_rows_compile(tmp_path: Path) -> None:
    rows = latex_rows([_with_intervals(_report(head=HOSTILE)), _seeds(1.0, 2.0)])
    page = (
        r"\documentclass{article}\begin{document}\begin{tabular}{l*{10}{r}}"
        f"\n{rows}"
        r"\end{tabular}\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60, capture_output=True)
