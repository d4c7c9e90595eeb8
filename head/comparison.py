"""Two heads on the same captions and videos: how far apart, and whether chance explains it.

A difference is the first head's number minus the second's. Its interval is of the same draws for
both (`muse.head.bootstrap`), its p value of sign flips (`muse.head.permutation`), both with a
video's captions together. Each p value is of one number alone: nothing is corrected for looking at
several. Knows nothing of how a head makes its vectors.
"""

# Legend: Q queries, S statistics.

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from muse.errors import IncompatibleStoreError
from muse.head import metrics
from muse.head.bootstrap import (
    Interval,
    Resampling,
    hits_at,
    percentile_interval,
    resampled_numbers,
)
from muse.head.data import SplitSelection
from muse.head.embeddings import SplitEmbeddings
from muse.head.metrics import Ranks
from muse.head.permutation import sign_flip_p_values
from muse.pipeline.store import FeatureStore

RECALLS = (1, 5, 10)
NAMES = (*(f"R@{k}" for k in RECALLS), "MnR")
Verdict = Literal["better", "worse", "no difference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRanks:
    """Where the right answers stand for one head, and on what."""

    head: str
    protocol: str
    store_sha256: str
    """All that is committed of the store; equal for two views of it, and for what was encoded
    from it."""
    selection: SplitSelection
    text_to_video: Ranks
    video_to_text: Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One number of two heads."""

    name: str
    """``R@1``, ``R@5``, ``R@10`` in percent, or ``MnR`` in ranks."""
    first: float
    second: float
    interval: Interval
    """Of ``first`` minus ``second``."""
    p_value: float
    """Two-sided."""
    level: float
    """Of the interval; a p value of at most 1 - ``level`` is no chance."""

    @property
    def difference(self) -> float:
        """``first`` minus ``second``."""
        return self.first - self.second

    @property
    def verdict(self) -> Verdict:
        """Of the first head, by the p value; a lower mean rank is better."""
        if self.p_value > 1 - self.level or self.difference == 0:
            return "no difference"
        return "better" if (self.difference > 0) == (self.name != "MnR") else "worse"

    def as_json(self) -> dict[str, Any]:
        """The fields under their names, with difference and verdict."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "interval": self.interval.as_json(),
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two heads, both directions."""

    first: str
    second: str
    protocol: str
    split: str
    num_videos: int
    num_captions: int
    num_videos_listed: int
    """Videos of the split; those without features are in no number."""
    num_captions_listed: int
    """Captions of the split."""
    text_to_video: tuple[Difference, ...]
    """In the order of `NAMES`."""
    video_to_text: tuple[Difference, ...]
    resampling: Resampling
    num_permutations: int
    tie_rule: str = field(default=metrics.TIE_RULE)
    v2t_rule: str = field(default=metrics.V2T_RULE)

    def as_json(self) -> dict[str, Any]:
        """The fields under their names; differences by the name of their number."""
        names = ("first", "second", "protocol", "split", "num_videos", "num_captions")
        directions = {"text_to_video": self.text_to_video, "video_to_text": self.video_to_text}
        return {
            **{name: getattr(self, name) for name in names},
            "num_videos_listed": self.num_videos_listed,
            "num_captions_listed": self.num_captions_listed,
            "tie_rule": self.tie_rule,
            "v2t_rule": self.v2t_rule,
            "bootstrap": self.resampling.as_json(),
            "permutations": self.num_permutations,
            **{
                direction: {one.name: one.as_json() for one in found}
                for direction, found in directions.items()
            },
        }


def head_ranks(
    store: FeatureStore, embedded: SplitEmbeddings, *, head_name: str, source_sha256: str = ""
) -> HeadRanks:
    """The ranks of a split that one head has embedded.

    Args:
        store: What it read.
        embedded: What it made of it.
        head_name: What the ranks call it.
        source_sha256: Root of the store that ``store`` was encoded from; empty: from none.

    Raises:
        MetricError: If an embedding is NaN or infinite.
    """
    ranks = metrics.retrieval_ranks(
        embedded.text_QD, embedded.video_VD, embedded.video_of_caption_Q
    )
    return HeadRanks(
        head=head_name,
        protocol=store.header.protocol,
        store_sha256=source_sha256 or store.root_sha256,
        selection=embedded.selection,
        text_to_video=ranks.text_to_video,
        video_to_text=ranks.video_to_text,
    )


def compare_heads(
    first: HeadRanks,
    second: HeadRanks,
    *,
    resampling: Resampling,
    num_permutations: int = 10_000,
) -> Comparison:
    """R@1, R@5, R@10 and MnR of two heads, with intervals and p values of the differences.

    Args:
        first: Of `head_ranks`.
        second: Of the same captions and videos of the same store.
        resampling: Of the intervals; its seed is that of the sign flips too.
        num_permutations: Sign flips of each p value.

    Raises:
        IncompatibleStoreError: If the heads were not measured on the same things.
        MetricError: If there is only one video.
        UsageError: If there are too few permutations.
    """
    require_same_queries(first, second)
    selection = first.selection
    num_videos = len(selection.video_rows_V)
    directions = (
        (first.text_to_video, second.text_to_video, selection.video_of_caption_Q),
        (first.video_to_text, second.video_to_text, np.arange(num_videos)),
    )
    to_video, to_text = (
        _differences(
            one, other, torch.from_numpy(cluster_Q), resampling, num_permutations=num_permutations
        )
        for one, other, cluster_Q in directions
    )
    return Comparison(
        first=first.head,
        second=second.head,
        protocol=first.protocol,
        split=selection.split,
        num_videos=num_videos,
        num_captions=len(selection.caption_rows_Q),
        num_videos_listed=selection.num_videos_listed,
        num_captions_listed=selection.num_captions_listed,
        text_to_video=to_video,
        video_to_text=to_text,
        resampling=resampling,
        num_permutations=num_permutations,
    )


def require_same_queries(first: HeadRanks, second: HeadRanks) -> None:
    """Nothing, if two heads were measured on the same captions and videos of one store.

    Raises:
        IncompatibleStoreError: If not, naming what differs.
    """
    one, other = first.selection, second.selection
    same = {
        "stores": first.store_sha256 == second.store_sha256,
        "splits": one.split == other.split,
        "videos": np.array_equal(one.video_rows_V, other.video_rows_V),
        "captions": np.array_equal(one.caption_rows_Q, other.caption_rows_Q),
    }
    differing = [what for what, is_same in same.items() if not is_same]
    if differing:
        raise IncompatibleStoreError(
            f"{first.head} and {second.head} were measured on different {differing[0]}: only "
            "numbers of the same queries can be compared pair by pair. Evaluate both on one store "
            "and split."
        )


def _differences(
    first: Ranks,
    second: Ranks,
    cluster_Q: Tensor,
    resampling: Resampling,
    *,
    num_permutations: int,
) -> tuple[Difference, ...]:
    first_QS, second_QS = _statistics(first), _statistics(second)
    p_value_S = sign_flip_p_values(
        first_QS - second_QS, cluster_Q, num_permutations=num_permutations, seed=resampling.seed
    )
    drawn = resampled_numbers(first, cluster_Q, resampling=resampling)
    of_second = resampled_numbers(second, cluster_Q, resampling=resampling)
    means = zip(first_QS.mean(0).tolist(), second_QS.mean(0).tolist(), strict=True)
    return tuple(
        Difference(
            name=name,
            first=mean,
            second=other_mean,
            interval=percentile_interval(drawn[name] - of_second[name], resampling.level),
            p_value=p_value,
            level=resampling.level,
        )
        for name, (mean, other_mean), p_value in zip(NAMES, means, p_value_S.tolist(), strict=True)
    )


def _statistics(ranks: Ranks) -> Tensor:
    """(Q, S) float64 on the CPU, what each query has of the numbers of `NAMES`."""
    recalls = [100 * hits_at(ranks, k) for k in RECALLS]
    return torch.stack([*recalls, ranks.expected()], dim=1).cpu()
