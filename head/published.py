"""A checkpoint of the published code (hrtang22/MUSE) as a run folder.

Its names are those that its training log lists. Two things are not in such a file: the pyramid,
which the published code neither trained nor saved, is drawn anew and kept; and the features its
CLIP gave, which was trained along. Knows nothing of terminals.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from muse.errors import CheckpointError, IncompatibleStoreError
from muse.head.checkpoint import RunConfig, load_weights, write_config
from muse.head.head_config import HeadConfig, head_of_mode
from muse.head.mixers.choice import Mixer
from muse.head.model import RetrievalHead
from muse.head.run_files import HEAD_FILE, replace_file
from muse.pipeline.header import StoreHeader
from muse.pipeline.store import FeatureStore

_BLOCK = re.compile(r"^(?:module\.)?MS_mamba\.(\d+)\.(.+)$")
_LOGIT_SCALE = re.compile(r"^(?:module\.)?clip\.logit_scale$")
# What torch.load raises of a file that holds something else.
_UNREADABLE = (OSError, RuntimeError, LookupError, EOFError, ValueError, pickle.UnpicklingError)
_OUR_NAMES = {"layer_norm1": "norm", "temporal_fc": "gate", "mamba": "mamba"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedHead:
    """What became of a published checkpoint."""

    head: HeadConfig
    num_read: int
    """Tensors of the file that the head has."""
    num_ignored: int
    """Others, CLIP's own."""
    has_logit_scale: bool
    """Whether the file held CLIP's temperature; else it is the store's encoder's."""


def import_published(
    weights: Path, store: FeatureStore, run: Path, *, seed: int = 42, command: tuple[str, ...] = ()
) -> ImportedHead:
    """Makes a run folder of a published checkpoint, to be evaluated on a store.

    Args:
        weights: What the published code saved: a state dict, by `torch.save`.
        store: Whose features it will read; its width must be the checkpoint's.
        run: New.
        seed: Of the pyramid.
        command: Written beside the weights.

    Raises:
        CheckpointError: If the file can't be read, holds no such head, or the folder is in use.
        IncompatibleStoreError: If the store's width is another.
    """
    published = _read(weights)
    ours = {our: published[name] for name in published if (our := our_name(name)) is not None}
    head = _shape_of(ours, store.header, source=weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = RetrievalHead(head)
    for name in made.state_dict():
        if name not in ours and "pyramid" not in name and name != "logit_scale":
            raise CheckpointError(f"{weights}: {name} is missing. A whole checkpoint is needed.")
    complete = {**made.state_dict(), **ours}
    load_weights(made, complete, source=weights)
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise CheckpointError(f"{run}: not an empty folder. Name a new one with --out.")
    write_config(run, _config(weights, head, store, seed=seed, command=command))
    replace_file(run / HEAD_FILE, safetensors.torch.save(made.state_dict(), {"step": "0"}))
    return ImportedHead(
        head=head,
        num_read=len(ours),
        num_ignored=len(published) - len(ours),
        has_logit_scale="logit_scale" in ours,
    )


def our_name(published: str) -> str | None:
    """What a tensor of the published code is called here; None for what a head does not have."""
    if _LOGIT_SCALE.match(published):
        return "logit_scale"
    match = _BLOCK.match(published)
    if match is None:
        return None
    module, _, rest = match[2].partition(".")
    return f"aggregator.blocks.{match[1]}.{_OUR_NAMES.get(module, module)}.{rest}"


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: can't be read as a state dict ({type(error).__name__}: {error}). Give the "
            "pytorch_model.bin.N that the published code saved."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{path}: a {type(found).__name__}, expected names and tensors.")
    return {name: tensor.float() for name, tensor in found.items()}


def _shape_of(weights: Mapping[str, Tensor], header: StoreHeader, *, source: Path) -> HeadConfig:
    """The release preset with all that the weights' shapes decide."""
    first = "aggregator.blocks.0"
    try:
        dim = len(weights[f"{first}.norm.weight"])
        inner, d_state = weights[f"{first}.mamba.A_log"].shape
        d_conv = weights[f"{first}.mamba.conv1d.weight"].shape[-1]
    except KeyError as error:
        raise CheckpointError(
            f"{source}: no MUSE head in it ({error.args[0]} would be missing). The published code "
            "names its blocks MS_mamba.0, MS_mamba.1, ..."
        ) from None
    if dim != header.encoder.dim:
        raise IncompatibleStoreError(
            f"{source}: a head of width {dim}, and the store's tokens have {header.encoder.dim}. "
            "Extract with the encoder that the head was trained with."
        )
    return replace(
        head_of_mode("release", header),
        depth=1 + max(int(name.split(".")[2]) for name in weights if name.startswith("aggregator")),
        mixer=_mixer_of(weights, first),
        d_state=d_state,
        d_conv=d_conv,
        expand=inner // dim,
    )


def _mixer_of(weights: Mapping[str, Tensor], block: str) -> Mixer:
    if f"{block}.mamba.A_b_log" not in weights:
        return "mamba"
    return "bimamba-v2" if f"{block}.mamba.conv1d_b.weight" in weights else "bimamba-v1"


def _config(
    weights: Path, head: HeadConfig, store: FeatureStore, *, seed: int, command: tuple[str, ...]
) -> RunConfig:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return RunConfig(
        head=head,
        train={"imported_from": weights.name, "imported_sha256": digest, "seed": seed},
        store=store.header,
        view=store.token_view,
        root_sha256=store.root_sha256,
        timestamps_sha256=store.timestamps_sha256,
        num_videos=0,
        num_captions=0,
        ran_on={},
        command=command,
    )
