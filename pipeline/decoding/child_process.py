"""One child process that calls a function on what it is sent, within a limit of memory.

Tells how a child ended: by its own fault, for want of memory, or by somebody's signal. Knows
nothing of retries (`muse.pipeline.decoding.isolation`) nor of videos.
"""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from muse.pipeline.decoding.answer_block import AnswerBlock
from muse.pipeline.decoding.kept_memory import keep_freed_memory

_START_SECONDS = 120.0
_JOIN_SECONDS = 5.0
_ORPHAN_POLL_SECONDS = 1.0
_MEMORY_POLL_SECONDS = 0.05  # a look takes 0.2 ms; at 3 GB/s a child gains 150 MB between two
_NEAR_LIMIT = 0.5  # a vector that doubles fails to grow from half its limit
_FOREIGN_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_Starts = queue.SimpleQueue[tuple[BaseProcess, "Future[None]"]]
Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessDiedError(Exception):
    """The child ended before it answered; the message says by which signal or code."""


class ProcessOutOfMemoryError(ProcessDiedError):
    """Memory ran out in the child."""


class ProcessKilledError(ProcessDiedError):
    """The child was ended by a signal that no code of its own raises, and that this class did
    not send: somebody's ``kill``, or the kernel's OOM killer.

    Attributes:
        signal: Which one.
    """

    def __init__(self, message: str, *, signal: signal.Signals) -> None:
        super().__init__(message)
        self.signal = signal


class ProcessTimedOutError(Exception):
    """The child did not answer in time."""


class ChildProcess(Generic[Item, Result]):
    """A started child that has imported the function and waits for items.

    Args:
        function: Importable by name, since the child starts afresh. Of errors it may raise
            `MemoryError` only.
        memory_bytes: What it may take on top of what it has when it is ready.
        prepare: Called there after the imports, before it is ready.

    Raises:
        ProcessDiedError: If it ends before it is ready.
        OSError: If it can't be started, or is not ready in time.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        *,
        memory_bytes: int | None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        # "spawn": a fork of a process that runs torch and Ray threads may deadlock.
        context = multiprocessing.get_context("spawn")
        self._memory_bytes = memory_bytes
        self._connection, theirs = context.Pipe()
        self._block = AnswerBlock.new()
        self._process = context.Process(
            target=_serve, args=(function, theirs, memory_bytes, os.getpid(), prepare), daemon=True
        )
        self._idle_bytes = 0
        self._peak_bytes = 0
        self.num_asked = 0
        """Items it was sent, answered or not."""
        self.cpu_seconds = 0.0
        """CPU time that it had used when it was ready, or last answered."""
        try:
            _start(self._process)
            theirs.close()
            self._share_block()
            if not self._connection.poll(_START_SECONDS):
                raise TimeoutError(f"no sign of life in {_START_SECONDS:g} s")
            self._idle_bytes, self.cpu_seconds = self._received(self._connection.recv)
        except BaseException:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        """False if it ended meanwhile."""
        return self._process.is_alive()

    @property
    def taken_bytes(self) -> int:
        """The most memory it was seen to have for the last item, on top of what it began with."""
        return max(0, self._peak_bytes - self._idle_bytes)

    @property
    def is_near_limit(self) -> bool:
        """True if that was half of what it may take, or more."""
        return self._memory_bytes is not None and (
            self.taken_bytes >= _NEAR_LIMIT * self._memory_bytes
        )

    def ask(self, item: Item, *, timeout_seconds: float) -> Result:
        """What the function gives for an item. After any error the child has to be ended.

        Raises:
            ProcessTimedOutError: If there is no answer in time.
            ProcessOutOfMemoryError: If memory ran out, or the child crashed when it had taken half
                of what it may: libraries that fail to allocate seldom say so.
            ProcessKilledError: If somebody else ended it.
            ProcessDiedError: If it crashed.
        """
        self.num_asked += 1
        self._peak_bytes = 0
        with self._told_apart():
            self._connection.send(item)
            self._wait(timeout_seconds)
        answer = self._received(lambda: self._block.receive(self._connection))
        is_answered, result, self.cpu_seconds = answer
        if not is_answered:
            raise ProcessOutOfMemoryError("memory ran out")
        given: Result = result
        return given

    def end(self) -> None:
        """Kills it, whatever it does."""
        if self._process.pid is not None:
            self._process.kill()
            # One that waits for a dead file server can't be killed: it is left behind.
            self._process.join(_JOIN_SECONDS)
        self._connection.close()
        self._block.close()

    def kill(self) -> None:
        """Makes an `ask` of another thread return; the child still has to be ended."""
        self._process.kill()
        self._process.join(_JOIN_SECONDS)

    def _wait(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            looks = self._memory_bytes is not None
            if self._connection.poll(min(left, _MEMORY_POLL_SECONDS) if looks else left):
                return
            self._peak_bytes = max(self._peak_bytes, _data_bytes(self._process.pid))
        raise ProcessTimedOutError(f"no answer in {timeout_seconds:g} s")

    def _share_block(self) -> None:
        with self._told_apart():
            self._block.share(self._connection, self._process.pid or 0)

    def _received(self, receive: Callable[[], Any]) -> Any:
        with self._told_apart():
            return receive()

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        """A broken pipe as the error that says why it broke."""
        try:
            yield
        except (EOFError, OSError) as error:  # OSError: it died within an answer
            self._process.join(_JOIN_SECONDS)
            raise self._death() from error

    def _death(self) -> ProcessDiedError:
        code = self._process.exitcode
        if code is not None and -code in _FOREIGN_SIGNALS:
            return ProcessKilledError(_ending(code), signal=signal.Signals(-code))
        if self.is_near_limit:
            return ProcessOutOfMemoryError(
                f"memory ran out: {_ending(code)} when it had taken {self.taken_bytes / 1e9:.1f} GB"
            )
        return ProcessDiedError(_ending(code))


def _start(process: BaseProcess) -> None:
    """Starts it from a thread that lasts as long as this process.

    The kernel ends a child with the *thread* that started it (PR_SET_PDEATHSIG in prctl(2)), and
    threads of a pool end before their process does.
    """
    started: Future[None] = Future()
    _starts(os.getpid()).put((process, started))
    started.result()


@functools.cache
def _starts(pid: int) -> _Starts:
    """The queue of that thread; by process id, since a fork has the queue and not the thread."""
    starts: _Starts = queue.SimpleQueue()
    threading.Thread(target=_start_all, args=(starts,), name=f"starter-{pid}", daemon=True).start()
    return starts


def _start_all(starts: _Starts) -> None:
    while True:
        process, started = starts.get()
        try:
            process.start()
        except Exception as error:  # noqa: BLE001  # raised again by who waits for it
            started.set_exception(error)
        else:
            started.set_result(None)
        del process, started  # the child belongs to who asked for it


def _serve(
    function: Callable[[Item], Result],
    connection: Connection,
    memory_bytes: int | None,
    parent_pid: int,
    prepare: Callable[[], object] | None,
) -> None:
    # Ctrl-C goes to the whole process group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(parent_pid)
    keep_freed_memory()
    block = AnswerBlock.shared(connection)
    if prepare is not None:
        prepare()
    idle_bytes = _data_bytes(os.getpid())
    if memory_bytes is not None:
        _limit_memory(idle_bytes + memory_bytes)
    connection.send((idle_bytes, time.process_time()))
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            _answer(function, connection, block)


def _answer(function: Callable[[Item], Result], connection: Connection, block: AnswerBlock) -> None:
    item = connection.recv()
    try:
        result = function(item)
        block.send((True, result, time.process_time()), connection)
        return
    except MemoryError:
        result = None  # what its traceback holds is free after this line
    block.send((False, None, time.process_time()), connection)


def _limit_memory(max_bytes: int) -> None:
    # Not RLIMIT_AS, which also counts libraries and what allocators reserve and never touch.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes(pid: int | None) -> int:
    """What RLIMIT_DATA counts of a process; 0 where there is no such number."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return int(fields[5]) * resource.getpagesize()


def _end_with(parent_pid: int) -> None:
    """Lets this process end when its parent does, also while libav hangs."""
    if sys.platform == "linux":
        number = ctypes.c_ulong(signal.SIGKILL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    # Elsewhere, and if the parent ended before that line.
    threading.Thread(target=_poll_parent, args=(parent_pid,), daemon=True).start()


def _poll_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_ORPHAN_POLL_SECONDS)
    os._exit(1)


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "the process closed its end of the pipe"
    if exitcode < 0:
        return f"the process was ended by {signal.Signals(-exitcode).name}"
    return f"the process ended with code {exitcode}"
