"""Results files: the numbers of ``muse evaluate`` and ``muse compare`` with where they come from.

docs/results.md lists the keys. A file says which schema it follows, and a reader refuses one that
it does not know: a key never changes its meaning under the same version.
"""

import datetime
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muse.cli.evaluated import Evaluated, OpenedHead
    from muse.head.data import SplitSelection

EVALUATION = "muse-evaluation"
SEEDS = "muse-seeds"
COMPARISON = "muse-comparison"
SCHEMA_VERSION = 1
_PACKAGES_OF_HEADS = ("mamba-ssm", "causal-conv1d", "safetensors")


def evaluation_content(evaluated: "Evaluated", extras: Mapping[str, Any]) -> dict[str, Any]:
    """The results of one head.

    Args:
        evaluated: The head's numbers.
        extras: Keys beside the report's, such as ``intervals``.
    """
    from muse.head.provenance import head_provenance

    return {
        **_schema(EVALUATION),
        **evaluated.report.as_json(),
        **extras,
        "provenance": {
            **_provenance(evaluated),
            "seconds": evaluated.seconds,
            "head": head_provenance(evaluated.opened.name),
        },
    }


def seeds_content(
    evaluated: "Mapping[int, Evaluated]", extras: Mapping[str, Any]
) -> dict[str, Any]:
    """The results of a folder of seeds, by seed; ``extras`` are keys beside ``spread``."""
    from muse.head.provenance import head_provenance
    from muse.head.seeds import spreads_json

    reports = {seed: one.report.as_json() for seed, one in evaluated.items()}
    return {
        **_schema(SEEDS),
        "spread": spreads_json(list(reports.values())),
        **extras,
        "seeds": [
            {"seed": seed, "report": reports[seed], "head": head_provenance(one.opened.name)}
            for seed, one in evaluated.items()
        ],
        "provenance": _provenance(next(iter(evaluated.values()))),
    }


def comparison_content(
    comparison: Mapping[str, Any], heads: "Sequence[OpenedHead]", selection: "SplitSelection"
) -> dict[str, Any]:
    """The results of ``muse compare``.

    Args:
        comparison: `muse.head.comparison.Comparison.as_json`.
        heads: The two, in order.
        selection: What both were measured on.
    """
    from muse.head.provenance import head_provenance, store_provenance

    first = heads[0].store
    return {
        **_schema(COMPARISON),
        **comparison,
        "provenance": {
            **_made_by(heads[0]),
            **_read_from(heads[0], selection),
            "heads": [
                {
                    **head_provenance(head.name),
                    "view": head.store.token_view,
                    "scan": head.scan,
                    **(
                        {"store": store_provenance(head.store)}
                        if head.store.root_sha256 != first.root_sha256
                        else {}
                    ),
                }
                for head in heads
            ],
        },
    }


def read_results(file: Path, *schemas: str) -> dict[str, Any]:
    """The content of a results file.

    Args:
        file: With the content of one of the functions above.
        schemas: Which of them will do.

    Raises:
        UsageError: If it is none, or of another schema or version.
    """
    from muse.errors import UsageError

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: can't be read as JSON ({error}).") from error
    name, version = (
        (content.get("schema"), content.get("schema_version"))
        if isinstance(content, dict)
        else (None, None)
    )
    if name not in schemas:
        raise UsageError(
            f"{file}: schema {name!r}, expected {' or '.join(schemas)}. Write it with "
            "`muse evaluate STORE --json FILE`."
        )
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{file}: schema version {version!r} of {name}, this muse reads {SCHEMA_VERSION}. "
            "Install the muse that wrote it, or evaluate again."
        )
    return dict(content)


def _schema(name: str) -> dict[str, Any]:
    return {"schema": name, "schema_version": SCHEMA_VERSION}


def _provenance(evaluated: "Evaluated") -> dict[str, Any]:
    """What the heads of a folder of seeds have in common too."""
    from muse.cli.head_history import remarks

    report, rules = evaluated.report, evaluated.rules
    return {
        **_made_by(evaluated.opened),
        "rules": {"ties": rules.ties.value, "v2t": rules.v2t.value},
        "remarks": remarks(evaluated.opened.name, report.split),
        **_read_from(evaluated.opened, evaluated.embedded.selection),
    }


def _made_by(opened: "OpenedHead") -> dict[str, Any]:
    """When, with which command and versions, and where it was computed."""
    from muse.head.devices import device_name

    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "versions": _versions(),
        "machine": platform.machine(),
        "device": {"type": opened.device.type, "name": device_name(opened.device)},
        "scan": opened.scan,
    }


def _read_from(opened: "OpenedHead", selection: "SplitSelection") -> dict[str, Any]:
    from muse.head.provenance import split_provenance, store_provenance

    return {
        "split": split_provenance(opened.store, selection),
        "store": store_provenance(opened.store),
    }


def _versions() -> dict[str, str | None]:
    """Of all that a feature's or a head's bits may depend on; None where it is not installed."""
    from muse.pipeline.run_record import package_versions

    return {**package_versions(), **{name: _version_of(name) for name in _PACKAGES_OF_HEADS}}


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
