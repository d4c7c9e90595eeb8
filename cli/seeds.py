"""``muse train-head --seeds``: the same head from several seeds, and what they score together."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muse.cli.head_history import print_remarks
from muse.cli.report import print_json_line, print_line, print_table

if TYPE_CHECKING:
    from muse.cli.asked_training import AskedTraining
    from muse.head.retrieval_intervals import RetrievalIntervals
    from muse.head.seeds import SeedResult
    from muse.head.spread import Spread

DEFAULT_SPLIT = "test"
_DIRECTIONS = (("text to video", "text_to_video"), ("video to text", "video_to_text"))


def train_seeds(asked: "AskedTraining", *, num_seeds: int) -> None:
    """Trains and evaluates each seed that is not done, and prints mean and standard deviation."""
    from muse.cli.interruption import interruptible
    from muse.cli.progress import TrainReporter
    from muse.head.seeds import require_split, seeds_from, spreads_json, train_seed, write_seeds

    split = asked.evaluate_on or DEFAULT_SPLIT
    seeds = seeds_from(asked.config.seed, num_seeds)
    require_split(asked.store, split)
    results: list[SeedResult] = []
    with interruptible():
        for seed in seeds:
            title = f"train seed {seed} ({len(results) + 1} of {num_seeds})"
            with TrainReporter(json_lines=asked.json_lines, title=title) as reporter:
                result = train_seed(
                    asked.store,
                    asked.out,
                    config=dataclasses.replace(asked.config, seed=seed),
                    head=asked.head,
                    split=split,
                    command=sys.argv,
                    on_step=reporter.update,
                    on_epoch=reporter.epoch,
                )
            results.append(result)
            _say(result, as_json=asked.json_lines)
    write_seeds(asked.out, results, command=sys.argv)
    reports = {result.seed: result.report for result in results}
    if asked.json_lines:
        spread = spreads_json(list(reports.values()))
        print_json_line({"event": "done", "run": str(asked.out), "spread": spread})
        return
    print_seeds(reports)
    print_remarks(str(results[0].run), split)


def print_seeds(
    reports: "Mapping[int, Mapping[str, Any]]", intervals: "RetrievalIntervals | None" = None
) -> None:
    """Mean and standard deviation over seeds, in both directions; each report as JSON.

    ``intervals`` are of the means.
    """
    from rich.table import Table

    from muse.cli.evaluation_extras import interval_text
    from muse.head.seeds import spreads

    seeds, first = list(reports), next(iter(reports.values()))
    found = spreads(list(reports.values()))
    print_line(
        f"{first['protocol']}, split {first['split']}: {first['num_videos']} of "
        f"{first['num_videos_listed']} videos, {first['num_captions']} of "
        f"{first['num_captions_listed']} captions; {seeds_text(seeds)}, mean ± standard deviation"
    )
    table = Table("direction", *found[_DIRECTIONS[0][1]])
    for title, direction in _DIRECTIONS:
        table.add_row(title, *map(spread_text, found[direction].values()))
        if intervals is not None:  # a row of its own: beside the numbers it is wider than a line
            around = getattr(intervals.numbers, direction)
            cells = (interval_text(around.get(name)).strip() for name in found[direction])
            table.add_row(f"{100 * intervals.resampling.level:g} % interval of the mean", *cells)
    print_table(table)


def spread_text(spread: "Spread", *, sign: str = "") -> str:
    """``12.3 ± 0.4``; the mean alone of one seed."""
    mean = f"{spread.mean:{sign}.1f}"
    if spread.standard_deviation is None:
        return mean
    return f"{mean} ± {spread.standard_deviation:.1f}"


def seeds_text(seeds: list[int]) -> str:
    """``seed 42``, or ``5 seeds (42, 43, 44, 45, 46)``."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"


def _say(result: "SeedResult", *, as_json: bool) -> None:
    if as_json:
        print_json_line({"event": "seed", **result.as_json()})
        return
    to_video, to_text = (result.report[direction] for _, direction in _DIRECTIONS)
    print_line(
        f"seed {result.seed}: R@1 {to_video['R@1']:.1f} text to video, {to_text['R@1']:.1f} video "
        f"to text: {result.run}"
    )
