"""Memory that a child process writes the arrays of an answer to, and its parent reads them from.

A pipe takes 200 kB at a time and wakes both ends for each: for the frames of one clip that is a
tenth of what decoding them takes. Here they are copied twice, and the pipe has the rest of the
answer. Written and read by system calls, not mapped: where memory runs out that is an error and no
signal. Knows nothing of what an answer is.
"""

import os
import pickle
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np

_PROTOCOL = 5  # the first that hands arrays on beside the rest
_KEPT_BYTES = 1 << 25  # a larger block is given back after its answer


class AnswerBlock:
    """One answer at a time, asked for over a connection.

    Args:
        descriptor: Of a file in memory; None where the system has none, and all goes by the pipe.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def new(cls) -> "AnswerBlock":
        """An empty one, which takes memory as it is written to."""
        has_any = hasattr(os, "memfd_create")
        return cls(os.memfd_create("muse-answer", os.MFD_CLOEXEC) if has_any else None)

    def share(self, connection: Connection, pid: int) -> None:
        """Hands it to a child, which calls `shared`."""
        connection.send(self._descriptor is not None)
        if self._descriptor is not None:
            send_handle(connection, self._descriptor, pid)

    @classmethod
    def shared(cls, connection: Connection) -> "AnswerBlock":
        """The parent's."""
        return cls(recv_handle(connection) if connection.recv() else None)

    def send(self, answer: Any, connection: Connection) -> None:
        """Sends an answer; the one before has to be received.

        Raises:
            MemoryError: If there is none for it; nothing is sent.
        """
        buffers: list[pickle.PickleBuffer] = []
        apart = buffers.append if self._descriptor is not None else None
        content = pickle.dumps(answer, protocol=_PROTOCOL, buffer_callback=apart)
        views = [buffer.raw() for buffer in buffers]
        self._write(views)
        connection.send((content, [view.nbytes for view in views]))

    def receive(self, connection: Connection) -> Any:
        """The answer, which shares no memory with the block."""
        content, sizes = connection.recv()
        arrays = self._read(sizes)
        return pickle.loads(content, buffers=arrays)

    def close(self) -> None:
        """Gives the memory back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _write(self, views: Sequence[memoryview]) -> None:
        place = 0
        for view in views:
            left = view
            while left:
                try:
                    written = os.pwrite(self._file, left, place)
                except OSError as error:
                    raise MemoryError(f"no memory for an answer: {error}") from error
                left, place = left[written:], place + written

    def _read(self, sizes: Sequence[int]) -> list[Any]:
        place, arrays = 0, []
        for size in sizes:
            array = np.empty(size, np.uint8)  # unlike a bytearray not zeroed first
            arrays.append(array)
            left = array.data
            while left:
                read = os.preadv(self._file, [left], place)
                if not read:
                    raise EOFError("the answer's memory is shorter than announced")
                left, place = left[read:], place + read
        if place > _KEPT_BYTES:
            os.ftruncate(self._file, 0)
        return arrays

    @property
    def _file(self) -> int:
        assert self._descriptor is not None, "closed, or there was never one"
        return self._descriptor
