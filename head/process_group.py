"""The workers of one training: what each of them does to come to the same weights.

Every worker embeds a part of a batch's videos and computes the loss of the whole batch, so that the
gradients of the workers add up to the one worker's (ADR 0028). All methods but `part` are called by
every worker at the same place; with one worker none of them does anything. Knows nothing of heads.
"""

# Legend: V videos of a batch, P videos of a worker's part, D width, N elements of a gradient.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor, nn

BUCKET_ELEMENTS = 2**23  # 32 MB of float32: summed together, few messages and little memory

Rows = TypeVar("Rows", bound=np.generic)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessGroup:
    """One worker's place among all; more than one speak through torch's default group."""

    rank: int
    """Counted from 0; worker 0 writes the run's files."""
    size: int

    @classmethod
    def alone(cls) -> "ProcessGroup":
        """The only worker."""
        return cls(rank=0, size=1)

    @classmethod
    def joined(cls) -> "ProcessGroup":
        """This process's place in torch's default group, which must have been made."""
        return cls(rank=torch.distributed.get_rank(), size=torch.distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the files."""
        return self.rank == 0

    def part(self, rows_V: NDArray[Rows]) -> NDArray[Rows]:
        """This worker's of all rows: contiguous, as even as it goes, perhaps empty."""
        own: NDArray[Rows] = np.array_split(rows_V, self.size)[self.rank]
        return own

    def gather_rows(self, part_PD: Tensor, *, num_rows: int) -> Tensor:
        """The rows of all workers, of which this worker's own carry their gradient.

        Args:
            part_PD: (P, D) this worker's `part` of the rows.
            num_rows: Of all workers together.

        Returns:
            (V, D) in the order of the workers, the same bits on each.
        """
        if self.size == 1:
            return part_PD
        sizes = [len(part) for part in np.array_split(np.arange(num_rows), self.size)]
        # The messages are of one size: a worker with a row less fills up with zeros.
        padded_PD = part_PD.new_zeros((max(sizes), *part_PD.shape[1:]))
        padded_PD[: len(part_PD)] = part_PD.detach()
        gathered = [torch.empty_like(padded_PD) for _ in sizes]
        torch.distributed.all_gather(gathered, padded_PD)
        parts = [rows[:size] for rows, size in zip(gathered, sizes, strict=True)]
        parts[self.rank] = part_PD
        return torch.cat(parts)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each gradient becomes the sum over the workers; a parameter that none uses keeps none."""
        if self.size == 1:
            return
        uses = torch.tensor([float(p.grad is not None) for p in parameters])
        uses = uses.to(parameters[0].device)
        torch.distributed.all_reduce(uses)
        used = [p for p, num in zip(parameters, uses.tolist(), strict=True) if num]
        for bucket in _buckets(used):
            flat_N = torch.cat([_gradient(parameter).flatten() for parameter in bucket])
            torch.distributed.all_reduce(flat_N)
            sums = torch.split(flat_N, [parameter.numel() for parameter in bucket])
            for parameter, sum_N in zip(bucket, sums, strict=True):
                parameter.grad = sum_N.view_as(parameter)

    def gather_states(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Worker 0's under their names, the others' as ``rank1/NAME``."""
        if self.size == 1:
            return dict(state)
        states: list[dict[str, Tensor]] = [{} for _ in range(self.size)]
        torch.distributed.all_gather_object(states, dict(state))
        return {
            f"{_prefix(rank)}{name}": tensor
            for rank, its in enumerate(states)
            for name, tensor in its.items()
        }

    def own_state(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This worker's of `gather_states`; empty where there were fewer workers."""
        prefix = _prefix(self.rank)
        names = [name for name in states if name.startswith(prefix)]
        return {name.removeprefix(prefix): states[name] for name in names}

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Worker 0 does what is inside before the others, who find what it has made."""
        if not self.is_first:
            torch.distributed.barrier()
        yield
        if self.is_first and self.size > 1:
            torch.distributed.barrier()

    def draw_apart(self, *, seed: int, step: int) -> None:
        """Seeds each worker but the first on its own, after equal initial weights were drawn."""
        if not self.is_first:
            (own,) = np.random.SeedSequence([seed, self.rank, step]).generate_state(1, np.uint64)
            torch.manual_seed(int(own))


ALONE = ProcessGroup.alone()


def num_workers_of(states: Iterable[str]) -> int:
    """How many workers the names of `ProcessGroup.gather_states` come from."""
    return len({name.partition("/")[0] for name in states if name.startswith("rank")}) + 1


def _prefix(rank: int) -> str:
    """None for worker 0: a run of one worker has the names that it always had."""
    return f"rank{rank}/" if rank else ""


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one dtype, as many as fit `BUCKET_ELEMENTS`, or one that is larger."""
    for _, alike in groupby(parameters, key=lambda parameter: parameter.dtype):
        bucket: list[nn.Parameter] = []
        size = 0
        for parameter in alike:
            if bucket and size + parameter.numel() > BUCKET_ELEMENTS:
                yield bucket
                bucket, size = [], 0
            bucket.append(parameter)
            size += parameter.numel()
        yield bucket
