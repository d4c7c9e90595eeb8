"""Which queries a page shows: the clearest gains and losses between two heads, and a failure.

Ranks in, places of queries out; knows nothing of texts, pictures or HTML.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["found", "improved", "worsened", "missed"]
NUM_BEST = 2  # queries that improved most, or were found at once


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
) -> list[Example]:
    """A few of the queries: most improved, most worsened and worst, each of another video.

    Args:
        queries: Places of those to choose from.
        rank_Q: (Q,) ranks under the head that is looked at.
        against_Q: (Q,) ranks under the other; without one, queries that were found at once are
            shown in place of improved and worsened ones.
        video_of_query_Q: (Q,) each query's video.
    """
    places = np.asarray(queries, dtype=np.intp)
    gain_Q = np.zeros_like(rank_Q) if against_Q is None else against_Q - rank_Q
    wanted: list[tuple[Kind, NDArray[np.intp], int]] = [
        ("improved", _ordered(places[gain_Q[places] > 0], -gain_Q), NUM_BEST),
        ("worsened", _ordered(places[gain_Q[places] < 0], gain_Q), 1),
        ("missed", _ordered(places[rank_Q[places] > 1], -rank_Q), 1),
    ]
    if against_Q is None:
        wanted.insert(0, ("found", places[rank_Q[places] == 1], NUM_BEST))
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
