"""``muse world make``: a world of captioned videos from a seed."""

from pathlib import Path
from typing import Annotated

import typer


def make(
    folder: Annotated[Path, typer.Argument(help="Folder of the world, made or made larger.")],
    num_videos: Annotated[
        int | None,
        typer.Option(
            help="How many; a larger world begins with a smaller one's videos.",
            show_default="320, or as many as the folder's world has",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Decides every frame and every caption.",
            show_default="0, or that of the folder's world",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="That draw videos.", show_default="one a core")
    ] = None,
) -> None:
    """Draw videos of moving objects, with captions of which each asks for one kind of knowledge.

    The same command goes on where it was stopped.
    """
    from muse.cli.interruption import interruptible
    from muse.cli.progress import WorldReporter
    from muse.cli.report import print_line
    from muse.pipeline.world.world import make_world

    with interruptible(), WorldReporter() as reporter:
        world = make_world(
            folder,
            num_videos=num_videos,
            seed=seed,
            num_processes=processes,
            on_videos=reporter.update,
        )
    print_line(
        f"{folder}: {world.num_videos} videos of seed {world.seed}. Next: muse extract --dataset "
        f"world --root {folder} --split train,val,test --encoder openclip:muse-nano "
        "--sampling uniform --num-frames 8 --out STORE"
    )
