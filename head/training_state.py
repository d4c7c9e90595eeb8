"""What resuming a training needs, as one file, and the results that follow from it.

``state.safetensors`` is the truth; ``head.safetensors``, ``towers.safetensors`` and
``selection.json`` are copies of parts of it, for those who use the head. Knows nothing of how one
is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from muse.errors import CheckpointError
from muse.head.run_files import (
    HEAD_FILE,
    SELECTION_FILE,
    STATE_FILE,
    TOWERS,
    TOWERS_FILE,
    read_tensors,
    replace_file,
)

_GROUPS = ("head", "optimizer", "random", "average", "best")
_SELECTION = "selection/json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What resuming needs, between two steps."""

    step: int
    """Steps done."""
    head: Mapping[str, Tensor]
    """Weights by name, as the newest step left them."""
    optimizer: Mapping[str, Tensor]
    """``MOMENT/PARAMETER`` of each parameter's moments."""
    random: Mapping[str, Tensor]
    """State of each random generator by device, uint8."""
    average: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights by name, averaged over the steps; empty where no average is kept."""
    best: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights by name of the epoch chosen so far; empty where none was measured."""
    selection: str = ""
    """The content of ``selection.json``; empty where no epoch was measured."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Those that the head is used with."""
        return self.best or self.average or self.head


def write_state(run: Path, state: TrainingState) -> None:
    """Makes a checkpoint; a kill at any moment leaves this one or the one before it.

    Raises:
        CheckpointError: If the folder can't be written.
    """
    tensors = {
        f"{group}/{name}": _plain(tensor)
        for group in _GROUPS
        for name, tensor in getattr(state, group).items()
    }
    if state.selection:
        # No metadata: safetensors writes several of them in an order that changes.
        tensors[_SELECTION] = torch.frombuffer(
            bytearray(state.selection.encode()), dtype=torch.uint8
        )
    # The state last: a step that it counts as done has left its results.
    write_results(run, state)
    _write(run, STATE_FILE, safetensors.torch.save(tensors, _metadata(state)), state)


def write_results(run: Path, state: TrainingState) -> None:
    """The files for those who use the head, as a state has them.

    Raises:
        CheckpointError: If the folder can't be written.
    """
    weights = {name: _plain(tensor) for name, tensor in state.weights.items()}
    metadata = None if state.best else _metadata(state)  # the step is the newest weights'
    towers = {name: weights.pop(name) for name in [*weights] if name.startswith(TOWERS)}
    if towers:
        _write(run, TOWERS_FILE, safetensors.torch.save(towers, metadata), state)
    _write(run, HEAD_FILE, safetensors.torch.save(weights, metadata), state)
    if state.selection:
        _write(run, SELECTION_FILE, state.selection.encode(), state)


def read_state(run: Path) -> TrainingState | None:
    """The newest checkpoint, or None before the first.

    Raises:
        CheckpointError: If it is damaged.
    """
    path = run / STATE_FILE
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    try:
        selection = tensors.pop(_SELECTION, torch.empty(0, dtype=torch.uint8))
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups[group][name] = tensor
        return TrainingState(
            step=int(metadata["step"]),
            **groups,
            selection=selection.numpy().tobytes().decode(),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a training state ({error}).") from error


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _metadata(state: TrainingState) -> dict[str, str]:
    return {"step": str(state.step)}


def _write(run: Path, name: str, content: bytes, state: TrainingState) -> None:
    try:
        replace_file(run / name, content)
    except OSError as error:
        raise CheckpointError(
            f"{run}: the checkpoint after step {state.step} can't be written "
            f"({error.strerror or error}). Free some space and start the same command again."
        ) from error
