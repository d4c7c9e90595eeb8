"""What has to be said of a head before its numbers: was it trained, or chosen, on this split?"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muse.head.selection import SelectionRecord


def remarks(head: str, split: str) -> list[str]:
    """A sentence for each reason not to trust a head's numbers on a split, the worst first.

    Args:
        head: A run's folder, or ``mean-pool``.
        split: What it is evaluated on.

    Raises:
        CheckpointError: If the folder is no run.
    """
    found = []
    if _trained_on(head, split):
        found.append(f"the head was trained on split {split!r}: these are not test numbers.")
    if _chosen_on(head, split):
        found.append(f"the head was selected on this split, {split!r}: its numbers are optimistic.")
    return found


def print_remarks(head: str, split: str) -> None:
    """`remarks`, as loud as they are."""
    from muse.cli.report import print_warning

    for remark in remarks(head, split):
        print_warning(remark)


def selected_on(head: str) -> str:
    """What the head's epoch was chosen on; empty where it is the last one's."""
    record = _selection(head)
    return record.name if record else ""


def _trained_on(head: str, split: str) -> bool:
    from muse.head.checkpoint import read_config
    from muse.head.evaluate import MEAN_POOL

    if head == MEAN_POOL:
        return False
    trained = read_config(Path(head)).train.get("split")  # an imported head has none
    return trained is not None and (trained == split or "all" in (trained, split))


def _chosen_on(head: str, split: str) -> bool:
    record = _selection(head)
    return record is not None and record.chose_on(split)


def _selection(head: str) -> "SelectionRecord | None":
    from muse.head.evaluate import MEAN_POOL
    from muse.head.selection import read_selection

    return None if head == MEAN_POOL else read_selection(Path(head))
