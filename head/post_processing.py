"""Scores changed by other queries: dual softmax, inverted softmax, QB-Norm. None is a plain number.

Each divides an answer's score by how much other queries like that answer, which takes answers down
that are near to everything (hubs). That raises recalls by points without any training, and each
uses what a plain ranking does not: all test queries at once, or a bank of training queries. So the
results go into rows of their own and never beside plain ones. Knows nothing of heads or stores: it
is given vectors. After any of them only the order within a row has a meaning.
"""

# Legend: Q test captions, V test videos, A answers, D width, b queries of a block.

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from muse.errors import MetricError, UsageError
from muse.head.metrics import (
    BLOCK,
    TIE_RULE,
    V2T_RULES,
    DirectionNumbers,
    Ranks,
    rank_scores,
    require_rules_fit,
    retrieval_numbers,
    score_block,
)
from muse.head.ranks import RetrievalRanks, TieRule
from muse.head.tiles import V2TRule

PostProcessing = Literal["dual-softmax", "inverted-softmax", "qb-norm"]
DUAL_TEMPERATURE = 0.01  # on cosines, as EMCL; CAMoE's 1 on scores that CLIP's scale made 100 times
BETA = 20.0  # 1 / temperature on cosines, QB-Norm's default (Bogolin et al. 2022)
NEEDS: dict[PostProcessing, str] = {
    "dual-softmax": "all test queries at once, one caption a video",
    "inverted-softmax": "the training captions, and videos, as a bank",
    "qb-norm": "the training captions, and videos, as a bank",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryBank:
    """What a bank of queries makes of the answers, without its scores."""

    num_queries: int
    scale: float
    """1 / temperature of the sums."""
    log_sum_A: Tensor
    """(A,) float64, log Σ over the bank's queries of exp(scale · score)."""
    is_first_A: Tensor
    """(A,) bool, whether an answer has the highest score of some query: QB-Norm's activation set.
    All of a tie have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """Vectors of a split: the score of a pair is their dot product."""

    text_QD: Tensor
    video_VD: Tensor
    """Every video has a caption."""
    video_of_caption_Q: Tensor
    """(Q,) int64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PostProcessedNumbers:
    """The numbers of a retrieval whose scores were changed."""

    name: PostProcessing
    num_bank_captions: int
    """0: no bank but the test queries themselves."""
    num_bank_videos: int
    text_to_video: DirectionNumbers
    video_to_text: DirectionNumbers
    tie_rule: TieRule = TIE_RULE
    v2t_rule: str = V2T_RULES["group"]

    def as_json(self) -> dict[str, Any]:
        """Both directions, what was needed for them, and the temperature's inverse."""
        return {
            "needs": NEEDS[self.name],
            "scale": _scale(self.name),
            "num_bank_captions": self.num_bank_captions,
            "num_bank_videos": self.num_bank_videos,
            "tie_rule": self.tie_rule,
            "v2t_rule": self.v2t_rule,
            "text_to_video": self.text_to_video.as_json(),
            "video_to_text": self.video_to_text.as_json(),
        }


def parse_names(text: str) -> tuple[PostProcessing, ...]:
    """The names of a list such as ``dual-softmax,qb-norm``, each once.

    Raises:
        UsageError: If one is unknown.
    """
    known: tuple[PostProcessing, ...] = get_args(PostProcessing)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        wrong = ", ".join(unknown) or repr(text)
        raise UsageError(f"post {wrong}: expected {', '.join(known)}, separated by commas")
    return tuple(name for name in known if name in asked)


def query_bank(scores: Iterable[Tensor], *, scale: float) -> QueryBank:
    """The bank of queries whose scores of the answers come in blocks.

    Args:
        scores: (b, A) each, the same answers in the same order; at least one query.
        scale: 1 / temperature.
    """
    num_queries, log_sum_A, is_first_A = 0, torch.empty(0), torch.empty(0)
    for block_bA in scores:
        log_A = (scale * block_bA.double()).logsumexp(0)
        first_A = (block_bA == block_bA.amax(1, keepdim=True)).any(0)
        log_sum_A = torch.logaddexp(log_sum_A, log_A) if num_queries else log_A
        is_first_A = is_first_A | first_A if num_queries else first_A
        num_queries += len(block_bA)
    return QueryBank(
        num_queries=num_queries, scale=scale, log_sum_A=log_sum_A, is_first_A=is_first_A
    )


def dual_softmax(scores_bA: Tensor, test_queries: QueryBank) -> Tensor:
    """Scores times a softmax over all test queries, S ⊙ softmax_q(S / τ) · Q. Not a plain score.

    Needs every test query at once, which no search has, and assumes that each answer belongs to
    one query: that prior is where its gain comes from. CAMoE (Cheng et al. 2021, DSL at test);
    EMCL's code calls it inverted softmax.

    Args:
        scores_bA: (b, A) of some of the test queries.
        test_queries: `query_bank` of all of them.

    Returns:
        (b, A) float64.

    Raises:
        MetricError: If there are not as many queries as answers.
    """
    num_answers = scores_bA.shape[1]
    require_one_caption_each(test_queries.num_queries, num_answers)
    return scores_bA.double() * inverted_softmax(scores_bA, test_queries) * num_answers


def require_one_caption_each(num_queries: int, num_answers: int) -> None:
    """Nothing, if dual softmax is defined.

    Raises:
        MetricError: If there are not as many queries as answers.
    """
    if num_queries != num_answers:
        raise MetricError(
            f"dual-softmax: {num_queries} queries and {num_answers} answers. It is defined for one "
            "caption a video, each the only answer of the other. Leave it out, or evaluate a split "
            "with one caption a video."
        )


def inverted_softmax(scores_bA: Tensor, bank: QueryBank) -> Tensor:
    """exp(β S) / Σ over the bank of exp(β S), answer by answer. Not a plain score.

    Needs a bank of queries that are no test queries, such as the training captions. Smith et al.
    2017, with the bank of QB-Norm.

    Args:
        scores_bA: (b, A).
        bank: Of the same answers.

    Returns:
        (b, A) float64, above 0.
    """
    return (bank.scale * scores_bA.double() - bank.log_sum_A).exp()


def qb_norm(scores_bA: Tensor, bank: QueryBank) -> Tensor:
    """`inverted_softmax` in the rows whose best answer is also some bank query's. Not plain scores.

    The dynamic inverted softmax of QB-Norm (Bogolin et al. 2022, k = 1): other rows stay
    as they are, so that rows are on different scales. Needs a bank as `inverted_softmax` does.

    Args:
        scores_bA: (b, A).
        bank: Of the same answers.

    Returns:
        (b, A) float64.
    """
    is_best_bA = scores_bA == scores_bA.amax(1, keepdim=True)
    is_active_b1 = (is_best_bA & bank.is_first_A).any(1, keepdim=True)
    return torch.where(is_active_b1, inverted_softmax(scores_bA, bank), scores_bA.double())


_FUNCTIONS: dict[PostProcessing, Callable[[Tensor, QueryBank], Tensor]] = {
    "dual-softmax": dual_softmax,
    "inverted-softmax": inverted_softmax,
    "qb-norm": qb_norm,
}


def needs_bank(name: PostProcessing) -> bool:
    """Whether it needs training queries."""
    return name != "dual-softmax"


def post_processed(
    name: PostProcessing,
    test: Retrieval,
    bank: Retrieval | None = None,
    *,
    ties: TieRule = TIE_RULE,
    v2t: V2TRule = "group",
) -> PostProcessedNumbers:
    """The numbers of a retrieval under changed scores, in both directions.

    Text to video the bank is of its captions, video to text of its videos.

    Args:
        name: What changes the scores.
        test: What is ranked.
        bank: Training captions and videos; not read by dual softmax.
        ties: What a rank is worth where changed scores tie.
        v2t: What video to text ranks by them.

    Raises:
        MetricError: If it is undefined here: many captions a video, or no bank.
        UsageError: If ``ties`` says nothing of ``v2t``.
    """
    require_rules_fit(ties, v2t)
    if needs_bank(name) and bank is None:
        raise MetricError(f"{name}: no training captions. It needs {NEEDS[name]}.")
    queries = bank if bank is not None and needs_bank(name) else test
    ranks = RetrievalRanks(
        text_to_video=_text_to_video(name, test, queries),
        video_to_text=_video_to_text(name, test, queries, v2t=v2t),
    )
    to_video, to_text = retrieval_numbers(ranks, ties=ties)
    return PostProcessedNumbers(
        name=name,
        num_bank_captions=len(queries.text_QD) if needs_bank(name) else 0,
        num_bank_videos=len(queries.video_VD) if needs_bank(name) else 0,
        text_to_video=to_video,
        video_to_text=to_text,
        tie_rule=ties,
        v2t_rule=V2T_RULES[v2t],
    )


def _scale(name: PostProcessing) -> float:
    return BETA if needs_bank(name) else 1 / DUAL_TEMPERATURE


def _text_to_video(name: PostProcessing, test: Retrieval, queries: Retrieval) -> Ranks:
    found = []
    for start, scores_bV in _changed_blocks(name, test.text_QD, test.video_VD, queries.text_QD):
        right_b = test.video_of_caption_Q[start : start + len(scores_bV)]
        found.append(rank_scores(scores_bV, right_b))
    return _join(found)


def _video_to_text(
    name: PostProcessing, test: Retrieval, queries: Retrieval, *, v2t: V2TRule
) -> Ranks:
    """By each video's best caption after the change, among the groups' best or all captions."""
    found = []
    for start, scores_bQ in _changed_blocks(name, test.video_VD, test.text_QD, queries.video_VD):
        own_b = torch.arange(start, start + len(scores_bQ), device=scores_bQ.device)
        rank = _rank_in_groups if v2t == "group" else _rank_among_captions
        found.append(rank(scores_bQ, own_b, test))
    return _join(found)


def _rank_in_groups(scores_bQ: Tensor, own_b: Tensor, test: Retrieval) -> Ranks:
    best_bV = scores_bQ.new_full((len(scores_bQ), len(test.video_VD)), -torch.inf)
    group_bQ = test.video_of_caption_Q.expand_as(scores_bQ)
    best_bV.scatter_reduce_(1, group_bQ, scores_bQ, "amax")
    return rank_scores(best_bV, own_b)


def _rank_among_captions(scores_bQ: Tensor, own_b: Tensor, test: Retrieval) -> Ranks:
    is_own_bQ = test.video_of_caption_Q == own_b[:, None]
    best_b1 = scores_bQ.where(is_own_bQ, -torch.inf).amax(1, keepdim=True)
    is_equal_bQ = scores_bQ == best_b1
    return Ranks(
        num_better=(scores_bQ > best_b1).sum(1),
        num_equal=is_equal_bQ.sum(1),
        num_right=(is_equal_bQ & is_own_bQ).sum(1),
    )


def _changed_blocks(
    name: PostProcessing, query_QD: Tensor, answer_AD: Tensor, bank_BD: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """The first query of each block, and its (b, A) changed scores."""
    bank = query_bank((score for _, score in _score_blocks(bank_BD, answer_AD)), scale=_scale(name))
    for start, scores_bA in _score_blocks(query_QD, answer_AD):
        yield start, _rounded(_FUNCTIONS[name](scores_bA, bank))


def _score_blocks(query_QD: Tensor, answer_AD: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(query_QD), BLOCK):
        yield start, score_block(query_QD[start : start + BLOCK], answer_AD)


def _rounded(scores: Tensor) -> Tensor:
    """To the 24 bits of float32 at float64's range: equal pairs tie, small scores don't vanish.

    Dekker's splitting (1971): the product pushes the last 29 of 53 bits out.
    """
    product = scores * (2.0**29 + 1)
    return product - (product - scores)


def _join(blocks: list[Ranks]) -> Ranks:
    right = [block.num_right for block in blocks if block.num_right is not None]
    return Ranks(
        num_better=torch.cat([block.num_better for block in blocks]),
        num_equal=torch.cat([block.num_equal for block in blocks]),
        num_right=torch.cat(right) if right else None,
    )
