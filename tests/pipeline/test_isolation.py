"""A function in a child process that answers, crashes, hangs, eats memory or is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from unruly import act, act_at_first, bytes_of_clip, crash, keep_90_mb

from muse.errors import WorkerError
from muse.pipeline.decoding.child_process import (
    ProcessDiedError,
    ProcessKilledError,
    ProcessOutOfMemoryError,
    ProcessTimedOutError,
)
from muse.pipeline.decoding.isolation import IsolatedFunction


@pytest.fixture
def isolated() -> Iterator[IsolatedFunction[str, int]]:
    function = IsolatedFunction(act, timeout_seconds=0.3)
    yield function
    function.close()


@pytest.fixture
def isolated_at_first() -> Iterator[IsolatedFunction[tuple[str, int, Path], int]]:
    """One that has served an item."""
    function = IsolatedFunction(act_at_first, timeout_seconds=0.3)
    function(("answer", 0, Path(os.devnull)))
    yield function
    function.close()


@pytest.fixture
def small() -> Iterator[IsolatedFunction[str, int]]:
    """One that may take 100 MB."""
    function = IsolatedFunction(act, timeout_seconds=20, memory_bytes=100_000_000)
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_children_that_were_replaced_leave_no_file_open(
    isolated: IsolatedFunction[str, int],
) -> None:
    def replaced() -> int:
        with pytest.raises(ProcessDiedError):
            isolated("exit")
        isolated("answer")
        return len(list(Path("/proc/self/fd").iterdir()))

    assert len({replaced() for _ in range(3)}) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc")
def test_memory_stays_as_it_is_over_many_answers() -> None:
    function = IsolatedFunction(bytes_of_clip, timeout_seconds=20)
    sizes = []
    for number in range(400):
        assert int(function(number)[-1]) == number % 256
        if number % 100 == 99:  # in MB, of this process and the child
            sizes.append((_resident(os.getpid()) + _resident(int(function(-1)[0]))) / 1e6)
    function.close()
    assert sizes[-1] - sizes[0] < 20  # an answer is 2.8 MB, and 300 came between


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


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


def test_a_crash_in_a_process_that_served_others_is_tried_again_in_a_fresh_one(
    isolated_at_first: IsolatedFunction[tuple[str, int, Path], int], tmp_path: Path
) -> None:
    counter = tmp_path / "attempts"
    assert isolated_at_first(("segfault", 1, counter)) > 0
    assert counter.stat().st_size == 2


@pytest.mark.slow
@pytest.mark.parametrize("action", ["segfault", "exit", "SIGABRT"])
def test_a_second_crash_is_the_item_s_own(
    isolated_at_first: IsolatedFunction[tuple[str, int, Path], int], tmp_path: Path, action: str
) -> None:
    counter = tmp_path / "attempts"
    with pytest.raises(ProcessDiedError):
        isolated_at_first((action, 9, counter))
    assert counter.stat().st_size == 2


@pytest.mark.slow
def test_a_crash_in_a_fresh_process_is_the_item_s_own(tmp_path: Path) -> None:
    counter = tmp_path / "attempts"
    with pytest.raises(ProcessDiedError):
        IsolatedFunction(act_at_first, timeout_seconds=9)(("segfault", 9, counter))
    assert counter.stat().st_size == 1


@pytest.mark.slow
def test_an_item_that_hangs_is_not_tried_again(
    isolated_at_first: IsolatedFunction[tuple[str, int, Path], int], tmp_path: Path
) -> None:
    counter = tmp_path / "attempts"
    with pytest.raises(ProcessTimedOutError):
        isolated_at_first(("hang", 9, counter))
    assert counter.stat().st_size == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_an_item_whose_process_somebody_killed_is_tried_three_times(
    isolated_at_first: IsolatedFunction[tuple[str, int, Path], int], tmp_path: Path, name: str
) -> None:
    assert isolated_at_first((name, 2, tmp_path / "twice")) > 0
    counter = tmp_path / "always"
    with pytest.raises(ProcessKilledError, match=f"ended by {name}") as caught:
        isolated_at_first((name, 9, counter))
    assert (caught.value.signal.name, counter.stat().st_size) == (name, 3)


def test_one_that_allocates_without_end_runs_out_of_memory_and_the_next_call_works(
    small: IsolatedFunction[str, int],
) -> None:
    with pytest.raises(ProcessOutOfMemoryError):
        small("allocate without end")
    assert small("keep 60 MB") > 0


@pytest.mark.slow
def test_memory_that_earlier_items_took_is_not_held_against_an_item(
    small: IsolatedFunction[str, int],
) -> None:
    assert small("keep 60 MB") != small("keep 60 MB")


def test_what_a_child_takes_as_it_gets_ready_is_none_of_an_item_s() -> None:
    small = IsolatedFunction(act, timeout_seconds=20, memory_bytes=100_000_000, prepare=keep_90_mb)
    assert small("keep 60 MB") > 0
    small.close()


@pytest.mark.slow
def test_a_child_that_crashes_as_it_gets_ready_is_no_item_s_fault() -> None:
    broken = IsolatedFunction(act, timeout_seconds=20, prepare=crash)
    with pytest.raises(WorkerError, match="can't be started"):
        broken("answer")
    broken.close()


@pytest.mark.slow
def test_a_crash_near_the_limit_of_memory_is_for_want_of_memory(
    small: IsolatedFunction[str, int],
) -> None:
    with pytest.raises(ProcessOutOfMemoryError, match=r"SIGSEGV when it had taken 0\.1 GB"):
        small("take 60 MB and crash")


@pytest.mark.slow
def test_a_crash_with_little_memory_is_a_crash(small: IsolatedFunction[str, int]) -> None:
    with pytest.raises(ProcessDiedError) as caught:
        small("segfault")
    assert not isinstance(caught.value, ProcessOutOfMemoryError)


@pytest.mark.slow
def test_a_child_outlives_the_thread_that_asked_for_it(
    isolated: IsolatedFunction[str, int],
) -> None:
    children: list[int] = []
    thread = threading.Thread(target=lambda: children.append(isolated("answer")))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert isolated("answer") == children[0]


def test_close_ends_a_call_of_another_thread_and_leaves_no_child() -> None:
    isolated = IsolatedFunction(act, timeout_seconds=60)
    child = isolated("answer")
    errors: list[type[BaseException]] = []
    thread = threading.Thread(target=lambda: errors.append(_error_of(isolated, "hang")))
    thread.start()
    time.sleep(0.1)
    isolated.close()
    thread.join(10)
    assert (errors, _is_running(child), thread.is_alive()) == ([WorkerError], False, False)


@pytest.mark.slow
def test_an_answer_that_nobody_waited_for_is_not_given_to_the_next_call(
    isolated: IsolatedFunction[str, int],
) -> None:
    child = isolated("answer")
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        isolated("hang")
    assert isolated("answer") != child


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _error_of(isolated: IsolatedFunction[str, int], action: str) -> type[BaseException]:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        isolated(action)
    return caught.type


@pytest.mark.slow
@pytest.mark.parametrize("action", ["hang", "hang and let no other thread run"])
def test_a_hanging_child_ends_when_its_parent_is_killed(action: str) -> None:
    script = (
        "import unruly; from muse.pipeline.decoding.isolation import IsolatedFunction\n"
        "function = IsolatedFunction(unruly.act, timeout_seconds=60)\n"
        "print(function('answer'), flush=True); "
        f"function({action!r})"
    )
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while _is_running(child_pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(child_pid)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
