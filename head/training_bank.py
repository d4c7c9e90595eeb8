"""The training captions and videos as one head sees them: the bank of `muse.head.post_processing`.

Knows nothing of what the bank is for.
"""

import torch

from muse.errors import UsageError
from muse.head.data import ALL_SPLITS, select_split
from muse.head.embeddings import SplitEmbeddings, embed_selection
from muse.head.model import VideoEmbedder
from muse.head.post_processing import Retrieval
from muse.pipeline.store import FeatureStore

BANK_SPLIT = "train"


def retrieval_of(embedded: SplitEmbeddings) -> Retrieval:
    """The vectors of a split without where they are from."""
    return Retrieval(
        text_QD=embedded.text_QD,
        video_VD=embedded.video_VD,
        video_of_caption_Q=embedded.video_of_caption_Q,
    )


def training_bank(
    store: FeatureStore, head: VideoEmbedder, *, test_split: str, device: torch.device
) -> Retrieval:
    """Every usable pair of split ``train``, each video embedded once: as long as its videos take.

    Args:
        store: Where they are.
        head: In evaluation mode, on ``device``.
        test_split: What the bank is for.
        device: Where the batches go.

    Raises:
        ManifestError: If no training pair has features.
        UsageError: If there are no training captions, or they are what is tested.
    """
    if test_split in (BANK_SPLIT, ALL_SPLITS):
        raise UsageError(
            f"split {test_split!r}: the bank would hold the queries that are tested. Evaluate "
            "another split, or leave inverted-softmax and qb-norm out."
        )
    if not any(caption.split == BANK_SPLIT for caption in store.captions):
        raise UsageError(
            f"no training captions: inverted-softmax and qb-norm need a bank, and the store has no "
            f"captions of split {BANK_SPLIT!r}. Extract them too, or leave both out."
        )
    selection = select_split(store, BANK_SPLIT)
    return retrieval_of(embed_selection(store, head, selection, device=device))
