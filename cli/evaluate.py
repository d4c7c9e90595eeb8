"""``muse evaluate``: retrieval numbers of a head on a split."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse.cli.flags import (
    DeviceOption,
    HeadOption,
    ScanFlag,
    ScanOption,
    StoreArgument,
    ViewOption,
    open_for_head,
)

if TYPE_CHECKING:
    from rich.table import Table

    from muse.head.evaluate import RetrievalReport

_DIRECTIONS = (("text to video", "text_to_video"), ("video to text", "video_to_text"))


def evaluate(
    store: StoreArgument,
    head: HeadOption = "mean-pool",
    split: Annotated[
        str, typer.Option(help="Captions to query with; all for every split.")
    ] = "test",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this file too.")
    ] = None,
    view: ViewOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
) -> None:
    """Print recalls and ranks of a head, in both directions, and by the captions' axes."""
    from muse.cli.report import print_note
    from muse.head.evaluate import evaluate as run_evaluate
    from muse.head.evaluate import open_head

    opened = open_for_head(store, head, view)
    opened_head, where = open_head(
        head,
        opened,
        device=device,  # type: ignore[arg-type]  # checked by open_head
        scan=scan.value,
        any_view=view is not None,
    )
    report = run_evaluate(opened, opened_head, split=split, head_name=head, device=where)
    _print(report)
    if _trained_on(head, split):
        print_note(f"the head was trained on split {split!r}: these are not test numbers.")
    if json_file is not None:
        _write(json_file, report)


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
        # A benchmark's name is no markup, whatever brackets it has.
        table.add_row(Text(axis), str(found.num_captions), *columns, chance)
    return table


def _trained_on(head: str, split: str) -> bool:
    from muse.head.checkpoint import read_config
    from muse.head.evaluate import MEAN_POOL

    if head == MEAN_POOL:
        return False
    trained = read_config(Path(head)).train["split"]
    return trained == split or "all" in (trained, split)


def _write(file: Path, report: "RetrievalReport") -> None:
    from muse.errors import UsageError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {file}: can't be written ({error.strerror}).") from error
