"""Which pairs each batch of an epoch holds: decided by the seed and the epoch's number alone.

Knows nothing of files: a shard is a number that rows share.
"""

# Legend: P pairs of an epoch, Q captions and V videos of a split, B pairs in a batch.

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from muse.head.data import SplitSelection

Shuffle = Literal["full", "shards"]
Captions = Literal["all", "one"]

# Eight batches of 128: one of eight videos of the window is beside a pair as its negative. 0.6 GB
# of B/32's tokens of 12 frames, 4.9 GB of L/14's.
SHUFFLE_WINDOW = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOrder:
    """How an epoch's pairs are chosen and put in order."""

    batch_size: int
    """Pairs a batch."""
    seed: int
    """With the epoch's number it decides everything."""
    captions: Captions = "all"
    """``all``: every pair once an epoch, such as MSR-VTT's 180,000, as CLIP4Clip and MUSE do with
    ``--expand_msrvtt_sentences``. ``one``: one caption of each video, drawn anew each epoch, as
    they do without it."""
    shuffle: Shuffle = "full"
    """``full``: all orders are as likely, and a batch's videos lie anywhere in the store.

    ``shards``: shards in random order, their pairs spread over a window of shards that moves along;
    see `windowed_order`, also for what it costs."""
    window_shards: int = 1
    """W, shards that are in use at a time where ``shuffle`` is ``shards``."""
    shard_size: int = 1
    """Rows of the store that are a shard."""


def epoch_batches(
    selection: SplitSelection, order: PairOrder, *, epoch: int
) -> list[NDArray[np.intp]]:
    """The pairs of each batch of an epoch, in order.

    What does not fill a batch is left out, as in the published code, unless nothing does: a set
    smaller than a batch is one batch.

    Args:
        selection: What there is.
        order: How it is put in order.
        epoch: Counted from 0.

    Returns:
        Arrays of ``batch_size`` places in ``selection.caption_rows_Q``, none twice.
    """
    places_P = np.arange(len(selection.caption_rows_Q))
    if order.captions == "one":
        places_P = one_caption_each(selection.video_of_caption_Q, seed=order.seed, epoch=epoch)
    if order.shuffle == "full":
        order_P = full_order(len(places_P), seed=order.seed, epoch=epoch)
    else:
        rows_P = selection.video_rows_V[selection.video_of_caption_Q[places_P]]
        order_P = windowed_order(
            rows_P // order.shard_size,
            window_shards=order.window_shards,
            seed=order.seed,
            epoch=epoch,
        )
    return _in_batches(places_P[order_P], order.batch_size)


def full_order(num_pairs: int, *, seed: int, epoch: int) -> NDArray[np.intp]:
    """(P,) the numbers from 0 to ``num_pairs`` - 1, every order as likely as any other."""
    return np.random.default_rng([seed, epoch]).permutation(num_pairs)


def windowed_order(
    shard_of_pair_P: NDArray[np.intp], *, window_shards: int, seed: int, epoch: int
) -> NDArray[np.intp]:
    """(P,) places of pairs, those that follow each other from few shards.

    The shards lie on a circle in a random order. A pair comes somewhere in the W places that begin
    at its shard's, each as likely, so that at any time W shards are in use, also at the epoch's
    start: a shard enters, its captions are used up, and it is left. The circle is cut at the
    epoch's start, so the W shards in use there are read twice; with W or fewer shards all orders
    are as likely as any other.

    What it costs: the negatives of a pair come from the W shards in use, never from the rest of
    the epoch, and videos that were listed side by side meet in a batch more often.
    """
    rng = np.random.default_rng([seed, epoch])
    shards, shard_number_P = np.unique(shard_of_pair_P, return_inverse=True)
    place_of_shard = rng.permutation(len(shards))
    delay_P = min(window_shards, len(shards)) * rng.random(len(shard_of_pair_P))
    time_P = (place_of_shard[shard_number_P] + delay_P) % len(shards)
    return np.argsort(time_P, kind="stable")


def one_caption_each(
    video_of_caption_Q: NDArray[np.intp], *, seed: int, epoch: int
) -> NDArray[np.intp]:
    """(V,) a place in ``video_of_caption_Q`` of each video, each of its captions as likely."""
    rng = np.random.default_rng([seed, epoch, 1])  # another stream than the order's
    order_Q = rng.permutation(len(video_of_caption_Q))
    _, first_V = np.unique(video_of_caption_Q[order_Q], return_index=True)
    return order_Q[first_V]


def _in_batches(places_P: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    num_batches = max(1, len(places_P) // batch_size)
    return [places_P[i * batch_size : (i + 1) * batch_size] for i in range(num_batches)]
