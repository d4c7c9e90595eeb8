"""``muse compare``: whether one head is better than another, or chance explains it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muse.cli.evaluated import open_head_on
from muse.cli.flags import (
    DeviceOption,
    EncodedOption,
    ScanFlag,
    ScanOption,
    StoreArgument,
    ViewOption,
)
from muse.cli.head_history import print_remarks

if TYPE_CHECKING:
    from rich.table import Table

    from muse.head.comparison import Comparison, Difference


def compare(
    store: StoreArgument,
    run_a: Annotated[str, typer.Argument(help="Run folder of `muse train-head`, or mean-pool.")],
    run_b: Annotated[str, typer.Argument(help="The head it is held against, likewise.")],
    split: Annotated[
        str, typer.Option(help="Captions to query with; all for every split.")
    ] = "test",
    interval: Annotated[
        float, typer.Option(help="Level of the intervals; 1 minus it is that of the p values.")
    ] = 0.95,
    draws: Annotated[int, typer.Option(help="Draws of videos that intervals are made of.")] = 2000,
    permutations: Annotated[
        int, typer.Option(help="Sign flips that p values are made of.")
    ] = 10_000,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="The comparison and all that it depends on, as a file."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="Write a row for each caption and head to this parquet file."),
    ] = None,
    view: ViewOption = None,
    encoded: EncodedOption = None,
    device: DeviceOption = "auto",
    scan: ScanOption = ScanFlag.auto,
) -> None:
    """Print how far two heads are apart on the same queries, how surely, and what that means."""
    from muse.cli.evaluation_extras import write_ledger
    from muse.cli.json_file import write_json
    from muse.cli.report import print_line, print_table
    from muse.cli.results_file import comparison_content
    from muse.head.bootstrap import Resampling
    from muse.head.comparison import compare_heads, head_ranks
    from muse.head.embeddings import embed_split

    resampling = Resampling(level=interval, draws=draws)
    opened = [
        open_head_on(store, run, view=view, device=device, scan=scan, encoded=encoded)
        for run in (run_a, run_b)
    ]
    embeddings = [
        embed_split(one.store, one.head, split=split, device=one.device) for one in opened
    ]
    first, second = (
        head_ranks(one.store, embedded, head_name=one.name, source_sha256=one.source_sha256)
        for one, embedded in zip(opened, embeddings, strict=True)
    )
    found = compare_heads(first, second, resampling=resampling, num_permutations=permutations)
    print_line(
        f"{found.protocol}, split {split}: {found.num_videos} of {found.num_videos_listed} videos, "
        f"{found.num_captions} of {found.num_captions_listed} captions. A: {run_a}. B: {run_b}"
    )
    print_table(comparison_table(found))
    print_line(footnote(found))
    for run in dict.fromkeys((run_a, run_b)):
        print_remarks(run, split)
    if json_file is not None:
        content = comparison_content(found.as_json(), opened, embeddings[0].selection)
        write_json(json_file, content)
    if ledger is not None:
        write_ledger(ledger, opened[0].store, dict(zip((run_a, run_b), embeddings, strict=True)))


def comparison_table(found: "Comparison") -> "Table":
    """A row for each number, with words for it."""
    from rich.table import Table

    from muse.cli.evaluation_extras import interval_text

    table = Table("direction", "number", "A", "B", "A - B", "p", "which means")
    captions = queries_text(found.num_captions, found.num_videos)
    videos = queries_text(found.num_videos, found.num_videos)
    for title, differences, queries in (
        ("text to video", found.text_to_video, captions),
        ("video to text", found.video_to_text, videos),
    ):
        for one in differences:
            table.add_row(
                title,
                one.name,
                f"{one.first:.1f}",
                f"{one.second:.1f}",
                f"{one.difference:+.1f}{interval_text(one.interval, sign='+')}",
                p_text(one.p_value, found.num_permutations),
                meaning(one, queries),
            )
    return table


def meaning(difference: "Difference", queries: str) -> str:
    """``A is better``, ``B is better``, or that so many queries show no difference."""
    if difference.verdict == "no difference":
        return f"no difference that {queries} can show"
    return "A is better" if difference.verdict == "better" else "B is better"


def queries_text(num_queries: int, num_videos: int) -> str:
    """``1,000 queries``, or ``27,763 queries of 670 videos``."""
    of_videos = "" if num_queries == num_videos else f" of {num_videos:,} videos"
    return f"{num_queries:,} queries{of_videos}"


def p_text(p_value: float, num_permutations: int) -> str:
    """Three digits, a smaller one's first, or that so many permutations can't tell."""
    least = 1 / (1 + num_permutations)
    if p_value < 1.5 * least:
        return f"< {2 * least:.1g}"
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.1g}"


def footnote(found: "Comparison") -> str:
    """How the numbers were taken, and what they do not say."""
    level, num_tests = found.resampling.level, len(found.text_to_video) + len(found.video_to_text)
    return (
        f"Intervals of A - B: {100 * level:g} % of {found.resampling.draws} draws of videos with "
        f"all their captions, the same for both. p: two-sided, {found.num_permutations} sign "
        f"flips, a video's captions together; each of {num_tests} is of one number alone, and one "
        f"in {1 / (1 - level):.0f} is below {1 - level:.2g} by chance. All of it is about these "
        "two heads: what another seed would train is not in it (`muse train-head --seeds`)."
    )
