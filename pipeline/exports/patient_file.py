"""A file that never tells the library that writes it of a full disk, but whoever asks.

HDF5 crashes the process when a write fails (h5py's issue 914). So what the disk refuses is kept in
memory, where the library finds it again, until the writer looks and stops. Knows nothing of HDF5
beyond that.
"""

import io
import os
from pathlib import Path
from typing import Any


class PatientFile(io.RawIOBase):
    """A new file, open for reading and writing."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._place = self._end = 0
        self._refused: list[tuple[int, bytes]] = []
        self._error: OSError | None = None

    def check(self) -> None:
        """Returns if all that was written is in the file.

        Raises:
            OSError: What the system said when that failed first.
        """
        if self._error is not None:
            raise self._error

    def write(self, buffer: Any, /) -> int:
        """Writes at the place of `seek`; what is written after a refusal is kept in memory."""
        content, done = memoryview(buffer).cast("B"), 0
        while done < len(content) and self._error is None:
            try:
                done += os.pwrite(self._descriptor, content[done:], self._place + done)
            except OSError as error:
                self._error = error
        if done < len(content):
            self._refused.append((self._place + done, bytes(content[done:])))
        self._place += len(content)
        self._end = max(self._end, self._place)
        return len(content)

    def readinto(self, buffer: Any, /) -> int:
        """Reads at the place of `seek`."""
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self._end - self._place))
        found = bytearray(os.pread(self._descriptor, wanted, self._place).ljust(wanted, b"\0"))
        for place, content in self._refused:
            for_us = place - self._place
            first, last = max(for_us, 0), min(for_us + len(content), wanted)
            if first < last:
                found[first:last] = content[first - for_us : last - for_us]
        target[:wanted] = found
        self._place += wanted
        return wanted

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Sets the place of the next `write` or `readinto`."""
        self._place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[
            whence
        ] + offset
        return self._place

    def truncate(self, size: int | None = None, /) -> int:
        """Sets the length of the file."""
        self._end = self._place if size is None else size
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self._error = self._error or error
        return self._end

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Closes the file, once."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)
