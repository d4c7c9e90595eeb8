"""``muse ablate``: the paper's tables on one's own store, with the spread over seeds."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from muse.cli.asked_training import AskedTraining
    from muse.head.ablation import Outcome, PlannedRun

# What is not listed here goes to the parser of train-head: its flags are defined once.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}
USAGE = "STORE [OPTIONS] [FLAGS OF muse train-head]"
EXIT_SOME_FAILED = 3


class TableFlag(StrEnum):
    """Values of ``--table``."""

    mixers = "mixers"
    scales = "scales"
    order = "order"
    depth = "depth"
    scan = "scan"
    residual = "residual"
    all = "all"


def ablate(
    context: typer.Context,
    table: Annotated[TableFlag, typer.Option(help="Which of the paper's tables.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of runs and tables, made or continued.")
    ],
    seeds: Annotated[int, typer.Option(help="Runs a row, from --seed on.")] = 3,
) -> None:
    """Train and evaluate each row of a table of the paper, several seeds each.

    Every flag of `muse train-head` can be given and holds for all rows.
    """
    from muse.cli.ablation_text import Ablation, print_tables, write_tables
    from muse.cli.head_history import print_remarks
    from muse.cli.report import print_error
    from muse.cli.seeds import DEFAULT_SPLIT
    from muse.head.ablation import plan_runs
    from muse.head.paper_tables import TABLE_NAMES, paper_table
    from muse.head.seeds import require_split, seeds_from

    asked = _asked(context, out)
    split = asked.evaluate_on or DEFAULT_SPLIT
    names = [name for name in TABLE_NAMES if table in (TableFlag.all, name)]
    tables = [paper_table(name, grid=asked.store.header.encoder.grid) for name in names]
    planned = plan_runs(tables, asked.head, asked.config, seeds_from(asked.config.seed, seeds))
    require_split(asked.store, split)
    ablation = Ablation.of(asked, tables, split=split, num_seeds=seeds, command=sys.argv)
    outcomes: list[Outcome] = []
    for number, run in enumerate(planned, start=1):
        outcomes.append(_run(asked, run, split=split, place=f"{number} of {len(planned)}"))
        write_tables(ablation, outcomes)
    print_tables(ablation, outcomes, as_json=asked.json_lines)
    if finished := [outcome.result for outcome in outcomes if outcome.result is not None]:
        print_remarks(str(finished[0].run), split)
    num_failed = sum(outcome.reason is not None for outcome in outcomes)
    if num_failed:
        print_error(f"{num_failed} of {len(planned)} runs failed; the tables say why.")
        raise typer.Exit(EXIT_SOME_FAILED)


def _asked(context: typer.Context, out: Path) -> "AskedTraining":
    """What the rest of the command line asks for, as ``muse train-head`` reads it."""
    from muse.cli.asked_training import asked_training

    reader = typer.Typer(add_completion=False)
    reader.command()(asked_training)
    command = typer.main.get_command(reader)
    arguments = [*context.args, "--out", str(out)]
    return cast(
        "AskedTraining",
        command.invoke(
            command.make_context(context.info_name or "", arguments, parent=context.parent)
        ),
    )


def _run(asked: "AskedTraining", run: "PlannedRun", *, split: str, place: str) -> "Outcome":
    """One run, with its progress and a line on how it ended."""
    from muse.cli.interruption import interruptible
    from muse.cli.progress import TrainReporter
    from muse.cli.report import print_progress
    from muse.head.ablation import run_planned

    name = f"{run.row_folder} seed {run.config.seed}"
    title = f"train {name} ({place})"
    with interruptible(), TrainReporter(json_lines=asked.json_lines, title=title) as reporter:
        outcome = run_planned(
            asked.store, asked.out, run, split=split, command=sys.argv, on_step=reporter.update
        )
    if outcome.result is None:
        print_progress(f"{name} ({place}) failed: {outcome.reason}")
    else:
        recall = outcome.result.report["text_to_video"]["R@1"]
        print_progress(f"{name} ({place}): text to video R@1 {recall:.1f}")
    return outcome
