"""``muse head import``: a checkpoint of the published code as a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from muse.cli.flags import StoreArgument


def import_head(
    store: StoreArgument,
    weights: Annotated[
        Path, typer.Argument(help="pytorch_model.bin.N, as hrtang22/MUSE saves it.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run, made.")],
    seed: Annotated[
        int, typer.Option(help="Of the pyramid, which such a file does not hold.")
    ] = 42,
) -> None:
    """Make a run of a published checkpoint, to evaluate it on a store."""
    from muse.cli.report import print_line, print_note
    from muse.head.published import import_published
    from muse.pipeline.store import open_store

    found = import_published(weights, open_store(store), out, seed=seed, command=tuple(sys.argv))
    print_line(
        f"{found.num_read} tensors of {weights}: {found.head.depth} blocks, {found.head.mixer}, "
        f"width {found.head.dim}; {found.num_ignored} others, CLIP's, are not a head's: {out}"
    )
    print_note(
        f"the pyramid is random (seed {seed}), not the one it was trained with: the published code "
        "does not save it. And its CLIP was trained along; this store's was not."
    )
    if not found.has_logit_scale:
        print_note("no clip.logit_scale in the file: the temperature is the store's encoder's.")
