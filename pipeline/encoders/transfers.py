"""A batch's way to the device and back, beside what the device computes meanwhile.

A transfer carries one batch at a time. With two of them, one batch's pixels go up and another one's
maps come down while a third thing, the network, runs. Knows nothing of encoders or of videos.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfer(Protocol):
    """Carries one batch: `upload`, then `download`, then `arrived`, and from the start again."""

    def upload(self, runs: Sequence[Sequence[NDArray[np.uint8]]]) -> list[Tensor]:
        """Each run's arrays as one on the device; what is computed next may read them.

        Args:
            runs: Arrays of uint8 that differ in their lengths alone; they may change afterwards.

        Returns:
            Of each run its arrays one behind the other, until the next call.
        """
        ...

    def download(self, tensors: Sequence[Tensor]) -> None:
        """Lets them come to the host as soon as they are computed; does not wait.

        Args:
            tensors: On the device, of any shapes and types.
        """
        ...

    def arrived(self) -> list[NDArray[Any]]:
        """Waits for what was last sent and hands it out; valid until the next `download`."""
        ...


class NoTransfer:
    """For a device that computes in the host's memory."""

    def __init__(self) -> None:
        self._tensors: Sequence[Tensor] = ()

    def upload(self, runs: Sequence[Sequence[NDArray[np.uint8]]]) -> list[Tensor]:
        """Copies: arrays that come through Ray can't be written to, which torch wants."""
        return [torch.from_numpy(np.concatenate(run)) for run in runs]

    def download(self, tensors: Sequence[Tensor]) -> None:
        """They are there."""
        self._tensors = tensors

    def arrived(self) -> list[NDArray[Any]]:
        """Without waiting."""
        tensors, self._tensors = self._tensors, ()
        return [tensor.numpy() for tensor in tensors]


class PinnedTransfer:
    """To a GPU and back, through pinned memory that is used again, on a stream of its own.

    The stream and the one that computes wait for each other on the GPU; the host waits in
    `arrived` alone, asleep: the core is a decoder's meanwhile. So a batch's memory is free again
    when it has arrived, and not before.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._is_there: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._up_host = self._up_device = torch.empty(0, dtype=torch.uint8)
        self._down_host: list[Tensor] = []
        self._leaving: Sequence[Tensor] = ()

    def upload(self, runs: Sequence[Sequence[NDArray[np.uint8]]]) -> list[Tensor]:
        """In one copy; the current stream waits for it, the host does not."""
        num_bytes = sum(array.size for run in runs for array in run)
        self._require_room(num_bytes)
        host, place = self._up_host.numpy(), 0
        for array in itertools.chain.from_iterable(runs):
            np.copyto(host[place : place + array.size].reshape(array.shape), array)
            place += array.size
        with torch.cuda.stream(self._stream):
            self._up_device[:num_bytes].copy_(self._up_host[:num_bytes], non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._stream)
        sizes = [sum(array.size for array in run) for run in runs]
        sent = torch.split(self._up_device[:num_bytes], sizes)
        return [part.view(-1, *run[0].shape[1:]) for part, run in zip(sent, runs, strict=True)]

    def download(self, tensors: Sequence[Tensor]) -> None:
        """Behind what the current stream has to do by now, and beside what it is given next."""
        self._leaving = tensors  # their memory is nobody else's before they have arrived
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._down_host = [
                _landing(tensor, found).copy_(tensor, non_blocking=True)
                for tensor, found in itertools.zip_longest(tensors, self._down_host[: len(tensors)])
            ]

    def arrived(self) -> list[NDArray[Any]]:
        """Views of the pinned memory."""
        self._is_there.record(self._stream)
        self._is_there.synchronize()
        self._leaving = ()
        return [landed.numpy() for landed in self._down_host]

    def _require_room(self, num_bytes: int) -> None:
        """For one batch's pixels, on both sides; a batch is about as large as the last."""
        if len(self._up_host) < num_bytes:
            num_bytes = 1 << math.ceil(math.log2(num_bytes))
            self._up_host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
            with torch.cuda.stream(self._stream):
                self._up_device = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")


def transfers_of(device: str) -> list[Transfer]:
    """As many as batches may be on the way at a time: two on a GPU, one elsewhere.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return [PinnedTransfer(), PinnedTransfer()] if device == "cuda" else [NoTransfer()]


def _landing(tensor: Tensor, found: Tensor | None) -> Tensor:
    """Pinned memory for a tensor: what was found in its place, if that has its shape and type."""
    if found is not None and (found.shape, found.dtype) == (tensor.shape, tensor.dtype):
        return found
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
