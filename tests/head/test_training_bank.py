import pytest
import torch
from memory_store import make_store, with_split

from muse.errors import UsageError
from muse.head.model import MeanPoolHead
from muse.head.training_bank import training_bank

CPU = torch.device("cpu")


def test_a_bank_is_every_training_pair_with_features() -> None:
    store = make_store(num_videos=10, num_test_videos=4, missing_videos=(2,))
    bank = training_bank(store, MeanPoolHead(), test_split="test", device=CPU)
    assert (len(bank.text_QD), len(bank.video_VD)) == (10, 5)
    assert bank.video_of_caption_Q.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_store_without_training_captions_has_no_bank() -> None:
    store = with_split(make_store(num_videos=6, num_test_videos=3), "val", num_videos=3)
    with pytest.raises(UsageError, match="no training captions"):
        training_bank(store, MeanPoolHead(), test_split="test", device=CPU)


@pytest.mark.parametrize("split", ["train", "all"])
def test_queries_that_are_tested_are_no_bank(split: str) -> None:
    with pytest.raises(UsageError, match="the queries that are tested"):
        training_bank(make_store(), MeanPoolHead(), test_split=split, device=CPU)
