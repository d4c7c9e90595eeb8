"""Generates a corpus of H.264 clips with captions, any number and size, the same for a seed.

Usage: python benchmarks/corpus.py FOLDER --num-videos 200 --seconds 15 --size 320x240 --gop 250
Writes FOLDER/videos/*.mp4 and FOLDER/captions.csv (9 of 10 videos in split train, the rest test).
"""

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import av
import numpy as np

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "white": (240,) * 3}
PLACES = ("left", "middle", "right")
RATE = 30  # frames a second


def caption_of(number: int, *, seed: int) -> tuple[str, str]:
    """Colour and place of the square that clip ``number`` shows."""
    rng = np.random.default_rng([seed, number])
    return str(rng.choice(list(COLOURS))), str(rng.choice(PLACES))


def write_clip(
    number: int, *, folder: Path, seconds: float, size: tuple[int, int], gop: int, seed: int
) -> None:
    """A square that rises over a drifting texture, with sensor noise."""
    width, height = size
    rng = np.random.default_rng([seed, number, 1])
    squares = rng.integers(0, 160, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    texture = squares.repeat(8, 0).repeat(8, 1)
    colour, place = caption_of(number, seed=seed)
    side, left = height // 4, (PLACES.index(place) + 0.5) * width / 3
    num_frames = round(seconds * RATE)
    with av.open(str(folder / "videos" / f"clip{number:06d}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "g": str(gop), "threads": "1"}
        for frame_number in range(num_frames):
            image = np.roll(texture, frame_number // 2, axis=1)[:height, :width].copy()
            image += rng.integers(0, 12, image.shape, dtype=np.uint8)
            top = int((height - side) * (1 - frame_number / num_frames))
            x = int(left) - side // 2
            image[top : top + side, max(0, x) : x + side] = COLOURS[colour]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> None:
    """Writes the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-videos", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--gop", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    (flags.folder / "videos").mkdir(parents=True, exist_ok=True)
    width, height = map(int, flags.size.split("x"))
    write = partial(
        write_clip,
        folder=flags.folder,
        seconds=flags.seconds,
        size=(width, height),
        gop=flags.gop,
        seed=flags.seed,
    )
    with ProcessPoolExecutor() as pool:
        list(pool.map(write, range(flags.num_videos)))
    with (flags.folder / "captions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("video", "caption", "split"))
        for number in range(flags.num_videos):
            colour, place = caption_of(number, seed=flags.seed)
            split = "test" if number % 10 == 9 else "train"
            writer.writerow(
                (f"clip{number:06d}.mp4", f"a {colour} square rises on the {place}", split)
            )


if __name__ == "__main__":
    main()
