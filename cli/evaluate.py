"""``muse evaluate``: retrieval numbers of a head on a split."""

import dataclasses
import json
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
    ViewFlag,
    ViewOption,
    open_for_head,
)

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from muse.head.evaluate import RetrievalReport, SplitEmbeddings
    from muse.head.model import VideoEmbedder
    from muse.head.selection import SelectionRecord
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
    view: ViewOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
) -> None:
    """Print recalls and ranks of a head, in both directions, and by the captions' axes."""
    from muse.cli.report import print_line, print_note, print_warning
    from muse.errors import UsageError

    if against is not None and html_file is None:
        raise UsageError(f"--against {against}: both heads are on a page. Add --html FILE.")
    opened = [
        _open(store, name, view=view, device=device, scan=scan)
        for name in (head, against)
        if name is not None
    ]
    evaluated = _evaluate(opened[0], split)
    _print(evaluated.report)
    if _trained_on(head, split):
        print_note(f"the head was trained on split {split!r}: these are not test numbers.")
    if _chosen_on(head, split):
        print_warning(
            f"the head was selected on this split, {split!r}: its numbers are optimistic."
        )
    if json_file is not None:
        _write(json_file, evaluated.report)
    if html_file is not None:
        _write_page(html_file, [evaluated, *(_evaluate(other, split) for other in opened[1:])])
        print_line(f"report: {html_file}")


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


def _evaluate(opened: _OpenedHead, split: str) -> _Evaluated:
    from muse.head.evaluate import embed_split, report_of

    embedded = embed_split(opened.store, opened.head, split=split, device=opened.device)
    report = dataclasses.replace(
        report_of(opened.store, embedded, head_name=opened.name),
        selected_on=_selected_on(opened.name),
    )
    return _Evaluated(store=opened.store, embedded=embedded, report=report)


def _print(report: "RetrievalReport") -> None:
    from rich.table import Table

    from muse.cli.report import print_line, print_table

    print_line(
        f"{report.protocol}, split {report.split}: {report.num_videos} of "
        f"{report.num_videos_listed} videos, {report.num_captions} of "
        f"{report.num_captions_listed} captions; head {report.head}"
    )
    table = Table("direction", "R@1", "R@5", "R@10", "MdR", "MnR")
    for title, field in _DIRECTIONS:
        numbers = getattr(report, field).as_json()
        table.add_row(
            title, *(f"{numbers[name]:.1f}" for name in ("R@1", "R@5", "R@10", "MdR", "MnR"))
        )
    print_table(table)
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


def _write_page(file: Path, evaluated: list[_Evaluated]) -> None:
    """The page of one head, or of one against another."""
    import datetime

    from muse.cli.page.content import head_result, page_content, shown_videos
    from muse.cli.page.film_strips import film_strips
    from muse.cli.page.page import page_of, write_page
    from muse.pipeline.decoding.decoder import DecodeLimits, IsolatedDecoder

    first = evaluated[0]
    results = [head_result(one.report, one.embedded) for one in evaluated]
    content = page_content(
        first.store,
        first.embedded,
        head=results[0],
        against=results[1] if len(results) > 1 else None,
        remarks=[remark for one in evaluated for remark in _remarks(one.report)],
    )
    decoder = IsolatedDecoder(DecodeLimits(timeout_seconds=_FILM_TIMEOUT_SECONDS))
    try:
        strips = film_strips(
            shown_videos(content), sampling=first.store.header.sampling, decode=decoder
        )
    finally:
        decoder.close()
    write_page(file, page_of(content, strips, on=datetime.datetime.now(datetime.UTC).date()))


def _remarks(report: "RetrievalReport") -> list[str]:
    remarks = []
    if _trained_on(report.head, report.split):
        remarks.append(
            f"{report.head} was trained on split {report.split}: these are not test numbers."
        )
    if _chosen_on(report.head, report.split):
        remarks.append(
            f"{report.head} was selected on this split, {report.split}: optimistic numbers."
        )
    return remarks


def _trained_on(head: str, split: str) -> bool:
    from muse.head.checkpoint import read_config
    from muse.head.evaluate import MEAN_POOL

    if head == MEAN_POOL:
        return False
    trained = read_config(Path(head)).train["split"]
    return trained == split or "all" in (trained, split)


def _selection(head: str) -> "SelectionRecord | None":
    """What the head's epoch was chosen by."""
    from muse.head.evaluate import MEAN_POOL
    from muse.head.selection import read_selection

    return None if head == MEAN_POOL else read_selection(Path(head))


def _selected_on(head: str) -> str:
    record = _selection(head)
    return record.name if record else ""


def _chosen_on(head: str, split: str) -> bool:
    record = _selection(head)
    return record is not None and record.chose_on(split)


def _write(file: Path, report: "RetrievalReport") -> None:
    from muse.errors import UsageError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {file}: can't be written ({error.strerror}).") from error
