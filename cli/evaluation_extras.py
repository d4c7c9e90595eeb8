"""What ``muse evaluate`` adds where it is asked to: intervals, post-processed rows, a ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muse.cli.evaluated import Evaluated, OpenedHead
    from muse.head.bootstrap import Interval, Resampling
    from muse.head.embeddings import SplitEmbeddings
    from muse.head.post_processing import PostProcessedNumbers, PostProcessing
    from muse.head.retrieval_intervals import RetrievalIntervals
    from muse.pipeline.store import FeatureStore

_NUMBERS = ("R@1", "R@5", "R@10", "MdR", "MnR")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundExtras:
    """What was asked for beside the plain numbers."""

    intervals: "RetrievalIntervals | None"
    post_processed: "tuple[PostProcessedNumbers, ...]"

    def as_json(self) -> dict[str, Any]:
        """``intervals`` and ``post_processed``, each only where it was asked for."""
        content: dict[str, Any] = {}
        if self.intervals is not None:
            content["intervals"] = self.intervals.as_json()
        if self.post_processed:
            content["post_processed"] = {one.name: one.as_json() for one in self.post_processed}
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedExtras:
    """Which extras the flags ask for, their values checked."""

    resampling: "Resampling | None"
    """Of the intervals beside the printed numbers; None for none."""
    page_resampling: "Resampling"
    """Of those on a page, which always has them."""
    post: "tuple[PostProcessing, ...]"

    def require_one_run(self, folder: str, runs: Mapping[int, Path]) -> None:
        """Nothing, if no extra was asked of a folder of seeds that is of one run alone.

        Raises:
            UsageError: If one was.
        """
        from muse.errors import UsageError

        if self.post:
            raise UsageError(
                f"--post: it is of one run, and {folder} holds {len(runs)}, one a seed. Name one, "
                f"such as --head {next(iter(runs.values()))}."
            )

    def require_defined(self, opened: "OpenedHead", split: str) -> None:
        """Nothing, if what was asked for can be had of a split: before anything is embedded.

        Raises:
            ManifestError: If the split has no usable pair.
            MetricError: If an extra is undefined for it.
        """
        from muse.head.bootstrap import require_clusters
        from muse.head.data import select_split
        from muse.head.post_processing import require_one_caption_each

        selection = select_split(opened.store, split)
        num_videos, num_captions = len(selection.video_rows_V), len(selection.caption_rows_Q)
        if self.resampling is not None:
            require_clusters(num_videos, num_queries=num_captions)
        if "dual-softmax" in self.post:
            require_one_caption_each(num_captions, num_videos)

    def of(self, evaluated: "Evaluated") -> FoundExtras:
        """What was asked for of an evaluated head.

        Raises:
            MuseError: If one is undefined for the split.
        """
        return FoundExtras(
            intervals=self.intervals([evaluated]), post_processed=self._post(evaluated)
        )

    def intervals(self, heads: "Sequence[Evaluated]") -> "RetrievalIntervals | None":
        """Of a head's numbers, or of the mean of several heads' on the same split.

        Raises:
            MetricError: If the split has only one video.
        """
        from muse.head.retrieval_intervals import retrieval_intervals

        if self.resampling is None:
            return None
        first = heads[0]
        rows = first.embedded.selection.caption_rows_Q
        return retrieval_intervals(
            [head.ranks for head in heads],
            video_of_caption_Q=first.embedded.video_of_caption_Q,
            resampling=self.resampling,
            ties=first.rules.ties.value,
            axis_of_caption_Q=[first.store.captions[row].axis for row in rows],
        )

    def _post(self, evaluated: "Evaluated") -> "tuple[PostProcessedNumbers, ...]":
        from muse.head.post_processing import needs_bank, post_processed
        from muse.head.training_bank import retrieval_of, training_bank

        opened, rules, bank = evaluated.opened, evaluated.rules, None
        if any(needs_bank(name) for name in self.post):
            split = evaluated.embedded.selection.split
            bank = training_bank(opened.store, opened.head, test_split=split, device=opened.device)
        test = retrieval_of(evaluated.embedded)
        return tuple(
            post_processed(name, test, bank, ties=rules.ties.value, v2t=rules.v2t.value)
            for name in self.post
        )


def asked_extras(
    *, interval: float | None, draws: int | None, post: str, has_page: bool
) -> AskedExtras:
    """What the flags of ``muse evaluate`` ask for.

    Raises:
        UsageError: If a value is out of range or unknown, or draws are asked of nothing.
    """
    from muse.errors import UsageError
    from muse.head.bootstrap import Resampling
    from muse.head.post_processing import parse_names

    if draws is not None and interval is None and not has_page:
        raise UsageError(f"--draws {draws}: of no interval. Add --interval 0.95, or --html FILE.")
    usual = Resampling()
    resampling = Resampling(
        level=usual.level if interval is None else interval,
        draws=usual.draws if draws is None else draws,
    )
    return AskedExtras(
        resampling=None if interval is None else resampling,
        page_resampling=resampling,
        post=parse_names(post) if post else (),
    )


def interval_text(interval: "Interval | None", *, sign: str = "") -> str:
    """`` [40.1, 46.3]``; nothing without one."""
    return f" [{interval.low:{sign}.1f}, {interval.high:{sign}.1f}]" if interval else ""


def print_post_rows(found: "tuple[PostProcessedNumbers, ...]") -> None:
    """A table of its own, under a line that says why."""
    from rich.table import Table

    from muse.cli.report import print_line, print_table
    from muse.head.post_processing import NEEDS

    if not found:
        return
    print_line(
        "Post-processed, not to be compared with plain numbers: other queries change these scores."
    )
    table = Table("scores", "direction", *_NUMBERS, "it needs")
    for one in found:
        for title, numbers in (
            ("text to video", one.text_to_video.as_json()),
            ("video to text", one.video_to_text.as_json()),
        ):
            cells = (f"{numbers[name]:.1f}" for name in _NUMBERS)
            table.add_row(one.name, title, *cells, NEEDS[one.name])
    print_table(table)


def write_ledger(
    file: Path, store: "FeatureStore", embedded: "Mapping[str, SplitEmbeddings]"
) -> None:
    """The parquet file of ``--ledger``, and a line that names it.

    Args:
        file: Appears whole.
        store: Where the texts and names are.
        embedded: The same captions and videos by the name of the head.
    """
    from muse.cli.report import print_line
    from muse.head.ledger import text_to_video_ledger
    from muse.head.ledger_file import NUM_ANSWERS, write_ledgers

    ledgers = {
        head: text_to_video_ledger(one.text_QD, one.video_VD, one.video_of_caption_Q, k=NUM_ANSWERS)
        for head, one in embedded.items()
    }
    selection = next(iter(embedded.values())).selection
    write_ledgers(file, store, selection, ledgers)
    print_line(f"ledger: {file}")
