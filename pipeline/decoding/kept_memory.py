"""Freed memory that a process keeps for its next video.

A clip's frames are megabytes, and so is what libav holds of a video. glibc gives both back to the
system as they are freed, and has each page zeroed when it is asked for again: 500 faults a clip.
"""

import ctypes
import functools
import platform

# Numbers of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 1 << 26
"""Freed memory at the end of the heap, beyond which it is given back."""
_LARGE_BYTES = 1 << 25
"""From here on a block is mapped, and given back when it is freed: the most that glibc allows."""


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep up to 64 MiB of what it frees; again it does nothing.

    Returns:
        Whether it does: of glibc alone it can be asked.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_TRIM_THRESHOLD: _KEPT_BYTES, _M_MMAP_THRESHOLD: _LARGE_BYTES}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
