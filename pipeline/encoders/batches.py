"""Batches of frames through an encoder: the next one goes in before the last one's maps are out.

    parts of clips -> upload -> resize -> encoder -> float16 -> download -> maps, in order

The device gets a batch while it computes the one before, so it does not stand still while the host
prepares and copies. A batch that does not fit into its memory is encoded in halves. Knows nothing
of videos, rows or stores: which frames lie where in a batch is for `muse.pipeline.shards` to say.
"""

# Legend: B frames of a batch, N of a part, H and W of a frame that is still to be resized.

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muse.errors import EncoderError
from muse.pipeline.encoders.base import Encoder, largest_bits, require_finite
from muse.pipeline.encoders.exact_resize import resized_levels
from muse.pipeline.encoders.pil_resize import Resize
from muse.pipeline.encoders.recorded_pass import ForwardPass
from muse.pipeline.encoders.transfers import Transfer, transfers_of

logger = logging.getLogger(__name__)

_VALUES_OF_RUN = 1 << 25  # pixels and channels: resizing takes sixteen bytes of each

Maps = dict[str, NDArray[np.float16]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FramePart:
    """Frames of one size that lie side by side in a batch."""

    first: int
    """The place of its first frame."""
    frames_NHWC: NDArray[np.uint8]
    """(N, H, W, 3) RGB: the encoder's input, or what `resize` reads."""
    resize: Resize | None = None
    """None where they are the encoder's input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameBatch:
    """A batch by its parts."""

    num_frames: int
    """B. Where no part lies are zeros."""
    parts: Sequence[FramePart]
    """At least one."""


class BatchEncoder:
    """An encoder, and the memory that batches go to it and come back in.

    Args:
        encoder: On the device.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, encoder: Encoder, *, device: str) -> None:
        self._encoder, self._device = encoder, device
        self._transfers = transfers_of(device)
        self._pass = ForwardPass(encoder, device=device)
        self._frames_per_pass: int | None = None  # known once a whole batch did not fit

    def maps_of(self, batches: Iterable[FrameBatch], views: Sequence[str]) -> Iterator[Maps]:
        """The float16 maps of each batch, in their order, as `Encoder.frame_maps` shapes them.

        On a GPU the next batch is sent before the maps of one are handed out, so two are under way
        at most, and the memory of two is taken, whatever their number.

        Args:
            batches: All of one size. Their arrays may change once the batch after is asked for.
            views: At least one of `muse.pipeline.views.encoded_views`.

        Yields:
            Arrays that are valid until the next ones are asked for: their memory is used again.

        Raises:
            EncoderError: If a value is not finite in float16, or one frame alone does not fit.
        """
        idle, under_way = deque(self._transfers), deque[Transfer]()
        try:
            for batch in batches:
                if not idle:
                    yield _maps_at(under_way[0], views)
                    idle.append(under_way.popleft())
                under_way.append(idle.popleft())
                self._send(batch, under_way[-1], views)
            while under_way:
                yield _maps_at(under_way[0], views)
                under_way.popleft()
        finally:  # nothing may still be copied when the memory is used for other batches
            for transfer in under_way:
                transfer.arrived()

    @torch.no_grad()
    def input_of(self, batch: FrameBatch) -> NDArray[np.uint8]:
        """(B, size, size, 3) RGB: what the encoder is given of a batch."""
        runs = _runs_of(batch.parts)
        levels_BHWC: NDArray[np.uint8] = (
            self._assembled(batch, runs, _uploaded(runs, self._transfers[0])).cpu().numpy()
        )
        return levels_BHWC

    @torch.no_grad()
    def _send(self, batch: FrameBatch, transfer: Transfer, views: Sequence[str]) -> None:
        """Gives the device all that it has to do for a batch."""
        runs = _runs_of(batch.parts)
        frames = functools.partial(self._assembled, batch, runs, _uploaded(runs, transfer))
        maps = self._fitting_maps(frames, batch.num_frames, views)
        bits = torch.stack([largest_bits(maps[view]) for view in views])  # a GPU looks at once
        transfer.download([*(maps[view] for view in views), bits])

    def _fitting_maps(
        self, assembled: Callable[[], Tensor], num_frames: int, views: Sequence[str]
    ) -> dict[str, Tensor]:
        """A batch's maps in passes of as many frames as fit; a size that did not is left for good.

        Raises:
            EncoderError: If one frame does not fit.
        """
        size = first_size = min(self._frames_per_pass or num_frames, num_frames)
        while (maps := self._maps_if_they_fit(assembled, views, size)) is None:
            if size == 1:
                raise EncoderError(
                    f"encoder {self._encoder.info.spec}: one frame does not fit into the memory of "
                    f"{self._device}. Free it of other programs, or choose a smaller encoder."
                )
            size = self._frames_per_pass = -(-size // 2)
        if size < first_size:
            logger.warning(
                "memory of %s: %d frames do not fit at once, so %d at a time are encoded from now "
                "on. Their last bits can differ from those of a run where all fit. Free memory of "
                "other programs, or make a new store with a lower --batch-videos.",
                self._device,
                first_size,
                size,
            )
        return maps

    def _maps_if_they_fit(
        self, assembled: Callable[[], Tensor], views: Sequence[str], size: int
    ) -> dict[str, Tensor] | None:
        """None if memory ran out. The error holds what filled it, so it ends here."""
        try:
            return self._maps_in_passes(assembled(), views, size)
        except torch.OutOfMemoryError:
            return None

    def _assembled(
        self, batch: FrameBatch, runs: Sequence[Sequence[FramePart]], sent: Sequence[Tensor]
    ) -> Tensor:
        """(B, size, size, 3) uint8 on the device."""
        side = self._encoder.info.preprocessing.size
        frames_BHWC = torch.zeros(
            (batch.num_frames, side, side, 3), dtype=torch.uint8, device=self._device
        )
        for run, sent_NHWC in zip(runs, sent, strict=True):
            resize, levels_NHWC = run[0].resize, sent_NHWC
            if resize is not None:
                levels_NHWC = resized_levels(sent_NHWC, resize).permute(0, 2, 3, 1)
            of_parts = torch.split(levels_NHWC, [len(part.frames_NHWC) for part in run])
            for part, levels in zip(run, of_parts, strict=True):
                frames_BHWC[part.first : part.first + len(levels)] = levels
        return frames_BHWC

    def _maps_in_passes(
        self, frames_BHWC: Tensor, views: Sequence[str], size: int
    ) -> dict[str, Tensor]:
        """Maps of all frames, ``size`` of them a pass; the last pass is filled up with zeros.

        So every pass has one shape, and a frame's bits follow from its place as ever.
        """
        num_frames, passes = len(frames_BHWC), []
        for first in range(0, num_frames, size):
            passes.append(self._pass(_filled_up(frames_BHWC[first : first + size], size), views))
        if len(passes) == 1:
            return passes[0]
        return {view: torch.cat([maps[view] for maps in passes])[:num_frames] for view in views}


def _uploaded(runs: Sequence[Sequence[FramePart]], transfer: Transfer) -> list[Tensor]:
    return transfer.upload([[part.frames_NHWC for part in run] for run in runs])


def _runs_of(parts: Sequence[FramePart]) -> list[list[FramePart]]:
    """Parts one behind the other that are resized alike, to be resized at once.

    A part for itself costs a GPU's host more than its arithmetic: thirty launches, of eight videos
    240. Large frames go alone, whose arithmetic takes memory.
    """
    runs: list[list[FramePart]] = []
    num_values = 0
    for part in parts:
        num_values += part.frames_NHWC.size
        if runs and num_values <= _VALUES_OF_RUN and _are_alike(runs[-1][0], part):
            runs[-1].append(part)
        else:
            runs.append([part])
            num_values = part.frames_NHWC.size
    return runs


def _are_alike(one: FramePart, other: FramePart) -> bool:
    shapes = one.frames_NHWC.shape[1:], other.frames_NHWC.shape[1:]
    return one.resize == other.resize and shapes[0] == shapes[1]


def _filled_up(frames_BHWC: Tensor, num_frames: int) -> Tensor:
    """With frames of zeros behind them, if there are fewer."""
    missing = num_frames - len(frames_BHWC)
    return (
        torch.nn.functional.pad(frames_BHWC, (0, 0) * 3 + (0, missing)) if missing else frames_BHWC
    )


def _maps_at(transfer: Transfer, views: Sequence[str]) -> Maps:
    """The maps that a transfer brings, once they are there and known to be finite."""
    *stored, largest = transfer.arrived()
    maps = dict(zip(views, stored, strict=True))
    for (view, tokens), bits in zip(maps.items(), largest, strict=True):
        require_finite(tokens, bits, what=f"view {view!r}")
    return maps
