"""``muse data check``: what is there of a benchmark, and what is missing, before a run."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse.cli.extract import DatasetFlag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from muse.pipeline.datasets.benchmark import Benchmark, Size
    from muse.pipeline.datasets.inventory import FoundFile, SplitContent, SplitInventory

EXIT_INCOMPLETE = 3
_NAMES_SHOWN = 3

data_app = typer.Typer(
    help="Look at a benchmark's files before they are used.", no_args_is_help=True
)


@data_app.callback()
def _data() -> None:
    """Keeps ``check`` a word of its own: typer drops it where it is a group's only command."""


@data_app.command()
def check(
    name: Annotated[DatasetFlag, typer.Argument(help="The benchmark.")],
    root: Annotated[Path, typer.Option(help="Its annotation files and videos, at any depth.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="Splits such as test or train,test.",
            show_default="all whose annotation files are there",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As one JSON object, with all missing ids.")
    ] = False,
) -> None:
    """Say which files and videos of a benchmark are there, without opening a video.

    Exits with 3 where something is missing, ambiguous, listed twice, of another
    form, or not of the literature's size; without --split, splits of which
    an annotation file is missing don't count, unless that is all of them.
    """
    from muse.cli.report import print_json_line, print_line
    from muse.pipeline.datasets.benchmark import benchmark_of
    from muse.pipeline.datasets.inventory import take_inventory

    asked = None if split is None else [s.strip() for s in split.split(",") if s.strip()]
    found = take_inventory(name.value, root, asked)
    judged = [each for each in found if each.has_files] or found if asked is None else found
    is_whole = all(each.is_whole for each in judged)
    if as_json:
        print_json_line({"dataset": name.value, "whole": is_whole, "splits": _json(found)})
    else:
        for line in _lines(name.value, benchmark_of(name.value), root, found, is_whole=is_whole):
            print_line(line)
    if not is_whole:
        raise typer.Exit(EXIT_INCOMPLETE)


def _lines(
    name: str,
    benchmark: "Benchmark",
    root: Path,
    found: "Sequence[SplitInventory]",
    *,
    is_whole: bool,
) -> "Iterator[str]":
    from muse.pipeline.records import printable

    for each in found:
        yield _headline(each)
        yield from (f"  {_file_text(file)}" for file in each.files if each.has_files or file.path)
        yield from (f"  {remark}" for remark in _remarks(each))
    if not is_whole:
        yield f"Where to get them: {benchmark.source}"
    if benchmark.read_cuts:
        yield "Clips of whole videos, found by the name of those: --clip-window annotated."
    if not any(each.content and each.content.num_videos for each in found):
        yield f"Papers take {_preset_text(benchmark)}."
        return
    yield f"Papers take {_preset_text(benchmark)}, and so does:"
    yield (
        f"  muse extract --dataset {name} --root {shlex.quote(printable(root))} "
        f"--split {_usual_splits(found)} --out {name}.store"
    )


def _preset_text(benchmark: "Benchmark") -> str:
    length = benchmark.text_length
    texts = f" and cut texts at {length} tokens" if length else ""
    window = f" of seconds {benchmark.window.text}" if benchmark.window else ""
    return f"{benchmark.sampling.num_frames} frames{window}{texts}"


def _headline(each: "SplitInventory") -> str:
    content = each.content
    if content is None:
        looked_for = [" or ".join(f.names) for f in each.files if not f.path and not f.is_optional]
        why = each.problem or f"not there: no {', no '.join(looked_for)}"
        return f"{each.label}: {why}"
    return (
        f"{each.label}, {content.num_present}/{content.num_videos} videos, "
        f"{content.num_captions} captions{_size_text(each)}"
    )


def _size_text(each: "SplitInventory") -> str:
    if not each.sizes:
        return ""
    if each.has_published_size:
        return " (as published)"
    return f" (published: {' or '.join(map(_published, each.sizes))})"


def _published(size: "Size") -> str:
    counts = ((size.num_videos, "videos"), (size.num_captions, "captions"))
    return ", ".join(f"{count} {what}" for count, what in counts if count is not None)


def _file_text(file: "FoundFile") -> str:
    from muse.pipeline.records import printable

    if file.path is not None:
        return f"read from {printable(file.path)}"
    return f"not there, and not needed: {' or '.join(file.names)}"


def _remarks(each: "SplitInventory") -> "Iterator[str]":
    content = each.content
    if content is None:
        return
    for what, ids in _lists(content).items():
        if ids:
            yield f"{len(ids)} {what}: {_some(ids)}"
    if content.num_empty_captions:
        yield f"{content.num_empty_captions} captions are empty and left out"
    if content.num_repeated_captions:
        yield f"{content.num_repeated_captions} captions are equal to an earlier one"


def _lists(content: "SplitContent") -> dict[str, tuple[str, ...]]:
    return {
        "videos missing": content.missing,
        "videos that several files fit": content.ambiguous,
        "ids listed more than once": content.repeated_ids,
        "videos without a caption": content.without_captions,
    }


def _some(ids: tuple[str, ...]) -> str:
    rest = len(ids) - _NAMES_SHOWN
    return ", ".join(ids[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _usual_splits(found: "Sequence[SplitInventory]") -> str:
    """Those of train, val and test that are there, else test."""
    there = [each.split for each in found if each.content and "-" not in each.split]
    return ",".join(there) or "test"


def _json(found: "Sequence[SplitInventory]") -> list[dict[str, Any]]:
    import dataclasses

    from muse.pipeline.records import printable

    return [
        {
            "split": each.split,
            "protocol": each.label,
            "whole": each.is_whole,
            "as_published": each.has_published_size,
            "published": [dataclasses.asdict(size) for size in each.sizes],
            "problem": each.problem,
            "files": [
                {
                    "names": file.names,
                    "path": printable(file.path) or None,
                    "optional": file.is_optional,
                }
                for file in each.files
            ],
            **({"num_present": each.content.num_present} if each.content else {}),
            **(dataclasses.asdict(each.content) if each.content else {}),
        }
        for each in found
    ]
