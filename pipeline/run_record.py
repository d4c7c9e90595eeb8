"""The files beside the arrays that are for people: ``run.json`` and ``failures.jsonl``.

Nothing of muse reads them back; receipts say the same and more.
"""

import dataclasses
import json
import platform
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

import muse
from muse.pipeline.sealed_json import json_bytes
from muse.pipeline.storage.files import Storage
from muse.pipeline.store_writer import FAILURES_FILE, RUN_FILE, writing
from muse.pipeline.store_zarr import ZarrStore

if TYPE_CHECKING:
    from muse.pipeline.extract import ExtractConfig
    from muse.pipeline.speed.report import Workforce


def write_run_record(storage: Storage, config: "ExtractConfig", workforce: "Workforce") -> None:
    """The settings, versions, machine and decoder of the last run that did something."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    record = {
        "config": plain,
        "versions": package_versions(),
        "machine": platform.machine(),
        "decoder": {
            "name": workforce.decoder,
            "processes": workforce.num_decoders,
            "because": workforce.decoder_because,
        },
    }
    with writing(storage.location):
        storage.write(RUN_FILE, json_bytes(record))


def write_failures(store: ZarrStore) -> None:
    """A line for every video of the store without features."""
    lines = "".join(json.dumps(failure.as_json()) + "\n" for failure in store.failures).encode()
    with writing(store.location):
        known = store.storage.size(FAILURES_FILE)
        if known != len(lines) or store.storage.read(FAILURES_FILE) != lines:
            store.storage.write(FAILURES_FILE, lines)


def package_versions() -> dict[str, str | None]:
    """Of all that a feature's bits may depend on."""
    packages = ("torch", "open_clip_torch", "av", "zarr", "numpy", "pillow", "ray")
    return {
        "muse": muse.__version__,
        "python": platform.python_version(),
        **{name: _version_of(name) for name in packages},
    }


@cache
def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # on the path without being installed
        return None
