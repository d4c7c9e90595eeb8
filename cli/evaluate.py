"""``muse evaluate``: retrieval numbers of a head on a split.

Its flags and the order of the work. Opening and evaluating is in ``evaluated``; what is made of the
numbers is in ``evaluation_text`` (tables), ``evaluation_extras`` (intervals, post-processed rows,
ledger), ``results_file`` (JSON), ``latex_rows`` and ``evaluation_page`` (HTML).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.evaluated import Evaluated, OpenedHead, Rules, evaluate_opened, open_head_on
from muse.cli.flags import (
    DeviceOption,
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

if TYPE_CHECKING:
    from muse.cli.evaluation_extras import AskedExtras


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
    draws: Annotated[int, _sure("Draws of videos that intervals are made of.")] = 2000,
    json_file: Annotated[
        Path | None, _file("The numbers and all that they depend on.", "--json")
    ] = None,
    latex_file: Annotated[
        str | None, _file("A row of a LaTeX table; - prints it.", "--latex")
    ] = None,
    html_file: Annotated[Path | None, _file("A page with charts and examples.", "--html")] = None,
    against: Annotated[
        str | None, _file("A second head on the page: a run folder, or mean-pool.")
    ] = None,
    ledger: Annotated[Path | None, _file("A row for each caption, as parquet.")] = None,
    view: ViewOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
) -> None:
    """Print recalls and ranks of a head, in both directions, and by the captions' axes."""
    from muse.cli.evaluation_extras import asked_extras
    from muse.head.metrics import require_rules_fit
    from muse.head.seeds import require_finished, seed_runs

    rules = Rules(ties=ties, v2t=v2t)
    files = _ResultFiles(json=json_file, latex=latex_file)
    require_rules_fit(ties.value, v2t.value)
    extras = asked_extras(interval=interval, draws=draws, post=post, ledger=ledger)
    extras.require_default_rules(rules)
    _require_page_fits(html_file, against=against, rules=rules)
    runs = seed_runs(Path(head))
    require_finished(runs)
    if runs:
        extras.require_none(head, runs)
        _require_one_run(html_file, head, runs)
    opened = [
        open_head_on(store, name, view=view, device=device, scan=scan)
        for name in (*(map(str, runs.values()) if runs else (head,)), against)
        if name is not None
    ]
    if runs:
        _evaluate_seeds(dict(zip(runs, opened, strict=True)), split, rules, files)
        return
    evaluated = evaluate_opened(opened[0], split, rules)
    _show(evaluated, extras, files)
    if html_file is not None:
        others = [evaluate_opened(other, split, rules) for other in opened[1:]]
        _write_page(html_file, [evaluated, *others])


@dataclass(frozen=True, kw_only=True, slots=True)
class _ResultFiles:
    """Where the numbers go beside the terminal."""

    json: Path | None
    latex: str | None
    """A file, or ``-``."""

    @property
    def are_asked_for(self) -> bool:
        """Whether there is one."""
        return self.json is not None or self.latex is not None

    def write(self, content: Mapping[str, Any]) -> None:
        """All that were asked for.

        Args:
            content: Of a results file.

        Raises:
            UsageError: If one can't be written.
        """
        from muse.cli.json_file import write_json, write_text
        from muse.cli.latex_rows import latex_rows
        from muse.cli.report import print_line

        if self.json is not None:
            write_json(self.json, content)
        if self.latex == "-":
            print_line(latex_rows([content]).removesuffix("\n"))
        elif self.latex is not None:
            write_text(Path(self.latex), latex_rows([content]), flag="--latex")


def _require_page_fits(html_file: Path | None, *, against: str | None, rules: Rules) -> None:
    from muse.errors import UsageError

    if against is not None and html_file is None:
        raise UsageError(f"--against {against}: both heads are on a page. Add --html FILE.")
    if html_file is not None and rules != Rules():
        raise UsageError(
            f"--ties {rules.ties}, --v2t {rules.v2t}: a page's charts follow the rules "
            f"{Rules().ties} and {Rules().v2t}. Leave out --html, or these."
        )


def _require_one_run(html_file: Path | None, folder: str, runs: dict[int, Path]) -> None:
    from muse.errors import UsageError

    if html_file is not None:
        raise UsageError(
            f"--html {html_file}: a page is about one run, and {folder} holds {len(runs)}, one a "
            f"seed. Name one, such as --head {next(iter(runs.values()))}."
        )


def _show(evaluated: Evaluated, extras: "AskedExtras", files: _ResultFiles) -> None:
    """One head, on the terminal and in the files that were asked for."""
    from muse.cli.evaluation_extras import print_post_rows, write_ledger
    from muse.cli.evaluation_text import print_evaluation
    from muse.cli.results_file import evaluation_content

    found = extras.of(evaluated)
    print_evaluation(evaluated.report, found.intervals)
    print_post_rows(found.post_processed)
    print_remarks(evaluated.opened.name, evaluated.report.split)
    if files.are_asked_for:
        files.write(evaluation_content(evaluated, found.as_json()))
    if extras.ledger is not None:
        write_ledger(extras.ledger, evaluated.store, {evaluated.opened.name: evaluated.embedded})


def _evaluate_seeds(
    opened: dict[int, OpenedHead], split: str, rules: Rules, files: _ResultFiles
) -> None:
    """Mean and standard deviation over the runs of a folder of seeds."""
    from muse.cli.results_file import seeds_content
    from muse.cli.seeds import print_seeds

    evaluated = {seed: evaluate_opened(head, split, rules) for seed, head in opened.items()}
    print_seeds({seed: one.report.as_json() for seed, one in evaluated.items()})
    print_remarks(next(iter(opened.values())).name, split)
    if files.are_asked_for:
        files.write(seeds_content(evaluated, {}))


def _write_page(file: Path, evaluated: list[Evaluated]) -> None:
    from muse.cli.evaluation_page import write_evaluation_page
    from muse.cli.report import print_line

    write_evaluation_page(file, evaluated)
    print_line(f"report: {file}")
