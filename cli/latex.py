"""``muse latex``: results files as the rows of one table."""

from pathlib import Path
from typing import Annotated

import typer


def latex(
    files: Annotated[
        list[Path], typer.Argument(help="Files that `muse evaluate --json` wrote, in order.")
    ],
) -> None:
    """Print a row of a LaTeX table for each results file."""
    from muse.cli.latex_rows import latex_rows
    from muse.cli.report import print_line
    from muse.cli.results_file import EVALUATION, SEEDS, read_results

    contents = [read_results(file, EVALUATION, SEEDS) for file in files]
    print_line(latex_rows(contents).removesuffix("\n"))
