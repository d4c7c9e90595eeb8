"""Makes the demo's video files: photographs with a moving camera, H.264, with captions.

The photographs come with scikit-image and scikit-learn. Each becomes three clips with different
camera moves: two to train on and one to test on. Real files and real decoding, but a tiny set: its
numbers show that the commands work, not how well retrieval does.

Usage: python make_clips.py FOLDER    writes FOLDER/videos/*.mp4 and FOLDER/captions.csv
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_image

FRAMES_PER_SECOND = 12
SECONDS = 6
SIDE = 256  # pixels; at 240 the bytes that x264 wrote changed from run to run
MOVES = {"zoom-in": "train", "pan": "train", "zoom-out": "test"}

# The first two texts caption the training clips, the third the test clip.
SUBJECTS = {
    "astronaut": (
        "an astronaut in an orange suit smiles",
        "a woman in a space suit",
        "portrait of an astronaut",
    ),
    "chelsea": ("a cat looks into the camera", "the face of a tabby cat", "close-up of a cat"),
    "coffee": ("a cup of coffee on a table", "an espresso with a spoon", "coffee in a white cup"),
    "rocket": (
        "a rocket on its launch pad",
        "a rocket before lift-off at night",
        "a space rocket stands ready",
    ),
    "camera": (
        "a man looks through a camera on a tripod",
        "a cameraman in a field",
        "a man films with an old camera",
    ),
    "coins": ("old coins in rows", "many ancient coins lie side by side", "a collection of coins"),
    "brick": ("a wall of bricks", "the brick wall of a house", "bricks and mortar"),
    "grass": ("green grass seen from above", "a lawn", "blades of grass"),
    "gravel": ("small stones on the ground", "grey gravel", "pebbles on a path"),
    "moon": ("the surface of the moon", "craters on the moon", "the moon seen through a telescope"),
    "hubble_deep_field": (
        "galaxies in deep space",
        "many stars and galaxies",
        "the night sky full of galaxies",
    ),
    "retina": (
        "the inside of a human eye",
        "blood vessels of a retina",
        "a medical picture of an eye",
    ),
    "stereo_motorcycle": (
        "a motorcycle in a garage",
        "a parked red motorbike",
        "a motorcycle stands in a workshop",
    ),
    "page": ("a page of printed text", "text of an old book", "a printed page of a book"),
    "china.jpg": (
        "a Chinese temple under a blue sky",
        "a pagoda with a curved roof",
        "a temple in China",
    ),
    "flower.jpg": ("a flower in bloom", "petals of an orange flower", "close-up of a blossom"),
}


def photograph(name: str) -> Image.Image:
    """One of the photographs, in colour."""
    if name.endswith(".jpg"):
        return Image.fromarray(load_sample_image(name))
    pixels = getattr(photographs, name)()
    image = pixels[0] if isinstance(pixels, tuple) else pixels
    return Image.fromarray(np.asarray(image)).convert("RGB")


def camera_move(image: Image.Image, move: str) -> Iterator[NDArray[np.uint8]]:
    """(SIDE, SIDE, 3) frames of a window that moves over the photograph."""
    width, height = image.size
    for progress in np.linspace(0, 1, FRAMES_PER_SECOND * SECONDS):
        share = {"zoom-in": 1.0 - 0.4 * progress, "zoom-out": 0.55 + 0.4 * progress, "pan": 0.7}[
            move
        ]
        side = share * min(width, height)
        free_x, free_y = width - side, height - side
        left = free_x * (progress if move == "pan" else 0.5)
        top = free_y * 0.5
        window = image.resize((SIDE, SIDE), box=(left, top, left + side, top + side))
        yield np.asarray(window)


def write_clip(path: Path, frames: Iterator[NDArray[np.uint8]]) -> None:
    """An H.264 file of the frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "threads": "1"}  # the same bytes anywhere
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main(folder: Path) -> None:
    """Writes the clips and their caption file."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for name, texts in SUBJECTS.items():
        image = photograph(name)
        for place, (move, split) in enumerate(MOVES.items()):
            video = f"{Path(name).stem}_{move}.mp4"
            write_clip(folder / "videos" / video, camera_move(image, move))
            captions = texts[:2] if split == "train" else texts[place:]
            rows += [(video, caption, split) for caption in captions]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("video", "caption", "split"))
        writer.writerows(rows)
    print(f"{len(SUBJECTS) * len(MOVES)} clips, {len(rows)} captions in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
