"""Frames to an H.264 file: the only writer of video files, and the only importer of av for it."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_OPTIONS = {
    "preset": "veryfast",
    "crf": "20",
    "threads": "1",  # more of them, and the bytes depend on how many there are
}


def write_video(
    path: Path, frames: Iterable[NDArray[np.uint8]], *, frames_per_second: int, side: int
) -> None:
    """A file of (side, side, 3) RGB frames; it appears whole."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options=_OPTIONS)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)
