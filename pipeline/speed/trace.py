"""A run's spans as a file that a browser draws: one row a worker, time from left to right.

The form is the Trace Event Format of Chrome: complete events (``"ph": "X"``), times in
microseconds. https://ui.perfetto.dev and chrome://tracing open it. Knows nothing of what the spans
mean.
"""

import json
import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from muse.errors import StoreError, UsageError
from muse.pipeline.speed.spans import Span
from muse.pipeline.storage.durable_files import write_new
from muse.pipeline.storage.names import PARTIAL_SUFFIX

logger = logging.getLogger(__name__)

_KINDS = ("encoder", "writer", "decoder")
_PROCESS = 1  # the run: all rows lie in one group
_MICRO = 1e6


class TraceLog:
    """Spans that are kept, or not."""

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self.started_seconds = time.time()
        """Moment 0 of the trace, since the epoch."""
        self.spans: list[Span] = []

    def add(self, spans: Iterable[Span]) -> None:
        """Keeps them if a trace is asked for."""
        if self._keeps:
            self.spans.extend(spans)


@contextmanager
def traced(path: Path | None) -> Iterator[TraceLog]:
    """A log whose spans are in a file afterwards, whichever way the block ends.

    Args:
        path: Of the file; one that is there is replaced. None: no file, and nothing is kept.

    Raises:
        UsageError: If there is no folder for it.
        StoreError: If it can't be written.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"--profile {path}: name a file in a folder that is there.")
    log = TraceLog(keeps=path is not None)
    try:
        yield log
    except BaseException:  # also Ctrl-C; and what ended the run is not hidden by a full disk
        try:
            _write(path, log)
        except StoreError as error:
            logger.warning("%s", error)
        raise
    _write(path, log)


def trace_json(spans: Sequence[Span], *, started_seconds: float) -> dict[str, Any]:
    """The content of a trace file.

    Args:
        spans: In any order.
        started_seconds: Moment 0 of the trace, since the epoch.
    """
    rows = {worker: row for row, worker in enumerate(_workers(spans), start=1)}
    names = [_name_of_row(row, worker) for worker, row in rows.items()]
    events = [_event(span, rows[span.worker], started_seconds) for span in spans]
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *events]}


def _workers(spans: Sequence[Span]) -> list[str]:
    """By kind, then by number: ``decoder 2`` before ``decoder 10``."""

    def key(worker: str) -> tuple[int, int, str]:
        kind, _, which = worker.partition(" ")
        place = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
        return place, int(which) if which.isdigit() else 0, which

    return sorted({span.worker for span in spans}, key=key)


def _name_of_row(row: int, worker: str) -> dict[str, Any]:
    return {
        "ph": "M",
        "name": "thread_name",
        "pid": _PROCESS,
        "tid": row,
        "args": {"name": worker},
    }


def _event(span: Span, row: int, started_seconds: float) -> dict[str, Any]:
    told = {
        "what": span.what,
        "items": span.num_items,
        "frames": span.num_frames,
        "bytes": span.num_bytes,
        "cpu_seconds": span.cpu_seconds,
    }
    return {
        "ph": "X",
        "name": span.activity,
        "cat": span.activity,
        "ts": round((span.start_seconds - started_seconds) * _MICRO, 1),
        "dur": round(span.seconds * _MICRO, 1),
        "pid": _PROCESS,
        "tid": row,
        "args": {name: value for name, value in told.items() if value},
    }


def _write(path: Path | None, log: TraceLog) -> None:
    if path is None:
        return
    content = trace_json(log.spans, started_seconds=log.started_seconds)
    partial = path.with_name(f"muse-{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        write_new(partial, json.dumps(content).encode())
        partial.replace(path)
    except OSError as error:
        raise StoreError(
            f"--profile {path}: can't be written ({error.strerror or error}). The store is not "
            "touched by that; name a file elsewhere next time."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
