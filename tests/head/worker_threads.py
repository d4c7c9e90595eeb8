"""Workers as threads of one process: torch's collectives, replaced by an exchange in memory.

Their sums are made in the order of the ranks. The global random state is one for all: no dropout.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from muse.head.process_group import ProcessGroup

Result = TypeVar("Result")


class WorkerThreads:
    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = size
        self._rank = threading.local()
        self._barrier = threading.Barrier(size, timeout=30)
        self._given: list[Any] = [None] * size
        monkeypatch.setattr(torch.distributed, "all_gather", self._all_gather)
        monkeypatch.setattr(torch.distributed, "all_reduce", self._all_reduce)
        monkeypatch.setattr(torch.distributed, "all_gather_object", self._all_gather_object)

    def run(self, work: Callable[[ProcessGroup], Result]) -> list[Result]:
        """What each worker returns, in order."""

        def of_rank(rank: int) -> Result:
            self._rank.value = rank
            try:
                return work(ProcessGroup(rank=rank, size=self.size))
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(of_rank, range(self.size)))

    def _exchange(self, value: Any) -> list[Any]:
        self._given[self._rank.value] = value
        self._barrier.wait()
        given = list(self._given)
        self._barrier.wait()
        return given

    def _all_gather(self, gathered: list[Tensor], own: Tensor) -> None:
        for place, value in zip(gathered, self._exchange(own.clone()), strict=True):
            place.copy_(value)

    def _all_reduce(self, own: Tensor) -> None:
        own.copy_(sum(self._exchange(own.clone())))

    def _all_gather_object(self, gathered: list[Any], own: Any) -> None:
        gathered[:] = self._exchange(own)
