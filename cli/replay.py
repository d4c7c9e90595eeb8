"""``--config RUN/config.json``: a run's settings as the defaults of the flags.

Knows no setting by name but those that a store decides.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from muse.errors import UsageError

_FROM_THE_STORE = ("dim", "max_frames", "logit_scale_init")


def _replay(context: typer.Context, config_file: Path | None) -> Path | None:
    """Called before the other flags are read, which win over it."""
    if config_file is not None and not context.resilient_parsing:
        flags = {parameter.name for parameter in context.command.params}
        context.default_map = _defaults(config_file, flags)
    return config_file


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=_replay,
        help="config.json of a run: its settings are the defaults of all other flags.",
    ),
]


def _defaults(config_file: Path, flags: set[str]) -> dict[str, Any]:
    """The value of each flag by its name.

    Raises:
        CheckpointError: If the file is no run's.
        UsageError: If a setting of it was made from Python and has no flag.
    """
    from muse.head.checkpoint import read_config
    from muse.head.head_config import HeadConfig
    from muse.head.run_files import CONFIG_FILE
    from muse.head.train_config import TrainConfig

    if config_file.is_file() and config_file.name != CONFIG_FILE:
        raise UsageError(f"--config {config_file}: name a run, or the {CONFIG_FILE} in it.")
    run = read_config(config_file.parent if config_file.name == CONFIG_FILE else config_file)
    found = {**dataclasses.asdict(run.head), **run.train, "view": run.view}
    fields = (*dataclasses.fields(HeadConfig), *dataclasses.fields(TrainConfig))
    usual = {field.name: field.default for field in fields}
    for name, value in found.items():
        if name not in flags and name not in _FROM_THE_STORE and value != usual.get(name):
            raise UsageError(
                f"--config {config_file}: {name} {value!r} has no flag. "
                "Repeat this run from Python, with muse.head.train.train."
            )
    return {name: _text(value) for name, value in found.items() if name in flags}


def _text(value: object) -> object:
    """As it is typed: lists with commas, an empty one as ``none``."""
    if isinstance(value, tuple | list):
        return ",".join(f"{part:g}" for part in value) or "none"
    return value
