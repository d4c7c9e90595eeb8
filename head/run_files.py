"""Files of a run folder: they appear whole, and damage is told in one line.

Knows nothing of what is in them.
"""

import os
from pathlib import Path

import safetensors
from torch import Tensor

from muse.errors import CheckpointError

CONFIG_FILE = "config.json"
HEAD_FILE = "head.safetensors"
TOWERS_FILE = "towers.safetensors"
TOWERS = "towers."  # how the names of their weights begin
STATE_FILE = "state.safetensors"
SELECTION_FILE = "selection.json"


def replace_file(path: Path, content: bytes) -> None:
    """The file, whole or as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
        CheckpointError: If it can't be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path}: damaged or no safetensors file ({error}). Copy it again, or train again."
        ) from error
