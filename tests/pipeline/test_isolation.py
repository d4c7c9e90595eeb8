"""A function in a child process that answers, crashes, exits, hangs or dies within an answer."""

import os
import signal
from collections.abc import Iterator

import pytest
from unruly import act

from muse.pipeline.isolation import IsolatedFunction, ProcessDiedError, ProcessTimedOutError


@pytest.fixture
def isolated() -> Iterator[IsolatedFunction[str, int]]:
    function = IsolatedFunction(act, timeout_seconds=0.5)
    yield function
    function.close()


def test_the_function_runs_in_another_process(isolated: IsolatedFunction[str, int]) -> None:
    assert isolated("answer") != os.getpid()


def test_the_child_is_kept_between_calls(isolated: IsolatedFunction[str, int]) -> None:
    assert isolated("answer") == isolated("answer")


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        ("segfault", ProcessDiedError, "ended by SIGSEGV"),
        ("exit", ProcessDiedError, "ended with code 7"),
        ("hang", ProcessTimedOutError, "no answer in 0.5 s"),
        ("die within the answer", ProcessDiedError, "ended with code 0"),
    ],
)
def test_a_child_that_gives_no_answer_is_an_error_and_the_next_call_works(
    isolated: IsolatedFunction[str, int], action: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        isolated(action)
    assert isolated("answer") > 0


def test_a_child_that_hangs_is_killed(isolated: IsolatedFunction[str, int]) -> None:
    child = isolated("answer")
    with pytest.raises(ProcessTimedOutError):
        isolated("hang")
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_close_ends_the_child(isolated: IsolatedFunction[str, int]) -> None:
    child = isolated("answer")
    isolated.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_ctrl_c_does_not_end_the_child(isolated: IsolatedFunction[str, int]) -> None:
    child = isolated("answer")
    os.kill(child, signal.SIGINT)
    assert isolated("answer") == child


def test_close_without_a_child_does_nothing() -> None:
    IsolatedFunction(act, timeout_seconds=1.0).close()
