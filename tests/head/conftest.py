"""What every test of the head shares: a seed of its own."""

from collections.abc import Iterator

import pytest
import torch

# Without a GPU torch.manual_seed notes its whole stack, for one that may come: 1 ms a test.
_seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _own_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        _seed(0)
        yield
