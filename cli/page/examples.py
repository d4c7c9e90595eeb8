"""Which queries a page shows: the clearest gains and losses between two heads, or failures.

Ranks in, places of queries out; knows nothing of texts, pictures or HTML.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["improved", "worsened", "missed", "drawn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A query that is shown."""

    query: int
    """Its place among all queries."""
    kind: Kind


def examples_among(
    queries: Sequence[int],
    *,
    rank_Q: NDArray[np.float64],
    against_Q: NDArray[np.float64] | None,
    video_of_query_Q: NDArray[np.intp],
    num_each: int,
    seed_of: str,
) -> list[Example]:
    """A few of the queries, each of another video.

    Of two heads, those that improved most, those that worsened most, and the worst one; of one
    alone, the worst ones and some drawn at random.

    Args:
        queries: Places of those to choose from.
        rank_Q: (Q,) ranks under the head that is looked at.
        against_Q: (Q,) ranks under the other; None where there is none.
        video_of_query_Q: (Q,) each query's video.
        num_each: At most so many of a kind.
        seed_of: What decides the draw: the same words, the same queries.
    """
    places = np.asarray(queries, dtype=np.intp)
    missed = _ordered(places[rank_Q[places] > 1], -rank_Q)
    wanted: list[tuple[Kind, NDArray[np.intp], int]]
    if against_Q is None:
        wanted = [("missed", missed, num_each), ("drawn", _shuffled(places, seed_of), num_each)]
    else:
        gain_Q = against_Q - rank_Q
        wanted = [
            ("improved", _ordered(places[gain_Q[places] > 0], -gain_Q), num_each),
            ("worsened", _ordered(places[gain_Q[places] < 0], gain_Q), num_each),
            ("missed", missed, 1),
        ]
    examples: list[Example] = []
    shown: set[int] = set()
    for kind, ordered, most in wanted:
        examples += [
            Example(query=query, kind=kind)
            for query in _of_new_videos(ordered, video_of_query_Q, shown, most)
        ]
    return examples


def _ordered(places: NDArray[np.intp], key_Q: NDArray[np.float64]) -> NDArray[np.intp]:
    """By the key, the least first; equal ones in their own order."""
    return places[np.argsort(key_Q[places], kind="stable")]


def _shuffled(places: NDArray[np.intp], seed_of: str) -> NDArray[np.intp]:
    digest = hashlib.sha256(seed_of.encode("utf-8", "replace")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(places)


def _of_new_videos(
    ordered: Iterable[int], video_of_query_Q: NDArray[np.intp], shown: set[int], most: int
) -> list[int]:
    """The first queries whose videos were not shown before; ``shown`` grows by theirs."""
    found: list[int] = []
    for query in ordered:
        video = int(video_of_query_Q[query])
        if len(found) == most:
            break
        if video not in shown:
            shown.add(video)
            found.append(int(query))
    return found
