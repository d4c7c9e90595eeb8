"""``muse store verify`` and ``diff``: is a store what was written, and what sets two apart."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.flags import StoreArgument

if TYPE_CHECKING:
    from muse.pipeline.diff import StoreDiff
    from muse.pipeline.store_zarr import ZarrStore
    from muse.pipeline.verify import VerifyReport

EXIT_DIFFERENT = 1
_NAMES_SHOWN = 3


def verify(
    store: StoreArgument,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Let `muse extract` write damaged shards, all of their videos, again; where only "
            "thumbnails are damaged, remove them.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Re-read every file of a store and compare it with what was written."""
    from muse.cli.report import print_json_line, print_line, print_note
    from muse.pipeline.verify import repair as run_repair
    from muse.pipeline.verify import verify as run_verify

    opened = _zarr_store(store)
    report = run_verify(opened)
    if as_json:
        print_json_line(_report_json(report))
    else:
        for line in _report_lines(report):
            print_line(line)
    if repair and report.problems:
        done = run_repair(opened.location)
        if done.num_withdrawn or not done.num_without_thumbnails:
            command = _command_that_writes(opened)
            print_note(f"{done.num_withdrawn} shards withdrawn: `{command}` writes them again.")
        if done.num_without_thumbnails:
            print_note(f"{done.num_without_thumbnails} shards keep features, but no thumbnails.")
    elif report.problems:
        raise typer.Exit(EXIT_DIFFERENT)


def _command_that_writes(store: "ZarrStore") -> str:
    from muse.pipeline.derivation import derivation_of

    made_from = derivation_of(store)
    return f"muse evaluate {made_from.source} --head RUN" if made_from else "muse extract"


def _zarr_store(store: str) -> "ZarrStore":
    """The store that extraction wrote; an exported file carries no hashes of its rows."""
    from muse.errors import StoreError
    from muse.pipeline.store import open_raw_store
    from muse.pipeline.store_zarr import ZarrStore

    opened = open_raw_store(store)
    if not isinstance(opened, ZarrStore):
        raise StoreError(
            f"{store}: an exported file has no hashes of its rows. Compare it with its store: "
            f"`muse store diff STORE {store}`."
        )
    return opened


def diff(
    left: StoreArgument,
    right: Annotated[str, typer.Argument(help="The other one.")],
    max_videos: Annotated[
        int | None, typer.Option(help="Compare the features of so many videos at the most.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Explain what sets two stores apart: settings, videos, time stamps, features."""
    import dataclasses

    from muse.cli.report import print_json_line, print_line
    from muse.pipeline.diff import diff_stores
    from muse.pipeline.store import open_raw_store

    found = diff_stores(open_raw_store(left), open_raw_store(right), max_videos=max_videos)
    if as_json:
        print_json_line(dataclasses.asdict(found))
    else:
        for line in _diff_lines(found):
            print_line(line)
    if not found.is_empty:
        raise typer.Exit(EXIT_DIFFERENT)


def _report_json(report: "VerifyReport") -> dict[str, Any]:
    return {
        "root_sha256": report.root_sha256,
        "files": report.num_files,
        "bytes": report.num_bytes,
        "pending": report.num_pending,
        "problems": [{"file": p.name, "words": p.words} for p in report.problems],
    }


def _report_lines(report: "VerifyReport") -> list[str]:
    from muse.cli.report import size_text

    lines = [f"{problem.name} {problem.words}" for problem in report.problems]
    state = f"{len(lines)} problems" if lines else "as it was written"
    pending = f"; {report.num_pending} videos pending" if report.num_pending else ""
    read = f"{report.num_files} files, {size_text(report.num_bytes)}"
    return [*lines, f"{state}: {read}{pending}", f"root {report.root_sha256}"]


def _diff_lines(found: "StoreDiff") -> list[str]:
    lines = [
        f"{field.name}: {field.left!r} / {field.right!r}"
        + ("" if field.is_in_fingerprint else " (not part of the fingerprint)")
        for field in found.fields
    ]
    for words, names in (
        ("videos only in the first", found.only_left),
        ("videos only in the second", found.only_right),
        ("videos of other seconds of their files", found.windows),
        ("videos of which other frames were decoded", found.timestamps),
    ):
        if names:
            lines.append(f"{len(names)} {words}: {_some(names)}")
    for words, count in (
        ("captions only in the first", found.captions_only_left),
        ("captions only in the second", found.captions_only_right),
    ):
        if count:
            lines.append(f"{count} {words}")
    if found.states:
        texts = [f"{i} ({left} / {right})" for i, left, right in found.states]
        lines.append(f"{len(texts)} videos in another state: {_some(texts)}")
    lines += _feature_lines(found)
    if found.is_empty:
        lines.append(f"the same: {found.num_compared} videos compared, bit for bit")
    lines += [f"version of {v.name}: {v.left} / {v.right}" for v in found.versions]
    return lines


def _feature_lines(found: "StoreDiff") -> list[str]:
    lines = []
    for name in dict.fromkeys(difference.array for difference in found.features):
        of_array = [d for d in found.features if d.array == name]
        worst = max(of_array, key=lambda d: d.relative_error)
        lines.append(
            f"{name}: {len(of_array)} of {found.num_compared} videos differ, at most by "
            f"{worst.relative_error:.1e} (relative, {worst.video_id})"
        )
    return lines


def _some(names: "tuple[str, ...] | list[str]") -> str:
    rest = len(names) - _NAMES_SHOWN
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{shown} and {rest} more" if rest > 0 else shown
