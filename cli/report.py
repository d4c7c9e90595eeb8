"""What a person or a program reads: lines, tables, JSON. The only module that prints.

Results go to stdout, progress and errors to stderr, so that a pipe gets the results alone.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TextIO

from rich.console import Console
from rich.table import Table

_results: ContextVar[TextIO | None] = ContextVar("results", default=None)
"""Where results go; None: to ``sys.stdout``."""


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Lets libraries that print to stdout, such as Ray when a node is lost, print to stderr."""
    token = _results.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def stderr_console() -> Console:
    """The console that progress is drawn on."""
    return Console(stderr=True)


def print_error(error: Exception | str) -> None:
    """One line on stderr, whatever the message holds."""
    print("muse: " + " ".join(str(error).split()), file=sys.stderr)


def print_note(text: str) -> None:
    """A remark on stderr that changes how the result is to be read."""
    print("note: " + text, file=sys.stderr)


def print_warning(text: str) -> None:
    """A remark on stderr that a result must not be quoted without."""
    print("WARNING: " + text, file=sys.stderr)


def print_progress(text: str) -> None:
    """A line on stderr that says how far a run has come."""
    print(text, file=sys.stderr, flush=True)


def print_line(text: str) -> None:
    """A line of the result, as it is."""
    print(text, file=_results.get(), flush=True)


def print_json_line(content: object) -> None:
    """A line that a program reads."""
    print(json.dumps(content), file=_results.get(), flush=True)


def print_table(table: Table) -> None:
    """A table on stdout, as wide as it needs to be."""
    stream = _results.get() or sys.stdout
    Console(file=stream, width=None if stream.isatty() else 160).print(table)


def duration_text(seconds: float) -> str:
    """``8 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size_text(num_bytes: float) -> str:
    """``614.4 kB``, ``6.1 GB``: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
