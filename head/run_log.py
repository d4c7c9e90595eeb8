"""One line a step: ``log.jsonl``, and the same for TensorBoard.

Knows nothing of training: a line is a mapping with a ``step``.
"""

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from muse.head.run_files import replace_file

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


def read_log(run: Path) -> list[dict[str, float]]:
    """The lines of a run's log in order, up to the first damaged one; none where it has no log."""
    try:
        text = (run / LOG_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = itertools.takewhile(
        lambda line: _step_of(line) < float("inf"), text.splitlines(keepends=True)
    )
    return [json.loads(line) for line in lines]


class RunLog:
    """The log of a run, opened after a checkpoint and closed by ``with``."""

    def __init__(self, run: Path, *, first_step: int) -> None:
        # tensorboard costs half a second: only who trains pays it
        from torch.utils.tensorboard import SummaryWriter

        _drop_lines_after(run / LOG_FILE, step=first_step)
        if first_step == 0:
            shutil.rmtree(run / TENSORBOARD_FOLDER, ignore_errors=True)
        self._file = (run / LOG_FILE).open("a", encoding="utf-8")
        self._board = SummaryWriter(
            run / TENSORBOARD_FOLDER, purge_step=first_step + 1 if first_step else None
        )

    def add(self, line: Mapping[str, float]) -> None:
        """Writes a step's line, and each of its values as a curve."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in line.items():
            if name != "step":
                self._board.add_scalar(name, value, line["step"])

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()


def _drop_lines_after(path: Path, *, step: int) -> None:
    """Removes the lines after a checkpoint: their steps will run again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if _step_of(line) > step:
            break
        kept.append(line)
    replace_file(path, "".join(kept).encode())


def _step_of(line: str) -> float:
    """A line that a kill or a power cut damaged is later than any checkpoint."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
