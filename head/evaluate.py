"""Retrieval numbers of a head on a split, and the ranking of videos for one text.

Always float32, so that two machines differ by rounding only. Knows nothing of training.
"""

# Legend: Q captions, V videos, B videos at a time, D width.

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse.errors import MetricError
from muse.head import metrics
from muse.head.checkpoint import load_head
from muse.head.devices import Device, resolve_device
from muse.head.embeddings import SplitEmbeddings, embed_split
from muse.head.metrics import AxisNumbers, DirectionNumbers, numbers_by_axis, retrieval_numbers
from muse.head.model import MeanPoolHead, VideoEmbedder
from muse.head.ranks import RetrievalRanks, TieRule
from muse.head.scan.select import ScanBackend, resolve_backend
from muse.head.similarity.mean_pool import cosine_similarity
from muse.head.tiles import V2TRule
from muse.pipeline.header import EncoderInfo
from muse.pipeline.store import FeatureStore

MEAN_POOL = "mean-pool"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalReport:
    """What an evaluation found, and on what."""

    protocol: str
    """The store's label, such as ``MSVD test``."""
    split: str
    head: str
    """``mean-pool``, or the run's folder."""
    num_videos: int
    """V: the gallery of text to video, the queries of video to text."""
    num_captions: int
    """Q: the queries of text to video."""
    num_videos_listed: int
    """Videos of the split; those without features are in no number."""
    num_captions_listed: int
    """Captions of the split."""
    text_to_video: DirectionNumbers
    video_to_text: DirectionNumbers
    selected_on: str = ""
    """What the head's epoch was chosen on, such as ``val``; empty where none was chosen."""
    tie_rule: TieRule = metrics.TIE_RULE
    """What a rank is worth where scores tie, `muse.head.ranks`."""
    v2t_rule: str = metrics.V2T_RULE
    """What video to text ranks, in words of `muse.head.metrics.V2T_RULES`."""
    by_axis: dict[str, AxisNumbers] = field(default_factory=dict)
    """By what the captions ask for, each among all V videos; empty where no caption says."""

    def as_json(self) -> dict[str, Any]:
        """Percent and ranks under the field names, with the rules they follow.

        ``by_axis`` is there only where a caption has an axis, ``selected_on`` where an epoch was
        chosen: numbers on the split it names are optimistic.
        """
        content: dict[str, Any] = {
            "protocol": self.protocol,
            "split": self.split,
            "head": self.head,
            "num_videos": self.num_videos,
            "num_captions": self.num_captions,
            "num_videos_listed": self.num_videos_listed,
            "num_captions_listed": self.num_captions_listed,
            "tie_rule": self.tie_rule,
            "v2t_rule": self.v2t_rule,
            "text_to_video": self.text_to_video.as_json(),
            "video_to_text": self.video_to_text.as_json(),
        }
        if self.selected_on:
            content["selected_on"] = self.selected_on
        if self.by_axis:
            content["by_axis"] = {axis: found.as_json() for axis, found in self.by_axis.items()}
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedVideo:
    """One answer of a search."""

    place: int
    """Which of the videos searched, counted from 0."""
    cosine: float


def open_head(
    head: str,
    store: FeatureStore,
    *,
    device: Device = "auto",
    scan: ScanBackend = "auto",
    any_view: bool = False,
    own_encoder: EncoderInfo | None = None,
) -> tuple[VideoEmbedder, torch.device]:
    """A head by name or run folder, ready for a store, and the device it is on.

    Args:
        head: ``mean-pool``, or the folder of a run.
        store: The store it will read; it must hold the kind of features the head was made for.
        device: Where it computes.
        scan: The backend of its scan.
        any_view: Whether it may read another view than it was trained on.
        own_encoder: Of a finetuned run, what encoded the store; see `load_head`.

    Raises:
        CheckpointError: If the folder is no run or damaged.
        IncompatibleStoreError: If the store does not fit, naming the field.
        MuseError: If device or scan can't run here.
    """
    where = resolve_device(device)
    if head == MEAN_POOL:
        return MeanPoolHead(), where
    resolve_backend(scan, where)  # refused before anything is loaded
    loaded = load_head(
        Path(head),
        store,
        scan=scan,
        any_view=any_view,
        own_encoder=own_encoder,
    )
    return loaded.to(where), where


def evaluate(
    store: FeatureStore,
    head: VideoEmbedder,
    *,
    split: str = "test",
    head_name: str | None = None,
    device: torch.device | None = None,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> RetrievalReport:
    """Both directions of retrieval between the captions and the videos of a split, by axis too.

    Args:
        store: What can't be used of the split is counted in the report.
        head: Of `open_head`.
        split: Whose captions are the queries; ``all`` for every split.
        head_name: What the report calls the head; its own name if None.
        device: Of the head; the CPU if None.
        on_videos: Called after each batch with how many videos it had.

    Raises:
        ManifestError: If the split has no usable pair.
        MetricError: If an embedding is NaN or infinite.
    """
    embedded = embed_split(store, head, split=split, device=device, on_videos=on_videos)
    return report_of(store, embedded, head_name=head_name or head.name)


def split_ranks(embedded: SplitEmbeddings, *, v2t: V2TRule = "group") -> RetrievalRanks:
    """Where the right answers of a split stand, in both directions.

    Raises:
        MetricError: If an embedding is NaN or infinite.
    """
    return metrics.retrieval_ranks(
        embedded.text_QD, embedded.video_VD, embedded.video_of_caption_Q, v2t=v2t
    )


def report_of(
    store: FeatureStore,
    embedded: SplitEmbeddings,
    *,
    head_name: str,
    ties: TieRule = metrics.TIE_RULE,
    v2t: V2TRule = "group",
    ranks: RetrievalRanks | None = None,
) -> RetrievalReport:
    """The numbers of a split that one head has embedded.

    Args:
        store: What ``embedded`` was made from.
        embedded: Of `embed_split`.
        head_name: What the report calls the head.
        ties: What a rank is worth where scores tie.
        v2t: What video to text ranks.
        ranks: `split_ranks` of the same ``v2t``, where they are known already.

    Raises:
        MetricError: If an embedding is NaN or infinite.
        UsageError: If ``ties`` says nothing of ``v2t``.
    """
    metrics.require_rules_fit(ties, v2t)
    selection = embedded.selection
    ranks = ranks or split_ranks(embedded, v2t=v2t)
    to_video, to_text = retrieval_numbers(ranks, ties=ties)
    return RetrievalReport(
        protocol=store.header.protocol,
        split=selection.split,
        head=head_name,
        num_videos=len(embedded.video_VD),
        num_captions=len(embedded.text_QD),
        num_videos_listed=selection.num_videos_listed,
        num_captions_listed=selection.num_captions_listed,
        text_to_video=to_video,
        video_to_text=to_text,
        tie_rule=ties,
        v2t_rule=metrics.V2T_RULES[v2t],
        by_axis=numbers_by_axis(
            ranks.text_to_video,
            ranks.video_to_text,
            video_of_caption_Q=embedded.video_of_caption_Q,
            axis_of_caption_Q=[store.captions[row].axis for row in selection.caption_rows_Q],
            ties=ties,
        ),
    )


def rank_videos(text_D: Tensor, video_VD: Tensor, k: int) -> list[RankedVideo]:
    """The k videos nearest to a text, best first; equal ones in their own order.

    Args:
        text_D: (D,) text embedding, any length.
        video_VD: (V, D) unit vectors of `embed_videos`.
        k: At most this many.

    Raises:
        MetricError: If a cosine is NaN or infinite.
    """
    cosine_V = cosine_similarity(text_D[None].double(), video_VD.double())[0].float()
    if not cosine_V.isfinite().all():
        raise MetricError("search: a cosine is NaN or infinite; text or store is damaged.")
    best = cosine_V.sort(descending=True, stable=True)
    return [
        RankedVideo(place=place, cosine=cosine)
        for cosine, place in zip(best.values[:k].tolist(), best.indices[:k].tolist(), strict=True)
    ]
