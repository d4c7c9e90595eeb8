"""What the processes of the pools of `extraction_ways` do with a video. No torch is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from muse.pipeline.decoding.decoder import DecodeTask, attempt
from muse.pipeline.encoders.preprocessing import crop_to_input
from muse.pipeline.header import Preprocessing, Sampling
from muse.pipeline.records import Clip, Failure, VideoRef
from muse.pipeline.sampling import sampled_frames


def plain_frames(
    path: Path, *, sampling: Sampling, preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """(T', size, size, 3) the frames of a video that has a constant rate, as .mp4 tells it."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # a process a core: threads only add to them
        rate = float(stream.average_rate or 25)
        seconds = np.arange(stream.frames) / rate
        wanted = sampled_frames(seconds, stream.frames / rate, sampling).tolist()
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames.append(crop_to_input(frame.to_ndarray(format="rgb24"), preprocessing))
            if index == wanted[-1]:
                break
    return np.stack(frames)


def clip_of(path: Path, *, task: dict[str, Any]) -> Clip:
    """As a worker of muse makes it."""
    found = attempt(DecodeTask(video=VideoRef(video_id=path.stem, path=path), **task))
    if isinstance(found, Failure):
        raise SystemExit(found.message)
    return found


def num_frames_of(path: Path, *, task: dict[str, Any]) -> int:
    """Decodes the same, and hands nothing on."""
    return len(clip_of(path, task=task).frames_THWC)


def with_path(path: Path, *, decode: Callable[[Path], Any]) -> tuple[Path, Any]:
    """A clip and whose it is: they come in any order."""
    return path, decode(path)
