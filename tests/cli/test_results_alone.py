"""Stdout has results alone while a long command runs, whatever a library prints there."""

import json

import pytest
from rich.table import Table

from muse.cli.interruption import interruptible
from muse.cli.report import print_json_line, print_line, print_table


def test_what_a_library_prints_is_not_among_the_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with interruptible():
        print("(raylet) a node is gone")
        print_json_line({"event": "done"})
    print_line("afterwards")
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert (json.loads(first), second) == ({"event": "done"}, "afterwards")
    assert captured.err == "(raylet) a node is gone\n"


def test_tables_are_results(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("a column")
    table.add_row("a cell")
    with interruptible():
        print_table(table)
    captured = capsys.readouterr()
    assert "a cell" in captured.out
    assert captured.err == ""


def test_stdout_is_what_it_was_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), interruptible():
        raise ValueError("broken")
    print("plain")
    assert capsys.readouterr().out == "plain\n"
