"""Whether a method's scores know what they must not: the right answers, the gallery, other texts.

A score of a text and a video may depend on that text and that video alone. Published evaluators
broke this by accident: they used the diagonal, where the right answers are, or let videos and texts
of the test see each other. Random features show it, since nothing can be found there but by a leak.
Knows nothing of stores; a method is a function.
"""

# Legend: N pairs, Q captions, V videos, T frames, K tokens a frame, D width.

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muse.head.metrics import score_matrix_ranks
from muse.head.model import VideoEmbedder
from muse.head.similarity.mean_pool import cosine_similarity

ScoreFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(Q, D) texts, (V, T, K, D) tokens and (V, T) valid frames -> (Q, V) scores, higher is better."""

RECALLS_CHECKED = (1, 10)
VIDEOS_DROPPED = 3
FALSE_ALARM = 1e-6  # chance that a method without a leak is outside the limits, on each side
_BREAKS = (RuntimeError, ValueError, IndexError, AssertionError)  # what wrong shapes end in


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakCheck:
    """One question to a method."""

    name: str
    passed: bool
    found: str
    """What was seen, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakReport:
    """What `check_leaks` found."""

    checks: tuple[LeakCheck, ...]

    @property
    def leaks(self) -> list[str]:
        """Names of the checks that failed; none where the method is clean."""
        return [check.name for check in self.checks if not check.passed]

    def as_json(self) -> dict[str, Any]:
        """``leaks``, and under ``checks`` what each one saw."""
        checks = [
            {"name": check.name, "passed": check.passed, "found": check.found}
            for check in self.checks
        ]
        return {"leaks": self.leaks, "checks": checks}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Features:
    """Random texts and videos; text i belongs to video i by name only."""

    text_ND: Tensor
    tokens_NTKD: Tensor
    valid_NT: Tensor

    def gallery(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        return self.tokens_NTKD[videos], self.valid_NT[videos]


def score_function(head: VideoEmbedder) -> ScoreFunction:
    """The scores that `muse.head.evaluate` ranks: cosines with a head's vectors.

    Args:
        head: In evaluation mode.
    """

    def score(text_QD: Tensor, tokens_VTKD: Tensor, valid_VT: Tensor) -> Tensor:
        return cosine_similarity(text_QD, head.embed_videos(tokens_VTKD, valid_VT))

    return score


@torch.no_grad()
def check_leaks(
    score: ScoreFunction,
    *,
    dim: int,
    tokens_per_frame: int,
    num_frames: int = 4,
    num_pairs: int = 100,
    tolerance: float = 1e-4,
    seed: int = 0,
    device: torch.device | None = None,
) -> LeakReport:
    """Whether random features score at chance, and each score depends on its pair alone.

    Args:
        score: The method; see `score_function` for a head's.
        dim: D of the features it is given.
        tokens_per_frame: K of them.
        num_frames: T of them; videos have 1 to T valid frames.
        num_pairs: N, more than `VIDEOS_DROPPED`.
        tolerance: By how much of the largest score a score may change with what stands beside it;
            a batch of another size rounds differently.
        seed: Of the features.
        device: Where the features are; the CPU if None.

    Raises:
        MetricError: If the scores of N texts and N videos are not (N, N), or not finite.
    """
    where = device or torch.device("cpu")
    features = _random_features((num_pairs, num_frames, tokens_per_frame, dim), seed, where)
    everything = torch.arange(num_pairs, device=where)
    fewer = everything[:-VIDEOS_DROPPED]
    moved = torch.randperm(num_pairs, generator=torch.Generator().manual_seed(seed)).to(where)
    others = everything[everything != num_pairs // 2]
    text_ND = features.text_ND
    whole_NN = score(text_ND, *features.gallery(everything))
    allowed = tolerance * (whole_NN.abs().max().item() or 1.0)

    def compare(name: str, texts: Tensor, videos: Tensor) -> LeakCheck:
        try:
            again = score(text_ND[texts], *features.gallery(videos))
        except _BREAKS as error:
            words = (str(error).splitlines() or [""])[0]
            return LeakCheck(name=name, passed=False, found=f"{type(error).__name__}: {words}")
        return _same(name, again, whole_NN[texts][:, videos], allowed=allowed)

    return LeakReport(
        checks=(
            *_at_chance(whole_NN),
            compare("smaller gallery", everything, fewer),
            compare("order of the gallery", everything, moved),
            compare("one text less", others, everything),
        )
    )


def chance_limits(num_queries: int, chance: float) -> tuple[int, int]:
    """The fewest and the most hits that so many queries have, but for `FALSE_ALARM` on each side.

    Binomial: queries of random features are independent, and their mean chance is that of the
    answers' places. Unequal chances, as of a video that is near to all texts, only narrow it.
    """
    probabilities = [
        math.comb(num_queries, hits) * chance**hits * (1 - chance) ** (num_queries - hits)
        for hits in range(num_queries + 1)
    ]
    fewest, most = 0, num_queries
    while math.fsum(probabilities[: fewest + 1]) < FALSE_ALARM:
        fewest += 1
    while math.fsum(probabilities[most:]) < FALSE_ALARM:
        most -= 1
    return fewest, most


def _random_features(
    shape: tuple[int, int, int, int], seed: int, device: torch.device
) -> _Features:
    """Tokens of a shape (N, T, K, D), and a text each; drawn on the CPU, alike for all devices."""
    num_pairs, num_frames, _, dim = shape
    generator = torch.Generator().manual_seed(seed)
    num_valid_N1 = torch.randint(1, num_frames + 1, (num_pairs, 1), generator=generator)
    valid_NT = torch.arange(num_frames) < num_valid_N1
    text_ND = F.normalize(torch.randn(num_pairs, dim, generator=generator), dim=-1)
    tokens_NTKD = torch.randn(shape, generator=generator) * valid_NT[:, :, None, None]
    return _Features(
        text_ND=text_ND.to(device),
        tokens_NTKD=tokens_NTKD.to(device),
        valid_NT=valid_NT.to(device),
    )


def _at_chance(scores_NN: Tensor) -> list[LeakCheck]:
    """Both directions, at each of `RECALLS_CHECKED`."""
    num_pairs = len(scores_NN)
    ranks = score_matrix_ranks(scores_NN, torch.arange(num_pairs, device=scores_NN.device))
    checks = []
    for title, found in (
        ("text to video", ranks.text_to_video),
        ("video to text", ranks.video_to_text),
    ):
        for k in RECALLS_CHECKED:
            hits = found.recall_at(k) * num_pairs / 100
            fewest, most = chance_limits(num_pairs, k / num_pairs)
            words = f"{hits:g} of {num_pairs} found; chance gives {fewest} to {most}"
            # Half a hit: ties share one.
            passed = fewest - 0.5 <= hits <= most + 0.5
            checks.append(LeakCheck(name=f"chance, {title} R@{k}", passed=passed, found=words))
    return checks


def _same(name: str, found_QV: Tensor, wanted_QV: Tensor, *, allowed: float) -> LeakCheck:
    if found_QV.shape != wanted_QV.shape:
        words = f"scores of shape {tuple(found_QV.shape)}, expected {tuple(wanted_QV.shape)}"
        return LeakCheck(name=name, passed=False, found=words)
    change = (found_QV - wanted_QV).abs().max().item()
    words = f"a score changes by up to {change:.2g}; rounding is allowed {allowed:.2g}"
    return LeakCheck(name=name, passed=change <= allowed, found=words)  # NaN is not
