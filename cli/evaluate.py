"""``muse evaluate``: retrieval numbers of a head on a split.

Its flags and the order of the work. Opening and evaluating is in ``evaluated``, tables are in
``evaluation_text``, intervals and post-processed rows in ``evaluation_extras``, and files in
``asked_files``.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from muse.cli.asked_files import AskedFiles
from muse.cli.evaluated import Evaluated, Rules, evaluate_opened, open_head_on
from muse.cli.evaluation_extras import AskedExtras, FoundExtras, asked_extras, print_post_rows
from muse.cli.flags import (
    DeviceOption,
    EncodedOption,
    HeadOption,
    ScanFlag,
    ScanOption,
    StoreArgument,
    TiesFlag,
    TiesOption,
    V2TFlag,
    V2TOption,
    ViewOption,
)
from muse.cli.head_history import print_remarks


def _file(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Results as files")


def _sure(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="How sure a number is")


def evaluate(
    store: StoreArgument,
    head: HeadOption = "mean-pool",
    split: Annotated[
        str, typer.Option(help="Captions to query with; all for every split.")
    ] = "test",
    ties: TiesOption = TiesFlag.expected,
    v2t: V2TOption = V2TFlag.group,
    post: Annotated[
        str,
        typer.Option(
            help="Rows of their own with scores that other queries change: dual-softmax, "
            "inverted-softmax, qb-norm.",
            rich_help_panel="How it is ranked",
        ),
    ] = "",
    interval: Annotated[
        float | None, _sure("Level of a bootstrap interval beside each number, such as 0.95.")
    ] = None,
    draws: Annotated[
        int | None, _sure("Draws of videos that intervals are made of; 2000 if not given.")
    ] = None,
    json_file: Annotated[
        Path | None, _file("The numbers and all that they depend on.", "--json")
    ] = None,
    latex_file: Annotated[
        str | None, _file("A row of a LaTeX table; - prints it.", "--latex")
    ] = None,
    mteb_folder: Annotated[
        Path | None, _file("A folder of mteb's results, where it has such a task.", "--mteb")
    ] = None,
    html_file: Annotated[Path | None, _file("A page with charts and examples.", "--html")] = None,
    against: Annotated[
        str | None, _file("A second head on the page: a run folder, or mean-pool.")
    ] = None,
    maps: Annotated[
        int, _file("Examples on the page that show which frames and patches respond.")
    ] = 4,
    ledger: Annotated[Path | None, _file("A row for each caption, as parquet.")] = None,
    view: ViewOption = None,
    encoded: EncodedOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
) -> None:
    """Print recalls and ranks of a head, in both directions, and by the captions' axes."""
    from muse.head.metrics import require_rules_fit
    from muse.head.seeds import require_finished, seed_runs

    rules = Rules(ties=ties, v2t=v2t)
    require_rules_fit(ties.value, v2t.value)
    extras = asked_extras(interval=interval, draws=draws, post=post, has_page=html_file is not None)
    files = AskedFiles(
        json=json_file,
        latex=latex_file,
        mteb=mteb_folder,
        ledger=ledger,
        html=html_file,
        against=against,
        num_maps=maps,
    )
    files.require_rules(rules)
    runs = seed_runs(Path(head))
    require_finished(runs)
    if runs:
        extras.require_one_run(head, runs)
        files.require_one_run(head, runs)
    names = [*map(str, runs.values())] if runs else [head]
    opened = [
        open_head_on(store, name, view=view, device=device, scan=scan, encoded=encoded)
        for name in (*names, *([against] if against is not None else []))
    ]
    extras.require_defined(opened[0], split)
    files.require_task(opened[0], split)
    evaluated = [evaluate_opened(one, split, rules) for one in opened[: len(names)]]
    if runs:
        _show_seeds(dict(zip(runs, evaluated, strict=True)), extras, files)
        return
    _show(evaluated[0], extras, files)
    others = [evaluate_opened(one, split, rules) for one in opened[1:]]
    files.write_page([*evaluated, *others], resampling=extras.page_resampling)


def _show(evaluated: Evaluated, extras: AskedExtras, files: AskedFiles) -> None:
    """One head, on the terminal and in the files that were asked for."""
    from muse.cli.evaluation_text import print_evaluation
    from muse.cli.results_file import evaluation_content

    found = extras.of(evaluated)
    print_evaluation(evaluated.report, found.intervals)
    print_post_rows(found.post_processed)
    print_remarks(evaluated.opened.name, evaluated.report.split)
    files.write(lambda: evaluation_content(evaluated, found.as_json()))
    files.write_of_one(evaluated)


def _show_seeds(seeds: dict[int, Evaluated], extras: AskedExtras, files: AskedFiles) -> None:
    """Mean and standard deviation over the runs of a folder of seeds."""
    from muse.cli.results_file import seeds_content
    from muse.cli.seeds import print_seeds

    found = FoundExtras(intervals=extras.intervals([*seeds.values()]), post_processed=())
    print_seeds({seed: one.report.as_json() for seed, one in seeds.items()}, found.intervals)
    first = next(iter(seeds.values()))
    print_remarks(first.opened.name, first.report.split)
    files.write(lambda: seeds_content(seeds, found.as_json()))
