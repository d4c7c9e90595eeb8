"""What every test of the head shares: a seed of its own."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
