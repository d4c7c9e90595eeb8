"""``muse evaluate``: retrieval numbers of a head on a split."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    ViewFlag,
    ViewOption,
    open_for_head,
)
from muse.cli.head_history import print_remarks, remarks, selected_on
from muse.cli.json_file import write_json

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from muse.head.bootstrap import Resampling, RetrievalIntervals
    from muse.head.evaluate import RetrievalReport, SplitEmbeddings
    from muse.head.model import VideoEmbedder
    from muse.pipeline.store import FeatureStore

_DIRECTIONS = (("text to video", "text_to_video"), ("video to text", "video_to_text"))
_FILM_TIMEOUT_SECONDS = 60.0  # to decode a video for a picture of it


def evaluate(
    store: StoreArgument,
    head: HeadOption = "mean-pool",
    split: Annotated[
        str, typer.Option(help="Captions to query with; all for every split.")
    ] = "test",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this file too.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with charts and examples too.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second head on the page: a run folder, or mean-pool.")
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Level of a bootstrap interval beside each number, such as 0.95."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of videos that intervals are made of.")] = 2000,
    post: Annotated[
        str,
        typer.Option(
            help="Rows of their own with scores that other queries change: dual-softmax, "
            "inverted-softmax, qb-norm."
        ),
    ] = "",
    ledger: Annotated[
        Path | None, typer.Option(help="Write a row for each caption to this parquet file.")
    ] = None,
    ties: TiesOption = TiesFlag.expected,
    v2t: V2TOption = V2TFlag.group,
    view: ViewOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
) -> None:
    """Print recalls and ranks of a head, in both directions, and by the captions' axes."""
    from muse.cli.evaluation_extras import asked_extras, print_post_rows, write_ledger
    from muse.cli.report import print_line
    from muse.errors import UsageError
    from muse.head.metrics import require_rules_fit
    from muse.head.seeds import require_finished, seed_runs

    require_rules_fit(ties.value, v2t.value)
    extras = asked_extras(interval=interval, draws=draws, post=post, ledger=ledger)
    if against is not None and html_file is None:
        raise UsageError(f"--against {against}: both heads are on a page. Add --html FILE.")
    rules = _Rules(ties=ties, v2t=v2t)
    if html_file is not None and rules != _Rules():
        raise UsageError(
            f"--ties {ties}, --v2t {v2t}: a page's charts follow the rules {_Rules().ties} and "
            f"{_Rules().v2t}. Leave out --html, or these."
        )
    if (interval is not None or post or ledger is not None) and rules != _Rules():
        raise UsageError(
            f"--ties {ties}, --v2t {v2t}: intervals, post-processed rows and ledgers follow the "
            f"rules {_Rules().ties} and {_Rules().v2t}. Leave out these flags, or those."
        )
    runs = seed_runs(Path(head))
    require_finished(runs)
    if runs and html_file is not None:
        raise UsageError(
            f"--html {html_file}: a page is about one run, and {head} holds {len(runs)}, one a "
            f"seed. Name one, such as --head {next(iter(runs.values()))}."
        )
    if runs:
        extras.require_none(head, runs)
    opened = [
        _open(store, name, view=view, device=device, scan=scan)
        for name in (*(map(str, runs.values()) if runs else (head,)), against)
        if name is not None
    ]
    if runs:
        _evaluate_seeds(dict(zip(runs, opened, strict=True)), split, rules, json_file)
        return
    evaluated = _evaluate(opened[0], split, rules)
    found = extras.of(opened[0].store, opened[0].head, evaluated.embedded, opened[0].device)
    _print(evaluated.report, found.intervals)
    print_post_rows(found.post_processed)
    print_remarks(head, split)
    if json_file is not None:
        write_json(json_file, {**evaluated.report.as_json(), **found.as_json()})
    if ledger is not None:
        write_ledger(ledger, evaluated.store, {head: evaluated.embedded})
    if html_file is not None:
        _write_page(
            html_file,
            [evaluated, *(_evaluate(other, split, rules) for other in opened[1:])],
            extras.resampling,
        )
        print_line(f"report: {html_file}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rules:
    """How ranks are counted."""

    ties: TiesFlag = TiesFlag.expected
    v2t: V2TFlag = V2TFlag.group


@dataclass(frozen=True, kw_only=True, slots=True)
class _OpenedHead:
    """A head, the store as it reads it, and where it computes."""

    name: str
    store: "FeatureStore"
    head: "VideoEmbedder"
    device: "torch.device"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evaluated:
    """A head's numbers and the vectors behind them."""

    store: "FeatureStore"
    embedded: "SplitEmbeddings"
    report: "RetrievalReport"


def _open(
    store: str, head: str, *, view: ViewFlag | None, device: str, scan: ScanFlag
) -> _OpenedHead:
    from muse.head.evaluate import open_head

    opened = open_for_head(store, head, view)
    opened_head, where = open_head(
        head,
        opened,
        device=device,  # type: ignore[arg-type]  # checked by open_head
        scan=scan.value,
        any_view=view is not None,
    )
    return _OpenedHead(name=head, store=opened, head=opened_head, device=where)


def _evaluate(opened: _OpenedHead, split: str, rules: _Rules) -> _Evaluated:
    from muse.head.evaluate import embed_split, report_of

    embedded = embed_split(opened.store, opened.head, split=split, device=opened.device)
    report = dataclasses.replace(
        report_of(
            opened.store,
            embedded,
            head_name=opened.name,
            ties=rules.ties.value,
            v2t=rules.v2t.value,
        ),
        selected_on=selected_on(opened.name),
    )
    return _Evaluated(store=opened.store, embedded=embedded, report=report)


def _evaluate_seeds(
    opened: "dict[int, _OpenedHead]", split: str, rules: _Rules, json_file: Path | None
) -> None:
    """Mean and standard deviation over the runs of a folder of seeds."""
    from muse.cli.seeds import print_seeds
    from muse.head.seeds import spreads_json

    reports = {
        seed: _evaluate(head, split, rules).report.as_json() for seed, head in opened.items()
    }
    print_seeds(reports)
    print_remarks(next(iter(opened.values())).name, split)
    if json_file is not None:
        seeds = [{"seed": seed, "report": report} for seed, report in reports.items()]
        write_json(json_file, {"spread": spreads_json(list(reports.values())), "seeds": seeds})


def _print(report: "RetrievalReport", intervals: "RetrievalIntervals | None") -> None:
    from rich.table import Table

    from muse.cli.evaluation_extras import interval_text
    from muse.cli.report import print_line, print_table
    from muse.head.metrics import TIE_RULE, V2T_RULE

    print_line(
        f"{report.protocol}, split {report.split}: {report.num_videos} of "
        f"{report.num_videos_listed} videos, {report.num_captions} of "
        f"{report.num_captions_listed} captions; head {report.head}"
    )
    table = Table("direction", *report.text_to_video.as_json())
    for title, field in _DIRECTIONS:
        numbers = getattr(report, field).as_json()
        around = getattr(intervals, field) if intervals else {}
        table.add_row(
            title,
            *(f"{value:.1f}{interval_text(around.get(name))}" for name, value in numbers.items()),
        )
    print_table(table)
    if (report.tie_rule, report.v2t_rule) != (TIE_RULE, V2T_RULE):
        print_line(f"ties: {report.tie_rule}; video to text: {report.v2t_rule}")
    if report.by_axis:
        print_table(_axis_table(report))


def _axis_table(report: "RetrievalReport") -> "Table":
    """By what the captions ask for; chance is of a text's video being first of all V."""
    from rich.table import Table
    from rich.text import Text

    table = Table("axis", "captions", "t2v R@1", "R@5", "MdR", "v2t R@1", "chance")
    chance = f"{100 / report.num_videos:.2f}"
    for axis, found in report.by_axis.items():
        to_video, to_text = found.text_to_video.as_json(), found.video_to_text.as_json()
        numbers = (*(to_video[name] for name in ("R@1", "R@5", "MdR")), to_text["R@1"])
        columns = (f"{number:.1f}" for number in numbers)
        # A name of a caption file is no markup, and moves no cursor, whatever is in it.
        table.add_row(Text(_one_line(axis)), str(found.num_captions), *columns, chance)
    return table


def _one_line(name: str) -> str:
    """With a mark for each character that a terminal would not print."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def _write_page(file: Path, evaluated: list[_Evaluated], resampling: "Resampling | None") -> None:
    """The page of one head, or of one against another."""
    import datetime

    from muse.cli.page.content import head_result, page_content, shown_videos
    from muse.cli.page.film_strips import film_strips, stored_thumbnails
    from muse.cli.page.page import page_of, write_page
    from muse.pipeline.decoding.decoder import DecodeLimits, IsolatedDecoder

    first = evaluated[0]
    results = [
        head_result(one.store, one.report, one.embedded, resampling=resampling) for one in evaluated
    ]
    content = page_content(
        first.store,
        first.embedded,
        head=results[0],
        against=results[1] if len(results) > 1 else None,
        remarks=[
            f"{one.report.head}: {remark}"
            for one in evaluated
            for remark in remarks(one.report.head, one.report.split)
        ],
        resampling=resampling,
    )
    decoder = IsolatedDecoder(DecodeLimits(timeout_seconds=_FILM_TIMEOUT_SECONDS))
    try:
        strips = film_strips(
            shown_videos(content),
            sampling=first.store.header.sampling,
            decode=decoder,
            thumbnails=stored_thumbnails(first.store),
        )
    finally:
        decoder.close()
    write_page(file, page_of(content, strips, on=datetime.datetime.now(datetime.UTC).date()))
