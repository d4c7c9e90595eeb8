"""A decoder beside a GPU that costs no video: what ends its process is tried again in software.

A driver may crash or hang where libav's own decoder does not, and whether a video is bad must not
depend on who decodes it.
"""

from muse.pipeline.decoding.decoder import DecodeLimits, DecodeTask, IsolatedDecoder
from muse.pipeline.records import Clip, Failure

_OF_A_PROCESS = frozenset({"crashed", "timeout", "out_of_memory"})


class GpuDecoder:
    """`IsolatedDecoder.on_gpu`, and one in software for what that can't do at all.

    Args:
        limits: Of a video in each of the two; one that hangs takes its time twice.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._on_gpu = IsolatedDecoder.on_gpu(limits)
        self._in_software = IsolatedDecoder(limits)  # no process before it is asked

    def __call__(self, task: DecodeTask) -> Clip | Failure:
        """The clip with its source, or why there is none, in software's words.

        Raises:
            WorkerError: If no child process can be started.
        """
        clip = self._on_gpu(task)
        if isinstance(clip, Failure) and clip.reason in _OF_A_PROCESS:
            return self._in_software(task)
        return clip

    def start(self) -> None:
        """Starts the process beside the GPU, which is opened.

        Raises:
            WorkerError: If none can be started.
        """
        self._on_gpu.start()

    def cpu_seconds(self) -> float | None:
        """CPU time that the process beside the GPU has used so far; None without one."""
        return self._on_gpu.cpu_seconds()

    def close(self) -> None:
        """Ends both processes."""
        self._on_gpu.close()
        self._in_software.close()
