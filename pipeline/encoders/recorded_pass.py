"""An encoder's forward pass over one batch after the other, recorded on a GPU.

A pass is some hundred kernels. To launch each takes the host longer than a GPU takes for it, the
more so while decoders want the same cores; and batches of an extraction have one shape. So the
second one's pass is recorded as a CUDA graph, which all that follow launch at once: the same
kernels, and the same bits. Knows nothing of how batches are put together.
"""

# Legend: B frames.

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muse.pipeline.encoders.base import Encoder

logger = logging.getLogger(__name__)

_Key = tuple[tuple[int, ...], tuple[str, ...]]  # the shape of frames, and the views


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recording:
    """A graph, and the memory that it reads and writes."""

    key: _Key
    graph: torch.cuda.CUDAGraph
    frames_BHWC: Tensor
    maps: dict[str, Tensor]

    def replayed(self, frames_BHWC: Tensor) -> dict[str, Tensor]:
        """Copies: the next replay writes to the same memory, and these may not be away by then."""
        self.frames_BHWC.copy_(frames_BHWC)
        self.graph.replay()
        return {view: tokens.clone() for view, tokens in self.maps.items()}


class ForwardPass:
    """The maps of batches as they are stored.

    Args:
        encoder: On the device.
        device: ``cpu`` or ``cuda``. On a CPU nothing is recorded.
    """

    def __init__(self, encoder: Encoder, *, device: str) -> None:
        self._encoder = encoder
        self._may_record = device == "cuda"
        self._last_key: _Key | None = None
        self._recording: _Recording | None = None

    def __call__(self, frames_BHWC: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
        """`Encoder.frame_maps` in float16, without gaps.

        Args:
            frames_BHWC: (B, size, size, 3) uint8 on the device.
            views: Of `muse.pipeline.views.encoded_views`.

        Raises:
            torch.OutOfMemoryError: If the pass does not fit.
        """
        key = (tuple(frames_BHWC.shape), tuple(views))
        is_second, self._last_key = key == self._last_key, key
        if self._recording is not None and self._recording.key != key:
            self._recording = None  # its memory is wanted for the new shape
        if self._recording is None and is_second and self._may_record:
            self._recording = self._recorded(frames_BHWC, key)
        if self._recording is not None:
            return self._recording.replayed(frames_BHWC)
        return self._maps(frames_BHWC, views)

    def _maps(self, frames_BHWC: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
        maps = self._encoder.frame_maps(frames_BHWC, views)
        return {view: tokens.to(torch.float16).contiguous() for view, tokens in maps.items()}

    def _recorded(self, frames_BHWC: Tensor, key: _Key) -> _Recording | None:
        """None, for good, where it can't be: a pass that makes the host wait, or has no room.

        A pass of this shape was made before: kernels are compiled, and libraries at hand.
        """
        graph, frames = torch.cuda.CUDAGraph(), frames_BHWC.clone()
        try:
            # "thread_local": what other threads of this process do on the GPU is not recorded.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                maps = self._maps(frames, key[1])
        except RuntimeError as error:  # out of memory is one, too
            logger.debug("the forward pass is not recorded: %s", error)
            self._may_record = False
            return None
        return _Recording(key=key, graph=graph, frames_BHWC=frames, maps=maps)
