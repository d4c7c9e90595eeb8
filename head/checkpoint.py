"""A run folder: what it holds, how it is written, and which store it belongs to.

::

    RUN/config.json         the head's and the training's settings, the store's header, versions
    RUN/head.safetensors    the weights to use: the chosen epoch's, or after the newest checkpoint
    RUN/towers.safetensors  of a finetuned CLIP, what was trained of it; like head.safetensors
    RUN/selection.json      what was measured after each epoch, and which was chosen
    RUN/state.safetensors   what resuming needs, `muse.head.training_state`
    RUN/log.jsonl           one line a step, `muse.head.run_log`
    RUN/tensorboard/        the same for TensorBoard

Files that are not appended to appear whole (`muse.head.run_files`). Knows nothing of how a head is
trained.
"""

import dataclasses
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import muse
from muse.errors import CheckpointError, IncompatibleStoreError, StoreError, UsageError
from muse.head.finetune import new_finetuned_head
from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.head.run_files import (
    CONFIG_FILE,
    HEAD_FILE,
    TOWERS_FILE,
    read_tensors,
    replace_file,
)
from muse.head.scan.select import ScanBackend
from muse.head.train_config import NO_FINETUNE, TrainConfig
from muse.pipeline.header import EncoderInfo, StoreHeader, header_from_json, require_same_features
from muse.pipeline.store import FeatureStore

RUN_FORMAT_VERSION = 2

# Where a run computes and how often it saves, not what: these may differ when it is resumed.
FREE_TO_CHANGE = (
    *("device", "scan", "videos_at_once", "recompute", "num_workers", "checkpoint_every"),
)


# What a run did that was begun before a setting existed.
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}

_STORE_STATE = ("view", "timestamps_sha256", "root_sha256")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What ``config.json`` holds."""

    head: HeadConfig
    train: dict[str, Any]
    """The training's settings as JSON; `muse.head.train_config.TrainConfig` reads them."""
    store: StoreHeader
    """Of the store that the head was trained on."""
    view: str
    """Which view of a video the head reads: ``tokens`` or ``int8``."""
    root_sha256: str
    """Of that store when the run began: all that was in it."""
    timestamps_sha256: str
    """Of that store when the run began: the frames that were really decoded."""
    num_videos: int
    """Of the split, those that had features."""
    num_captions: int
    """Pairs trained on; with the seed they decide every batch."""
    ran_on: dict[str, str]
    """Device, precision and scan of the first attempt, as resolved."""
    command: tuple[str, ...]
    """What was typed, program first; empty where the run was started from Python."""

    def as_json(self) -> dict[str, Any]:
        """With the versions of what writes it."""
        return {
            "format_version": RUN_FORMAT_VERSION,
            "head": dataclasses.asdict(self.head),
            "train": self.train,
            "store": self.store.as_json(),
            **{name: getattr(self, name) for name in _STORE_STATE},
            "num_videos": self.num_videos,
            "num_captions": self.num_captions,
            "ran_on": self.ran_on,
            "command": list(self.command),
            "versions": {
                "muse": muse.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


def is_run(run: Path) -> bool:
    """Whether a folder is a run, finished or not."""
    return (run / CONFIG_FILE).is_file()


def write_config(run: Path, config: RunConfig) -> None:
    """Makes the folder a run.

    Raises:
        CheckpointError: If the folder can't be written, or holds something else.
    """
    if run.is_dir() and any(run.iterdir()) and not is_run(run):
        raise CheckpointError(
            f"{run}: not empty and no training run. Name a new folder with --out."
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config.as_json(), indent=2) + "\n"
        replace_file(run / CONFIG_FILE, text.encode())
    except OSError as error:
        raise CheckpointError(f"{run}: can't be written ({error.strerror or error}).") from error


def read_config(run: Path) -> RunConfig:
    """The content of a run's ``config.json``.

    Raises:
        CheckpointError: If the folder is missing, no run, or from another version of muse.
    """
    path = run / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{run}: no training run here ({CONFIG_FILE} is missing). "
            f"Make one with `muse train-head STORE --out {run}`."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read as JSON ({error}).") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != RUN_FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}, this muse reads {RUN_FORMAT_VERSION}. "
            "Train again, or install the muse that wrote it."
        )
    try:
        head = dict(content["head"])
        head["factors"] = tuple(head["factors"])
        return RunConfig(
            head=HeadConfig(**head),
            train=dict(content["train"]),
            store=header_from_json(content["store"], source=str(path)),
            **{name: str(content[name]) for name in _STORE_STATE},
            num_videos=int(content["num_videos"]),
            num_captions=int(content["num_captions"]),
            ran_on=dict(content["ran_on"]),
            command=tuple(content["command"]),
        )
    except (KeyError, TypeError, ValueError, UsageError, StoreError) as error:
        raise CheckpointError(f"{path}: not a run's settings ({error}). Train again.") from error


def open_run(run: Path, wanted: RunConfig, store: FeatureStore) -> None:
    """Makes the run's folder, or checks that it is the same run's.

    Raises:
        IncompatibleStoreError: If the run in the folder was made from another store.
        CheckpointError: If it was made with other settings, naming the first that differs.
    """
    if not is_run(run):
        write_config(run, wanted)
        return
    found = read_config(run)
    require_same_features(store.header, found.store, what=store.location)
    _require_same_state(found, wanted, run=run, what=store.location)
    for name, old, new in _settings(found, wanted):
        if old != new:
            raise CheckpointError(
                f"{run}: made with {name} {old}, asked for {new}. "
                "Repeat its own command to go on, or name a new folder with --out."
            )


def _require_same_state(found: RunConfig, wanted: RunConfig, *, run: Path, what: str) -> None:
    """Nothing, if the store still holds what it held when the run began.

    Raises:
        IncompatibleStoreError: Naming what differs, the most telling first.
    """
    states = (
        ("listing_sha256", found.store.listing_sha256, wanted.store.listing_sha256),
        *((name, getattr(found, name), getattr(wanted, name)) for name in _STORE_STATE),
    )
    for name, then, now in states:
        if then != now:
            raise IncompatibleStoreError(
                f"{what}: {name} is {now!r}, but was {then!r} when {run} was begun: other videos, "
                "frames or features. Use that store, or name a new folder with --out."
            )


def _settings(found: RunConfig, wanted: RunConfig) -> Iterator[tuple[str, object, object]]:
    """Name, old and new value of all that decides what a run computes."""
    for name in wanted.head.fields_read:
        yield f"head.{name}", getattr(found.head, name), getattr(wanted.head, name)
    for name, new in wanted.train.items():
        if name not in FREE_TO_CHANGE:
            yield name, found.train.get(name, _DEFAULTS.get(name)), new
    for name in ("num_videos", "num_captions"):  # the store may have grown since
        yield name, getattr(found, name), getattr(wanted, name)


def is_finetuned(config: RunConfig) -> bool:
    """True if a part of the encoder was trained with the head."""
    return str(config.train.get("finetune", NO_FINETUNE)) != NO_FINETUNE


def _reading_its_own(config: RunConfig, encoder: EncoderInfo) -> RunConfig:
    """As if the head had been trained on the store that its own encoder makes."""
    header = dataclasses.replace(config.store, encoder=encoder)
    return dataclasses.replace(config, store=header, view="tokens")


def load_head(
    run: Path,
    store: FeatureStore,
    *,
    scan: ScanBackend = "auto",
    any_view: bool = False,
    own_encoder: EncoderInfo | None = None,
) -> RetrievalHead:
    """A run's head, on the CPU and in evaluation mode, for use with a store.

    Args:
        run: The folder of a run.
        store: What it will read.
        scan: The backend of its scan.
        any_view: Whether it may read another view than it was trained on, as int8 for tokens.
        own_encoder: Of a finetuned run: the store holds the tokens that this made. None: a
            finetuned run's head reads the map below its towers, and encodes it at each call.

    Raises:
        CheckpointError: If the run is missing, has no checkpoint yet, or is damaged.
        IncompatibleStoreError: If the store holds features of another kind, naming the field.
    """
    config = read_config(run)
    if own_encoder is not None:
        config = _reading_its_own(config, own_encoder)
    require_same_features(store.header, config.store, what=store.location)
    if store.token_view != config.view and not any_view:
        raise IncompatibleStoreError(
            f"{store.location}: view is {store.token_view!r}, but the head of {run} was trained on "
            f"{config.view!r}. Name --view {store.token_view} to see what that costs."
        )
    head, tensors = RetrievalHead(config.head, scan=scan), read_weights(run)
    if own_encoder is None and is_finetuned(config):
        finetune = str(config.train["finetune"])
        with_text = bool(config.train["finetune_text"])
        lora = int(config.train.get("lora", 0))
        head = new_finetuned_head(head, store, finetune=finetune, with_text=with_text, lora=lora)
        tensors |= read_tensors(run / TOWERS_FILE)[0]
    load_weights(head, tensors, source=run / HEAD_FILE)
    return head.eval()


def read_weights(run: Path) -> dict[str, Tensor]:
    """The head's tensors by name; those of towers are in a file of their own.

    Raises:
        CheckpointError: If the run has no checkpoint yet, or the file is damaged.
    """
    path = run / HEAD_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{run}: no weights yet ({HEAD_FILE} is missing). Start the training again with the "
            "same command; it goes on where it stopped."
        )
    return read_tensors(path)[0]


def load_weights(head: RetrievalHead, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Puts weights into a head.

    Raises:
        CheckpointError: If names or shapes differ from the head's.
    """
    for name, parameter in head.state_dict().items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != tuple(parameter.shape):
            raise CheckpointError(
                f"{source}: {name} is {found}, the head needs {tuple(parameter.shape)}. "
                f"The file does not belong to the {CONFIG_FILE} beside it."
            )
    head.load_state_dict(dict(tensors), strict=False)
