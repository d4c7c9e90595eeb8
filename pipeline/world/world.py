"""A world: which videos it has, what is true of them, and making its files.

A world is decided by its seed alone: a larger one begins with the videos of a smaller one. On
disk::

    DIR/world.json      number of videos, seed, version of this module's rules
    DIR/captions.csv    video, caption, split, axis
    DIR/facts.jsonl     a line a video: what is true of it
    DIR/videos/         NUMBER.mp4

Knows nothing of encoders or stores.
"""

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muse.errors import UsageError
from muse.pipeline.world.dice import Dice
from muse.pipeline.world.facts import AXES, Axis, Fact
from muse.pipeline.world.frames import draw
from muse.pipeline.world.grammar import captions_of
from muse.pipeline.world.scenes import SIDE, Scene
from muse.pipeline.world.stories import contrast_group
from muse.pipeline.world.things import Split

WORLD_VERSION = 1
"""Changes when the same seed gives other frames or captions."""
FRAMES_PER_SECOND = 8
CAPTIONS_PER_VIDEO = 4
WORLD_FILE, CAPTIONS_FILE, FACTS_FILE, VIDEOS = (
    "world.json",
    "captions.csv",
    "facts.jsonl",
    "videos",
)

# Groups come in rounds, one of each axis; ``what`` has two, since its groups have one video.
_ROUND: tuple[Axis, ...] = ("what", *AXES)
_ROUND_SPLITS: tuple[Split, ...] = ("train", "test", "train", "train", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldVideo:
    """One video before it is drawn."""

    video_id: str
    split: Split
    group: int
    """Number of its contrast group."""
    fact: Fact
    scene: Scene
    captions: tuple[str, ...]


def world_videos(seed: int) -> Iterator[WorldVideo]:
    """The videos of a seed, without end."""
    numbers = count()
    for group in count():
        turn, place = divmod(group, len(_ROUND))
        split = _ROUND_SPLITS[turn % len(_ROUND_SPLITS)]
        stories = contrast_group(_ROUND[place], split, Dice("story", seed, group))
        for fact, scene in stories:
            number = next(numbers)
            texts = captions_of(fact, Dice("captions", seed, number), CAPTIONS_PER_VIDEO)
            yield WorldVideo(
                video_id=f"{number:06d}",
                split=split,
                group=group,
                fact=fact,
                scene=scene,
                captions=tuple(texts),
            )


def frames_of(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """The frames of a scene at `FRAMES_PER_SECOND`, each (SIDE, SIDE, 3) RGB."""
    num_frames = round(scene.seconds * FRAMES_PER_SECOND)
    for number in range(num_frames):
        yield draw(scene, number / num_frames)


def make_world(
    folder: Path,
    *,
    num_videos: int,
    seed: int,
    num_processes: int | None = None,
    on_videos: Callable[[int, int], None] = lambda made, num_videos: None,
) -> None:
    """Makes the files of a world; the same call goes on where it was stopped.

    Args:
        folder: New, empty, or of the same seed: then it is made larger.
        num_videos: At least 1.
        seed: Decides everything.
        num_processes: That draw; one a core if None.
        on_videos: Called now and then with how many videos are there, and of how many.

    Raises:
        UsageError: If the number is below 1, or the folder holds another world or something else.
    """
    if num_videos < 1:
        raise UsageError(f"--num-videos {num_videos}: at least 1 is needed")
    _require_same_world(folder, num_videos=num_videos, seed=seed)
    (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
    description = {"version": WORLD_VERSION, "seed": seed, "num_videos": num_videos}
    _write_text(folder / WORLD_FILE, json.dumps(description) + "\n")
    videos = list(islice(world_videos(seed), num_videos))
    _write_text(folder / CAPTIONS_FILE, _captions_csv(videos))
    _write_text(folder / FACTS_FILE, "".join(_fact_line(video) for video in videos))
    missing = [video for video in videos if not video_file(folder, video.video_id).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes or os.cpu_count(), mp_context=context) as pool:
        made = num_videos - len(missing)
        for _ in pool.map(partial(_write_video, folder), missing, chunksize=4):
            made += 1
            on_videos(made, num_videos)


def video_file(folder: Path, video_id: str) -> Path:
    """Where a video of a world lies."""
    return folder / VIDEOS / f"{video_id}.mp4"


def _write_video(folder: Path, video: WorldVideo) -> None:
    from muse.pipeline.world.video_writer import write_video  # loads av

    file = video_file(folder, video.video_id)
    frames = frames_of(video.scene)
    write_video(file, frames, frames_per_second=FRAMES_PER_SECOND, side=SIDE)


def read_world(folder: Path) -> dict[str, Any]:
    """The content of ``world.json``.

    Raises:
        UsageError: If there is none, or it is of another version.
    """
    file = folder / WORLD_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = int(content["version"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder}: no world ({WORLD_FILE} is missing or damaged). "
            f"Make one with `muse world make {folder} --num-videos 320 --seed 0`."
        ) from None
    if version != WORLD_VERSION:
        raise UsageError(
            f"{folder}: made by version {version} of the world's rules, this muse has "
            f"{WORLD_VERSION}: the same seed gives other videos. Make it again in a new folder."
        )
    return dict(content)


def _require_same_world(folder: Path, *, num_videos: int, seed: int) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    found = read_world(folder)
    if found["seed"] != seed:
        raise UsageError(
            f"{folder}: the world of seed {found['seed']}, asked for {seed}. Name a new folder."
        )
    if found["num_videos"] > num_videos:
        raise UsageError(
            f"{folder}: has {found['num_videos']} videos, asked for {num_videos}. A world can "
            "only be made larger; name a new folder."
        )


def _captions_csv(videos: list[WorldVideo]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "caption", "split", "axis"))
    for video in videos:
        for caption in video.captions:
            writer.writerow((f"{video.video_id}.mp4", caption, video.split, video.fact.axis))
    return text.getvalue()


def _fact_line(video: WorldVideo) -> str:
    line = {"video": video.video_id, "split": video.split, "group": video.group}
    return json.dumps({**line, **video.fact.as_json()}) + "\n"


def _write_text(file: Path, text: str) -> None:
    partial_file = file.with_name(f".{file.name}.partial")
    partial_file.write_text(text, encoding="utf-8")
    partial_file.replace(file)
