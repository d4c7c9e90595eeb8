"""What every test of the head shares: a seed of its own, and the rule for CUDA tests."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def cuda() -> torch.device:
    """The CUDA device; without one the test is skipped, or fails under MUSE_REQUIRE_CUDA=1."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("MUSE_REQUIRE_CUDA") == "1":
        pytest.fail("MUSE_REQUIRE_CUDA=1, but torch sees no CUDA device")
    pytest.skip("no CUDA device (MUSE_REQUIRE_CUDA=1 turns this into a failure)")
