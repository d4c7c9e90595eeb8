"""``muse store …``: what a store is and how far it has come."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.flags import StoreArgument

if TYPE_CHECKING:
    from muse.pipeline.store import FeatureStore


def info(
    store: StoreArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Print what a store holds: encoder, sampling, counts, splits, failures, size."""
    from muse.cli.report import print_line
    from muse.pipeline.store import open_store

    content = _describe(open_store(store))
    if as_json:
        print_line(json.dumps(content, indent=1))
        return
    for line in _lines(content):
        print_line(line)


def _describe(store: "FeatureStore") -> dict[str, Any]:
    counts = store.counts()
    splits = Counter(caption.split for caption in store.captions)
    reasons = Counter(failure.reason for failure in store.failures)
    return {
        "path": store.location,
        "header": store.header.as_json(),
        "counts": {name: getattr(counts, name) for name in counts.__slots__},
        "captions_by_split": dict(sorted(splits.items())),
        "failures_by_reason": dict(sorted(reasons.items())),
        "size_bytes": _size_bytes(Path(store.location)),
    }


def _lines(content: dict[str, Any]) -> list[str]:
    from muse.cli.report import size_text

    header, counts = content["header"], content["counts"]
    encoder, sampling = header["encoder"], header["sampling"]
    rate = f" at {sampling['fps']:g} fps" if sampling["kind"] == "fps" else ""
    shape = f"({sampling['num_frames']}, {encoder['tokens_per_frame']}, {encoder['dim']}) float16"
    lines = {
        "store": f"{content['path']} ({size_text(content['size_bytes'])})",
        "protocol": header["protocol"],
        "encoder": f"{encoder['spec']}, {encoder['precision']}",
        "weights": f"sha256 {encoder['weights_sha256']}",
        "sampling": f"{sampling['kind']}{rate}, at most {sampling['num_frames']} frames a video",
        "a video": f"{shape}, class token first",
        "videos": f"listed {counts['listed']} = ok {counts['ok']} + failed {counts['failed']}"
        f" + pending {counts['pending']}",
        "captions": f"{counts['captions']}, {counts['captions_embedded']} embedded"
        f" ({_counted(content['captions_by_split'])})",
        "failures": _counted(content["failures_by_reason"]),
        "fingerprint": header["fingerprint"],
    }
    return [f"{name:<12} {value}" for name, value in lines.items()]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
