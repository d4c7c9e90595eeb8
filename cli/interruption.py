"""What surrounds a command that may run for hours: Ctrl-C, and libraries that print."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from muse.cli.report import print_error, results_alone

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C as one line that says how to go on; what libraries print goes to stderr meanwhile."""
    try:
        with results_alone():
            yield
    except KeyboardInterrupt:
        print_error("interrupted; what was committed is safe: run the same command to go on.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
