from pathlib import Path

from muse.head.run_log import LOG_FILE, read_log


def test_a_log_is_read_up_to_its_first_damaged_line(tmp_path: Path) -> None:
    lines = '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo'
    (tmp_path / LOG_FILE).write_text(lines, encoding="utf-8")
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]


def test_a_run_without_a_log_has_no_lines(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
