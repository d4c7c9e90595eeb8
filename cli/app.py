"""The command line: which commands there are, and what an error looks like.

Only typer is imported at the top, and each command loads its stage when it runs, so that
``muse --help`` is quick. Exit codes: 0 done; 1 an error of ours, one line on stderr; 2 wrong usage;
3 finished, and some videos failed, or some runs of ``ablate``. Anything else is a bug and shows its
traceback.
"""

import sys
from typing import Annotated

import typer

import muse
from muse.cli.ablate import CONTEXT, USAGE, ablate
from muse.cli.compare import compare
from muse.cli.data import data_app
from muse.cli.doctor import doctor
from muse.cli.evaluate import evaluate
from muse.cli.extract import extract
from muse.cli.head_import import import_head
from muse.cli.head_influence import influence
from muse.cli.latex import latex
from muse.cli.search import search
from muse.cli.store import errors, info
from muse.cli.store_check import diff, verify
from muse.cli.store_export import export
from muse.cli.train_head import train_head
from muse.cli.world import make
from muse.errors import MuseError, UsageError

EXIT_OURS = 1
EXIT_USAGE = 2  # typer's own, for flags it does not know

app = typer.Typer(
    name="muse",
    help="Text-video retrieval: cache frozen CLIP tokens once, then train a small head on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(
    help="Look at, check, compare and export a feature store.", no_args_is_help=True
)
head_app = typer.Typer(
    help="Look into a trained head, or import a published one.", no_args_is_help=True
)
world_app = typer.Typer(
    help="Videos with known answers, to try everything on.", no_args_is_help=True
)
app.command()(extract)
app.command("train-head")(train_head)
app.command()(evaluate)
app.command()(compare)
app.command()(latex)
app.command(context_settings=CONTEXT, options_metavar=USAGE)(ablate)
app.command()(search)
app.command()(doctor)
app.add_typer(store_app, name="store")
app.add_typer(head_app, name="head")
app.add_typer(world_app, name="world")
app.add_typer(data_app, name="data")
world_app.command("make")(make)
head_app.command("influence")(influence)
head_app.command("import")(import_head)
store_app.command("info")(info)
store_app.command("errors")(errors)
store_app.command("verify")(verify)
store_app.command("diff")(diff)
store_app.command("export")(export)


def main() -> None:
    """The entry point of the ``muse`` command."""
    try:
        app()
    except MuseError as error:
        from muse.cli.report import print_error

        print_error(error)
        sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_OURS)


@world_app.callback()
def _world() -> None:
    """Keeps ``make`` a word of its own: typer drops it where it is a group's only command."""


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"muse {muse.__version__}")
        raise typer.Exit
