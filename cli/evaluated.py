"""A head that is opened on a store and evaluated there: what the parts of ``muse evaluate`` share.

Knows nothing of flags' texts, tables or files.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse.cli.flags import ScanFlag, TiesFlag, V2TFlag, ViewFlag
from muse.cli.head_history import selected_on
from muse.cli.reencoded import store_of_head

if TYPE_CHECKING:
    import torch

    from muse.head.embeddings import SplitEmbeddings
    from muse.head.evaluate import RetrievalReport
    from muse.head.model import VideoEmbedder
    from muse.head.ranks import RetrievalRanks
    from muse.pipeline.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How ranks are counted."""

    ties: TiesFlag = TiesFlag.expected
    v2t: V2TFlag = V2TFlag.group


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedHead:
    """A head, the store as it reads it, and where it computes."""

    name: str
    """``mean-pool``, or the run's folder."""
    store: "FeatureStore"
    head: "VideoEmbedder"
    device: "torch.device"
    scan: str | None
    """The backend of the scan, as resolved; None for a head without one."""
    source_sha256: str = ""
    """Root of the store that its own was encoded from; empty where it was extracted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A head's numbers, and what they were made of."""

    opened: OpenedHead
    embedded: "SplitEmbeddings"
    ranks: "RetrievalRanks"
    report: "RetrievalReport"
    rules: Rules
    seconds: float
    """That embedding and ranking took."""

    @property
    def store(self) -> "FeatureStore":
        """What was read."""
        return self.opened.store


def open_head_on(
    store: str,
    head: str,
    *,
    view: ViewFlag | None,
    device: str,
    scan: ScanFlag,
    encoded: Path | None = None,
) -> OpenedHead:
    """A head by name or run folder on a store by its location; the flags' values as typed.

    Raises:
        MuseError: If one is not there, is damaged, or does not fit the other.
    """
    from muse.head.evaluate import open_head

    found = store_of_head(store, head, view, device=device, encoded=encoded)
    opened = found.store
    opened_head, where = open_head(
        head,
        opened,
        device=device,  # type: ignore[arg-type]  # checked by open_head
        scan=scan.value,
        any_view=view is not None,
        own_encoder=found.own_encoder,
    )
    return OpenedHead(
        name=head,
        store=opened,
        head=opened_head,
        device=where,
        scan=_resolved_scan(opened_head, scan, where),
        source_sha256=found.source_sha256,
    )


def evaluate_opened(opened: OpenedHead, split: str, rules: Rules) -> Evaluated:
    """The numbers of a split, its videos embedded and ranked once.

    Raises:
        ManifestError: If the split has no usable pair.
        MetricError: If an embedding is NaN or infinite.
    """
    from muse.head.embeddings import embed_split
    from muse.head.evaluate import report_of, split_ranks

    start = time.monotonic()
    embedded = embed_split(opened.store, opened.head, split=split, device=opened.device)
    ranks = split_ranks(embedded, v2t=rules.v2t.value)
    seconds = time.monotonic() - start
    report = report_of(
        opened.store,
        embedded,
        head_name=opened.name,
        ties=rules.ties.value,
        v2t=rules.v2t.value,
        ranks=ranks,
    )
    return Evaluated(
        opened=opened,
        embedded=embedded,
        ranks=ranks,
        report=dataclasses.replace(report, selected_on=selected_on(opened.name)),
        rules=rules,
        seconds=seconds,
    )


def _resolved_scan(head: "VideoEmbedder", scan: ScanFlag, where: "torch.device") -> str | None:
    from muse.head.model import RetrievalHead
    from muse.head.scan.select import resolve_backend

    config: Any = head.config if isinstance(head, RetrievalHead) else None
    if config is None or config.aggregator == "seq-transf":
        return None
    return resolve_backend(scan.value, where, d_state=config.d_state, d_conv=config.d_conv)
