"""``muse store …``: what a store is and how far it has come."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.flags import StoreArgument
from muse.cli.progress import counts_text

_WINDOWS_SHOWN = 3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from muse.pipeline.records import Failure
    from muse.pipeline.store import RawStore


def info(
    store: StoreArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Print what a store holds: encoder, sampling, counts, splits, failures, size."""
    from muse.cli.report import print_line
    from muse.pipeline.store import open_raw_store

    content = _describe(open_raw_store(store))
    if as_json:
        print_line(json.dumps(content, indent=1))
        return
    for line in _lines(content):
        print_line(line)


def errors(
    store: StoreArgument,
    reason: Annotated[
        str | None, typer.Option(help="Only these reasons, with commas, such as timeout,crashed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Print every video without features: why, at which stage, and libav's words."""
    from muse.cli.report import print_json_line, print_line, print_table
    from muse.pipeline.store import open_store

    opened = open_store(store)
    wanted = {name.strip() for name in (reason or "").split(",") if name.strip()}
    _require_reasons(wanted)
    found = [f for f in opened.failures if not wanted or f.reason in wanted]
    if as_json:
        for failure in found:
            print_json_line(failure.as_json())
        return
    print_line(counts_text(opened.counts()))
    if found:
        print_table(_table_of(found))


def _require_reasons(wanted: set[str]) -> None:
    from muse.errors import UsageError
    from muse.pipeline.records import FAILURE_REASONS

    unknown = sorted(wanted - set(FAILURE_REASONS))
    if unknown:
        raise UsageError(f"--reason {unknown[0]!r}: choose of {', '.join(FAILURE_REASONS)}")


def _table_of(failures: "Sequence[Failure]") -> "Table":
    """The commonest reason first, each with its videos."""
    from rich.table import Table
    from rich.text import Text

    counts = Counter(failure.reason for failure in failures)
    table = Table("reason", "video", "what happened")
    for failure in sorted(failures, key=lambda f: (-counts[f.reason], f.reason, f.video_id)):
        # A file's name is no markup, whatever brackets it has.
        table.add_row(failure.reason, Text(failure.video_id), Text(failure.message))
    return table


def _describe(store: "RawStore") -> dict[str, Any]:
    from muse.pipeline.derivation import derivation_of
    from muse.pipeline.views import FRAMES_JPEG

    counts, crop = store.counts(), store.header.encoder.preprocessing
    failed = [failure for failure in store.failures if not failure.is_skipped]
    skipped = [failure for failure in store.failures if failure.is_skipped]
    splits = Counter(caption.split for caption in store.captions)
    made_from = derivation_of(store)
    return {
        "path": store.location,
        **({"derived_from": made_from.as_json()} if made_from else {}),
        "header": store.header.as_json(),
        "counts": {name: getattr(counts, name) for name in counts.__slots__},
        "captions_by_split": dict(sorted(splits.items())),
        "failures_by_reason": _by_reason(failed),
        "skipped_by_reason": _by_reason(skipped),
        "windows": dict(Counter(w.text for w in store.windows if w).most_common()),
        "arrays": [(spec.name, spec.dtype, spec.shape) for spec in store.arrays],
        "frame_side": crop.kept_side if FRAMES_JPEG in store.header.views else 0,
        "root_sha256": store.root_sha256,
        "size_bytes": store.size_bytes(),
    }


def _lines(content: dict[str, Any]) -> list[str]:
    from muse.cli.report import size_text

    header, counts = content["header"], content["counts"]
    encoder, sampling = header["encoder"], header["sampling"]
    rate = f" at {sampling['fps']:g} fps" if sampling["kind"] == "fps" else ""
    frame_side = content["frame_side"]
    arrays = (f"{name} {shape} {dtype}" for name, dtype, shape in content["arrays"])
    lines = {
        "store": f"{content['path']} ({size_text(content['size_bytes'])})",
        "protocol": header["protocol"],
        "encoder": f"{encoder['spec']}, {encoder['precision']}",
        "weights": f"sha256 {encoder['weights_sha256']}",
        **({"made from": _made_from(content)} if "derived_from" in content else {}),
        "sampling": f"{sampling['kind']}{rate}, at most {sampling['num_frames']} frames a video",
        "a video": ", ".join(arrays),
        **({"frames": f"JPEG, {frame_side} x {frame_side} pixels"} if frame_side else {}),
        "thumbnails": _thumbnails_text(header.get("thumbnail_side", 0)),
        "parity": _parity_text(header.get("parity")),
        "videos": f"listed {counts['listed']} = ok {counts['ok']} + failed {counts['failed']}"
        f" + skipped {counts['skipped']} + pending {counts['pending']}",
        **({"windows": _windows(content["windows"])} if content["windows"] else {}),
        "captions": f"{counts['captions']}, {counts['captions_embedded']} embedded"
        f" ({_counted(content['captions_by_split'])}){_text_length(header)}",
        "failures": _counted(content["failures_by_reason"]),
        "skipped": _counted(content["skipped_by_reason"]),
        "fingerprint": header["fingerprint"],
        "root": content["root_sha256"],
    }
    return [f"{name:<12} {value}" for name, value in lines.items()]


def _made_from(content: dict[str, Any]) -> str:
    """Which store was encoded again, what of it, and whose the captions' vectors are."""
    found = content["derived_from"]
    encoder = found["header"]["encoder"]["spec"]
    return (
        f"{found['view']} of {found['source']} ({encoder}, root {found['root_sha256'][:12]}); "
        f"captions {found['texts']}"
    )


def _windows(counts: dict[str, int]) -> str:
    """``5 videos are seconds 0:31 of their files``: how many are parts, and which parts."""
    commonest = ", ".join(list(counts)[:_WINDOWS_SHOWN])
    more = f" and {len(counts) - _WINDOWS_SHOWN} others" if len(counts) > _WINDOWS_SHOWN else ""
    return f"{sum(counts.values())} videos are seconds {commonest}{more} of their files"


def _text_length(header: dict[str, Any]) -> str:
    return f", cut at {header['text_length']} tokens" if "text_length" in header else ""


def _thumbnails_text(side: int) -> str:
    return f"JPEG, shorter edge {side} pixels" if side else "none"


def _parity_text(parity: dict[str, Any] | None) -> str:
    """How near the features are to those of the encoder's library."""
    if parity is None:
        return "not measured"
    return (
        f"with PIL and float32 on {parity['num_frames']} frames ({parity['device']}): input "
        f"{parity['pixels']:g}/255 apart, cosine of class tokens {parity['class_token_mean']:.6f} "
        f"(least {parity['class_token_min']:.6f}), of patches {parity['patch_tokens_mean']:.6f} "
        f"(least {parity['patch_tokens_min']:.6f})"
    )


def _by_reason(failures: "Sequence[Failure]") -> dict[str, int]:
    return dict(sorted(Counter(failure.reason for failure in failures).items()))


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
