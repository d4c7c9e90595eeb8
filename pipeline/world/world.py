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
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muse.errors import UsageError
from muse.pipeline.schedule import available_cpus
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
CAPTION_COLUMNS = ("video", "caption", "split", "axis")
USUAL_NUM_VIDEOS = 320
VIDEOS_PER_TASK = 4  # of a process: some tenths of a second
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
class WorldDescription:
    """What ``world.json`` holds, and all that decides a world's files."""

    version: int = WORLD_VERSION
    """Of the rules."""
    seed: int
    num_videos: int


_DESCRIPTION = tuple(field.name for field in fields(WorldDescription))


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
    num_videos: int | None = None,
    seed: int | None = None,
    num_processes: int | None = None,
    on_videos: Callable[[int, int], None] = lambda made, num_videos: None,
) -> WorldDescription:
    """Makes the files of a world; the same call goes on where it was stopped.

    Args:
        folder: New, empty, or of the same seed: then it is made larger.
        num_videos: At least 1; None for as many as the folder's world has, else `USUAL_NUM_VIDEOS`.
        seed: Decides everything; None for the folder's, else 0.
        num_processes: That draw; one a core if None. One draws in this process.
        on_videos: Called after every video with how many are there, and of how many.

    Raises:
        UsageError: If a number is below 1, or the folder can't be written, or holds another
            world or something else.
    """
    for name, number in (("--num-videos", num_videos), ("--processes", num_processes)):
        if number is not None and number < 1:
            raise UsageError(f"{name} {number}: at least 1 is needed")
    wanted = _wanted(_world_there(folder), folder, num_videos=num_videos, seed=seed)
    videos = list(islice(world_videos(wanted.seed), wanted.num_videos))
    try:
        _write_tables(folder, wanted, videos)
        missing = [video for video in videos if not video_file(folder, video.video_id).exists()]
        done = _written(folder, missing, num_processes or available_cpus())
        for made, _ in enumerate(done, start=len(videos) - len(missing) + 1):
            on_videos(made, len(videos))
    except OSError as error:  # libav's too, where the disk is what failed
        raise UsageError(
            f"{folder}: can't be written ({error.strerror}). Make room or name another folder; the "
            "same command goes on."
        ) from error
    return wanted


def video_file(folder: Path, video_id: str) -> Path:
    """Where a video of a world lies."""
    return folder / VIDEOS / f"{video_id}.mp4"


def read_world(folder: Path) -> WorldDescription:
    """The content of ``world.json``.

    Raises:
        UsageError: If there is none, or it is of another version.
    """
    try:
        content = json.loads((folder / WORLD_FILE).read_text(encoding="utf-8"))
        world = WorldDescription(**{name: int(content[name]) for name in _DESCRIPTION})
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder}: no world ({WORLD_FILE} is missing or damaged). Make one with "
            f"`muse world make NEW_FOLDER --num-videos {USUAL_NUM_VIDEOS} --seed 0`."
        ) from None
    if world.version != WORLD_VERSION:
        raise UsageError(
            f"{folder}: made by version {world.version} of the world's rules, this muse has "
            f"{WORLD_VERSION}: the same seed gives other videos. Make it again in a new folder."
        )
    return world


def _world_there(folder: Path) -> WorldDescription | None:
    """What a folder's world is; None where there is no folder, or an empty one."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: a file. Name a new folder.")
    unfinished = _partial(folder / WORLD_FILE)
    if not folder.exists() or all(path == unfinished for path in folder.iterdir()):
        return None
    return read_world(folder)


def _wanted(
    there: WorldDescription | None, folder: Path, *, num_videos: int | None, seed: int | None
) -> WorldDescription:
    """What a call asks for, where the folder may have it already."""
    if there is None:
        return WorldDescription(num_videos=num_videos or USUAL_NUM_VIDEOS, seed=seed or 0)
    if seed is not None and seed != there.seed:
        raise UsageError(
            f"{folder}: the world of seed {there.seed}, asked for {seed}. Name a new folder."
        )
    if num_videos is not None and num_videos < there.num_videos:
        raise UsageError(
            f"{folder}: has {there.num_videos} videos, asked for {num_videos}. A world can "
            "only be made larger; name a new folder."
        )
    return replace(there, num_videos=num_videos or there.num_videos)


def _write_tables(folder: Path, world: WorldDescription, videos: list[WorldVideo]) -> None:
    """All files of a world but its videos, and the folder of those."""
    folder.mkdir(parents=True, exist_ok=True)
    # The description comes first: by it a folder is known again, however early a run was stopped.
    _write_text(folder / WORLD_FILE, json.dumps(asdict(world)) + "\n")
    _write_text(folder / CAPTIONS_FILE, _captions_csv(videos))
    _write_text(folder / FACTS_FILE, "".join(_fact_line(video) for video in videos))
    (folder / VIDEOS).mkdir(exist_ok=True)


def _written(folder: Path, videos: list[WorldVideo], num_processes: int) -> Iterator[None]:
    """Once for each video, when its file is there, in order."""
    write = partial(_write_video, folder)
    if num_processes == 1 or len(videos) <= VIDEOS_PER_TASK:
        yield from map(write, videos)
        return
    context = multiprocessing.get_context("spawn")  # a fork may inherit a lock of torch's threads
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        with _interrupts_held():
            done = pool.map(write, videos, chunksize=VIDEOS_PER_TASK)
        yield from done


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start in here never see Ctrl-C, which reaches every process of a terminal.

    This one sees it afterwards, and the others end their task: no file is cut.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_video(folder: Path, video: WorldVideo) -> None:
    from muse.pipeline.world.video_writer import write_video  # loads av

    file = video_file(folder, video.video_id)
    frames = frames_of(video.scene)
    write_video(file, frames, frames_per_second=FRAMES_PER_SECOND, side=SIDE)


def _captions_csv(videos: list[WorldVideo]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CAPTION_COLUMNS)
    for video in videos:
        for caption in video.captions:
            writer.writerow((f"{video.video_id}.mp4", caption, video.split, video.fact.axis))
    return text.getvalue()


def _fact_line(video: WorldVideo) -> str:
    line = {"video": video.video_id, "split": video.split, "group": video.group}
    return json.dumps({**line, **video.fact.as_json()}) + "\n"


def _write_text(file: Path, text: str) -> None:
    _partial(file).write_text(text, encoding="utf-8")
    _partial(file).replace(file)


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")
