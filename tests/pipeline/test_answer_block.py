"""Answers in memory that two ends share: what is received is what was sent, and stays it."""

import errno
import os
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

from muse.pipeline.decoding import answer_block
from muse.pipeline.decoding.answer_block import AnswerBlock

Ends = tuple[Connection, Connection]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = Pipe()
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def block() -> Iterator[AnswerBlock]:
    made = AnswerBlock.new()
    yield made
    made.close()


def sent(answer: Any, block: AnswerBlock, ends: Ends) -> Any:
    block.send(answer, ends[0])
    return block.receive(ends[1])


def test_arrays_and_all_else_come_back(block: AnswerBlock, ends: Ends) -> None:
    answer = (True, {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array([0.5]), "c": 7})
    is_true, found = sent(answer, block, ends)
    assert is_true
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["a"].dtype == np.uint8
    assert (found["b"].tolist(), found["c"]) == ([0.5], 7)


def test_an_answer_stays_when_the_next_one_is_written(block: AnswerBlock, ends: Ends) -> None:
    first = sent(np.array([1, 2, 3]), block, ends)
    second = sent(np.array([4, 5, 6]), block, ends)
    first += 10  # it may be changed, too
    assert (first.tolist(), second.tolist()) == ([11, 12, 13], [4, 5, 6])


def test_an_array_of_nothing_comes_back(block: AnswerBlock, ends: Ends) -> None:
    assert sent(np.zeros((0, 3)), block, ends).shape == (0, 3)


def test_a_shorter_answer_has_nothing_of_a_longer_one(block: AnswerBlock, ends: Ends) -> None:
    sent(np.ones(1000), block, ends)
    assert sent(np.zeros(3), block, ends).tolist() == [0, 0, 0]


def test_the_memory_of_a_large_answer_is_given_back(
    block: AnswerBlock, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_block, "_KEPT_BYTES", 100)
    sent(np.ones(10), block, ends)
    assert os.fstat(block._file).st_size == 80
    sent(np.ones(20), block, ends)
    assert os.fstat(block._file).st_size == 0
    assert sent(np.ones(5), block, ends).sum() == 5


def test_a_system_without_files_in_memory_sends_all_by_the_pipe(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    block = AnswerBlock.new()
    assert sent(np.array([1, 2]), block, ends).tolist() == [1, 2]
    block.share(ends[0], os.getpid())
    theirs = AnswerBlock.shared(ends[1])
    assert sent(np.array([3]), theirs, ends).tolist() == [3]


def test_a_child_writes_to_the_block_that_it_was_handed(block: AnswerBlock, ends: Ends) -> None:
    block.share(ends[0], os.getpid())
    theirs = AnswerBlock.shared(ends[1])
    theirs.send(np.array([7.5]), ends[1])
    assert block.receive(ends[0]).tolist() == [7.5]
    theirs.close()


def test_want_of_memory_is_told_before_anything_is_sent(
    block: AnswerBlock, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MemoryError, match="no memory for an answer"):
        block.send(np.ones(3), ends[0])
    assert not ends[1].poll()
