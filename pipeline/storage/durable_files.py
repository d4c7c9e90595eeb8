"""The two steps of a file that survives a power cut: its bytes, then its name.

Knows nothing of stores.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

Content = bytes | memoryview | Sequence[bytes | memoryview]
"""What a file shall hold: one buffer, or several that follow each other."""


def write_new(path: Path, content: Content) -> None:
    """Writes a file of a new name, and returns once its bytes are on the disk. Its name may not be.

    Raises:
        FileExistsError: If there is one.
        OSError: If it can't be written whole.
    """
    buffers = [content] if isinstance(content, bytes | memoryview) else content
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for buffer in buffers:
            left = memoryview(buffer)
            left = left.cast("B") if left.nbytes else memoryview(b"")
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk: those made, replaced and removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network disks can't do it for folders; they have nothing better.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
