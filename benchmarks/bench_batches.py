"""What it is worth that a GPU gets a batch while it computes another: frames a second, three ways.

``one_at_a_time``: each batch is put together, sent, computed and brought back before the next.
``under_way``: `muse.pipeline.encoders.batches`, as an extraction does. ``network_alone``: batches
that are on the device already and whose maps stay there, which is what nobody can pass. The ways
take turns, and the fastest of each counts.

Usage: python benchmarks/bench_batches.py --encoder openclip:ViT-B-32/random:0 --batch-videos 8
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from muse.pipeline.encoders.base import Encoder, build_encoder, resolve_device
from muse.pipeline.encoders.batches import BatchEncoder, FrameBatch, FramePart
from muse.pipeline.encoders.exact_resize import resized_levels
from muse.pipeline.encoders.pil_resize import Resize, resize_of

FRAMES = 12  # of a video
VIEWS = ("tokens",)


class Bench:
    """Batches of random videos, and the ways to encode them.

    Args:
        encoder: On the device.
        device: ``cpu`` or ``cuda``.
        num_videos: Of a batch.
        num_batches: Of a run.
        source: (height, width) of frames that are resized on the device; None: they come resized.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: str,
        num_videos: int,
        num_batches: int,
        source: tuple[int, int] | None,
    ) -> None:
        self._encoder, self._device, self._num_batches = encoder, device, num_batches
        self._batch_encoder = BatchEncoder(encoder, device=device)
        self._resize, self._clips = _clips(encoder, num_videos, source)
        self.num_frames = num_videos * FRAMES
        """Of a batch."""

    def under_way(self) -> None:
        batches = (self._batch() for _ in range(self._num_batches))
        for maps in self._batch_encoder.maps_of(batches, VIEWS):
            _taken_over(maps["tokens"])

    def one_at_a_time(self) -> None:
        size = self._encoder.info.preprocessing.size
        for _ in range(self._num_batches):
            pixels = np.zeros((self.num_frames, size, size, 3), np.uint8)
            for number, clip_THWC in enumerate(self._clips):
                pixels[number * FRAMES : (number + 1) * FRAMES] = self._inputs(clip_THWC)
            _taken_over(self._encoder.encode_frames(pixels, VIEWS)["tokens"])

    def network_alone(self) -> None:
        size = self._encoder.info.preprocessing.size
        shape = (self.num_frames, size, size, 3)
        frames_BHWC = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        for _ in range(self._num_batches):
            self._encoder.frame_maps(frames_BHWC, VIEWS)
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _inputs(self, clip_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._resize is None:
            return clip_THWC
        sent = torch.tensor(clip_THWC, device=self._device)
        levels: NDArray[np.uint8] = resized_levels(sent, self._resize).cpu().numpy()
        return levels.transpose(0, 2, 3, 1)

    def _batch(self) -> FrameBatch:
        parts = [
            FramePart(first=number * FRAMES, frames_NHWC=clip_THWC, resize=self._resize)
            for number, clip_THWC in enumerate(self._clips)
        ]
        return FrameBatch(num_frames=self.num_frames, parts=parts)


def _clips(
    encoder: Encoder, num_videos: int, source: tuple[int, int] | None
) -> tuple[Resize | None, list[NDArray[np.uint8]]]:
    """Random clips, and the resize that they need."""
    preprocessing, resize = encoder.info.preprocessing, None
    height = width = preprocessing.size
    if source is not None:
        resize = resize_of(*source, preprocessing)
        height, width = (span.stop - span.start for span in (resize.down, resize.across))
    rng = np.random.default_rng(0)
    shape = (FRAMES, height, width, 3)
    return resize, [rng.integers(0, 256, shape, np.uint8) for _ in range(num_videos)]


def _taken_over(tokens_BKD: NDArray[np.float16]) -> list[NDArray[np.float16]]:
    """Each video's, copied, as an extraction does with what it writes."""
    return [
        tokens_BKD[first : first + FRAMES].copy() for first in range(0, len(tokens_BKD), FRAMES)
    ]


def fastest(ways: dict[str, Callable[[], None]], rounds: int) -> Iterator[tuple[str, float]]:
    """Seconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:  # the first warms up
                taken[name].append(time.perf_counter() - started)
    return ((name, min(seconds)) for name, seconds in taken.items())


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="openclip:ViT-B-32/random:0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-videos", type=int, default=8)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", help="HEIGHTxWIDTH of frames that are resized on the device")
    flags = parser.parse_args()
    device = resolve_device(flags.device)
    encoder = build_encoder(flags.encoder, device=device, precision="auto")
    source = None
    if flags.source:
        height, _, width = flags.source.partition("x")
        source = (int(height), int(width))
    bench = Bench(
        encoder,
        device=device,
        num_videos=flags.batch_videos,
        num_batches=flags.batches,
        source=source,
    )
    ways = {
        way.__name__: way for way in (bench.one_at_a_time, bench.under_way, bench.network_alone)
    }
    num_frames = flags.batches * bench.num_frames
    rates = {name: round(num_frames / seconds) for name, seconds in fastest(ways, flags.rounds)}
    print(json.dumps({**vars(flags), "device": device, "frames_per_second": rates}))


if __name__ == "__main__":
    main()
