"""A function in a child process that answers, crashes, exits, hangs or dies within an answer."""

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from unruly import act

from muse.errors import WorkerError
from muse.pipeline.child_process import ProcessDiedError, ProcessTimedOutError
from muse.pipeline.isolation import IsolatedFunction


@pytest.fixture
def isolated() -> Iterator[IsolatedFunction[str, int]]:
    function = IsolatedFunction(act, timeout_seconds=0.3)
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
        ("hang", ProcessTimedOutError, "no answer in 0.3 s"),
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


def test_a_child_that_can_not_import_the_function_is_no_item_s_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("only_in_this_process")
    exec("def function(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(WorkerError, match="can't be started"):
        IsolatedFunction(module.function, timeout_seconds=5)("item")


def test_a_child_that_died_between_two_calls_is_replaced(
    isolated: IsolatedFunction[str, int],
) -> None:
    os.kill(isolated("answer"), signal.SIGKILL)
    time.sleep(0.2)
    assert isolated("answer") > 0


def test_no_child_is_started_after_close(isolated: IsolatedFunction[str, int]) -> None:
    isolated.close()
    with pytest.raises(WorkerError, match="is ending"):
        isolated("answer")


@pytest.mark.slow
def test_a_hanging_child_ends_when_its_parent_is_killed() -> None:
    script = (
        "import unruly; from muse.pipeline.isolation import IsolatedFunction\n"
        "function = IsolatedFunction(unruly.act, timeout_seconds=60)\n"
        "print(function('answer'), flush=True); function('hang')"
    )
    folder = str(Path(__file__).parent)
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": folder},
    )
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _is_running(child_pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(child_pid)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
