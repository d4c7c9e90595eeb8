"""Tables of ablations in words: on the terminal, as Markdown and as JSON."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from muse.cli.report import duration_text, print_json_line, print_line, print_table, size_text
from muse.cli.seeds import seeds_text, spread_text

if TYPE_CHECKING:
    from muse.cli.asked_training import AskedTraining
    from muse.head.ablation import Outcome, RowResult
    from muse.head.head_config import HeadConfig
    from muse.head.paper_tables import PaperNumbers, PaperTable
    from muse.head.spread import Spread

_COLUMNS = (
    "seeds", "parameters", "t2v R@1", "R@5", "R@10", "MnR", "v2t R@1",
    "t2v R@1 - default", "GPU memory", "training", "ms a step", "paper (another setting)",
)  # fmt: skip
PAPER_SETTING = "MSR-VTT 1k-A, CLIP ViT-B/32 fine-tuned with the head, single runs"
# Of a mean of two or three values, by Student's t: how often chance alone is beyond two standard
# errors. From five on it is one in nine or less.
_CHANCE_IN_TABLE = {2: "3 in 10", 3: "1 in 5", 4: "1 in 7"}
NONE = "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """What a call is about, beside its runs."""

    folder: Path
    tables: "Sequence[PaperTable]"
    head: "HeadConfig"
    facts: dict[str, Any]
    """The part of the JSON that is not about rows: store, split, seeds, device, command."""

    @classmethod
    def of(
        cls,
        asked: "AskedTraining",
        tables: "Sequence[PaperTable]",
        *,
        split: str,
        num_seeds: int,
        command: Sequence[str],
    ) -> Self:
        """Of a call's flags.

        Raises:
            UsageError: If precision or device is no choice here.
            MuseError: If device or scan can't run here.
        """
        from muse.head.assembly import resolve_scan
        from muse.head.devices import device_name, resolve_device, resolve_precision

        device = resolve_device(asked.config.device)
        first = asked.config.seed
        facts = {
            "store": asked.store.location,
            "root_sha256": asked.store.root_sha256,
            "protocol": asked.store.header.protocol,
            "trained_on": asked.config.split,
            "split": split,
            "seeds": list(range(first, first + num_seeds)),
            "device": device_name(device),
            "precision": resolve_precision(asked.config.precision, device),
            "scan": resolve_scan(asked.config, device, asked.head),
            "command": list(command),
        }
        return cls(folder=asked.out, tables=tables, head=asked.head, facts=facts)


def write_tables(ablation: Ablation, outcomes: "Sequence[Outcome]") -> None:
    """Each table as ``NAME.md`` and ``NAME.json``, with the runs that there are so far.

    Raises:
        CheckpointError: If the folder can't be written.
    """
    from muse.head.seeds import write_json, write_text

    for table in ablation.tables:
        rows = _rows(ablation, table, outcomes)
        write_text(ablation.folder / f"{table.name}.md", markdown(ablation, table, rows))
        write_json(ablation.folder / f"{table.name}.json", _json(ablation, table, rows))


def print_tables(ablation: Ablation, outcomes: "Sequence[Outcome]", *, as_json: bool) -> None:
    """Each table on stdout."""
    for table in ablation.tables:
        rows = _rows(ablation, table, outcomes)
        if as_json:
            print_json_line({"event": "table", **_json(ablation, table, rows)})
            continue
        facts = ablation.facts
        print_line(f"{facts['protocol']}, split {facts['split']}{_counts(rows)}")
        _print_table(table, rows)
        for line in _remarks(ablation, rows):
            print_line(line)
        print_line(f"table: {ablation.folder / table.name}.md and .json")


def markdown(ablation: Ablation, table: "PaperTable", rows: "Sequence[RowResult]") -> str:
    """A table as a page of Markdown, with what it was measured on."""
    facts = ablation.facts
    number = f" (the paper's table {table.number})" if table.number else ""
    head = (table.name, *_COLUMNS)
    about = (
        f"{table.title[0].upper()}{table.title[1:]}. {facts['protocol']}: trained on split "
        f"{facts['trained_on']}, evaluated on {facts['split']}{_counts(rows)}; mean ± standard "
        f"deviation over {seeds_text(facts['seeds'])}. {facts['device']}, {facts['precision']}, "
        f"scan {facts['scan']}. Store `{facts['store']}`, root `{facts['root_sha256'][:16]}`."
    )
    lines = [
        f"# Ablation: {table.name}{number}",
        "",
        about,
        "",
        _line(head),
        _line(["---"] * len(head)),
        *(_line(_cells(row)) for row in rows),
        "",
        *(f"- {remark}" for remark in _remarks(ablation, rows)),
        "",
        "```sh",
        shlex.join(["muse", *facts["command"][1:]]),  # wherever the program was
        "```",
        "",
    ]
    return "\n".join(lines)


def _rows(
    ablation: Ablation, table: "PaperTable", outcomes: "Sequence[Outcome]"
) -> "tuple[RowResult, ...]":
    from muse.head.ablation import table_rows

    return table_rows(table, ablation.head, outcomes)


def _json(ablation: Ablation, table: "PaperTable", rows: "Sequence[RowResult]") -> dict[str, Any]:
    import dataclasses

    return {
        "table": table.name,
        "title": table.title,
        "number_in_paper": table.number,
        "default_row": table.default,
        **ablation.facts,
        "asked_head": dataclasses.asdict(ablation.head),
        "paper_setting": PAPER_SETTING,
        "rows": [row.as_json() for row in rows],
    }


def _print_table(table: "PaperTable", rows: "Sequence[RowResult]") -> None:
    from rich.table import Table

    shown = Table(table.name, *_COLUMNS, title=table.title)
    for row in rows:
        shown.add_row(*_cells(row))
    print_table(shown)


def _cells(row: "RowResult") -> tuple[str, ...]:
    """A row of `_COLUMNS`, its label first."""
    label = f"{row.row.label} (default)" if row.is_default else row.row.label
    paper = _paper(row.row.paper)
    found = row.spreads
    if found is None:
        state = "failed" if row.reasons else "not run yet"
        return (label, state, *[NONE] * (len(_COLUMNS) - 2), paper)
    to_video, to_text = found["text_to_video"], found["video_to_text"]
    memory = [r.peak_memory_bytes for r in row.results if r.peak_memory_bytes is not None]
    seconds = sum(result.training_seconds for result in row.results) / len(row.results)
    steps = sum(result.step_milliseconds for result in row.results) / len(row.results)
    failed = f", {len(row.reasons)} failed" if row.reasons else ""
    return (
        label,
        f"{len(row.results)}{failed}",
        f"{row.results[0].num_parameters:,}",
        *(spread_text(to_video[name]) for name in ("R@1", "R@5", "R@10", "MnR")),
        spread_text(to_text["R@1"]),
        NONE if row.is_default else _difference(row.difference),
        size_text(max(memory)) if memory else NONE,
        duration_text(seconds),
        f"{steps:.1f}",
        paper,
    )


def _difference(difference: "Spread | None") -> str:
    """``+1.2 ± 0.4, within noise``."""
    if difference is None:
        return NONE
    verdict = {None: "one seed", True: "within noise", False: "beyond noise"}
    return f"{spread_text(difference, sign='+')}, {verdict[difference.is_noise]}"


def _paper(numbers: "PaperNumbers | None") -> str:
    """``44.8 / 71.6 / 82.1 / 15.6``, or the first alone."""
    if numbers is None:
        return NONE
    rest = (numbers.recall_at_5, numbers.recall_at_10, numbers.mean_rank)
    known = [f"{number:.1f}" for number in (numbers.recall_at_1, *rest) if number is not None]
    return " / ".join(known)


def _remarks(ablation: Ablation, rows: "Sequence[RowResult]") -> list[str]:
    """How the table is to be read, and why runs failed."""
    num_seeds = len(ablation.facts["seeds"])
    chance = _CHANCE_IN_TABLE.get(num_seeds, "1 in 9" if num_seeds > 1 else "")
    noise = (
        "Differences to the default row are of the same seeds, mean ± standard deviation. Within "
        "noise: the mean is nearer to 0 than two standard errors"
        + (
            f"; of {num_seeds} seeds, chance alone is beyond that {chance} times."
            if chance
            else "."
        )
        + " What another test set would change is not in it."
    )
    cost = (
        "GPU memory: the most that torch allocated in training, weights not counted. Training: "
        "mean over seeds. ms a step: median, reading included."
    )
    failed = [
        f"{row.row.label}, seed {seed}: failed. {reason}"
        for row in rows
        for seed, reason in row.reasons.items()
    ]
    paper = (
        f"Paper: text to video R@1 / 5 / 10 / MnR on {PAPER_SETTING}: another setting, whose "
        "numbers can't be held against these; at most the order of the rows can."
    )
    return [*_chosen_on_it(rows), noise, cost, paper, *failed]


def _chosen_on_it(rows: "Sequence[RowResult]") -> list[str]:
    """A warning, if epochs were chosen on the split whose numbers these are."""
    from muse.head.selection import read_selection

    results = [result for row in rows for result in row.results]
    records = [(read_selection(result.run), result.report) for result in results]
    if not any(record and record.chose_on(report["split"]) for record, report in records):
        return []
    return ["OPTIMISTIC: the epochs were chosen on this very split."]


def _counts(rows: "Sequence[RowResult]") -> str:
    """`` (32 of 40 videos, 160 of 200 captions)``; nothing before the first result."""
    reports = [result.report for row in rows for result in row.results]
    if not reports:
        return ""
    videos, captions = (
        f"{reports[0][f'num_{what}']} of {reports[0][f'num_{what}_listed']} {what}"
        for what in ("videos", "captions")
    )
    return f" ({videos}, {captions})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
