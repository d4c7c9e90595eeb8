"""``muse store export``: a store as one file, or its vectors as a table."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from muse.cli.flags import StoreArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from muse.pipeline.store import RawStore


class FormFlag(StrEnum):
    """Values of ``--to``."""

    h5 = "h5"
    parquet = "parquet"
    npy = "npy"


_FORM_OF_SUFFIX = {
    ".h5": FormFlag.h5,
    ".hdf5": FormFlag.h5,
    ".parquet": FormFlag.parquet,
    ".npy": FormFlag.npy,
}
_SAY_EVERY_SECONDS = 10.0


def export(
    store: StoreArgument,
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[
        FormFlag | None,
        typer.Option(
            help="h5: the whole store, which every command reads. parquet, npy: one mean-pooled "
            "vector a video. By the file's name if not given."
        ),
    ] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="The captions' vectors, not the videos'.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of that name.")
    ] = False,
) -> None:
    """Write a store to one file, or its vectors to a table for other tools."""
    from muse.cli.report import print_line, print_note, size_text
    from muse.errors import UsageError
    from muse.pipeline.store import open_raw_store

    form = _form_of(file, to)
    if form is FormFlag.h5 and captions:
        raise UsageError("--captions: goes with --to parquet or npy. An h5 file has captions too.")
    opened = open_raw_store(store)
    if form is FormFlag.h5:
        written, what = _export_store(opened, file, overwrite=overwrite)
    else:
        written, what = _export_vectors(
            opened, file, form=form, captions=captions, overwrite=overwrite
        )
    pending = opened.counts().pending
    if pending:
        print_note(
            f"{pending} of {len(opened.video_ids)} videos are pending and not in it. Finish the "
            "store with `muse extract`, then export again."
        )
    size = sum(path.stat().st_size for path in written)
    print_line(f"{', '.join(map(str, written))} ({size_text(size)}): {what}")


def _form_of(file: Path, to: FormFlag | None) -> FormFlag:
    from muse.errors import UsageError

    by_name = _FORM_OF_SUFFIX.get(file.suffix.lower())
    if to is not None and by_name not in (None, to):
        raise UsageError(f"{file}: its name says {by_name}, --to says {to}. Change one of them.")
    form = to or by_name
    if form is None:
        raise UsageError(f"{file}: its name says no form. Give --to h5, parquet or npy.")
    return form


def _export_store(
    store: "RawStore", file: Path, *, overwrite: bool
) -> tuple[tuple[Path, ...], str]:
    from muse.cli.progress import counts_text
    from muse.pipeline.exports.hdf5_writer import write_hdf5

    write_hdf5(store, file, overwrite=overwrite, on_progress=_progress())
    counts = store.counts()
    return (file,), f"{counts_text(counts)}; captions embedded {counts.captions_embedded}"


def _export_vectors(
    store: "RawStore", file: Path, *, form: FormFlag, captions: bool, overwrite: bool
) -> tuple[tuple[Path, ...], str]:
    from muse.pipeline.exports.export import write_captions, write_pooled

    kind: Literal["npy", "parquet"] = "npy" if form is FormFlag.npy else "parquet"
    counts = store.counts()
    if captions:
        written = write_captions(store, file, kind=kind, overwrite=overwrite)
        return written, f"{counts.captions_embedded} of {counts.captions} captions"
    written = write_pooled(store, file, kind=kind, overwrite=overwrite)
    return written, f"{counts.ok} of {counts.listed} videos"


def _progress() -> "Callable[[int, int], None]":
    """Says every few seconds how far the writing has come."""
    from muse.cli.report import print_progress

    last = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SAY_EVERY_SECONDS:
            last = time.monotonic()
            print_progress(f"export {done}/{total} videos")

    return say
