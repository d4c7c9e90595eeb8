"""``muse world make``: a world of captioned videos from a seed."""

from pathlib import Path
from typing import Annotated

import typer


def make(
    folder: Annotated[Path, typer.Argument(help="Folder of the world, made or made larger.")],
    num_videos: Annotated[
        int, typer.Option(help="How many; a larger world begins with a smaller one's videos.")
    ] = 320,
    seed: Annotated[int, typer.Option(help="Decides every frame and every caption.")] = 0,
    processes: Annotated[
        int | None, typer.Option(help="That draw videos; default, one a core.")
    ] = None,
) -> None:
    """Draw videos of moving objects, with captions of which each asks for one kind of knowledge."""
    from muse.cli.progress import interruptible
    from muse.cli.report import print_line, print_progress
    from muse.pipeline.world.world import make_world

    def report(made: int, num_videos: int) -> None:
        if made * 10 // num_videos > (made - 1) * 10 // num_videos:
            print_progress(f"world {made}/{num_videos} videos")

    with interruptible():
        make_world(
            folder, num_videos=num_videos, seed=seed, num_processes=processes, on_videos=report
        )
    print_line(
        f"{folder}: {num_videos} videos of seed {seed}. Next: muse extract --dataset world "
        f"--root {folder} --split train,val,test --encoder openclip:muse-nano --out STORE"
    )
