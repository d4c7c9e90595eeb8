"""The world of seed 0, byte for byte: weights were trained on it and numbers published on it.

Where one of these fails, either take the change back, or raise ``WORLD_VERSION``, train muse-nano
again and evaluate everything again. No other test of the world compares with stored output.
"""

import hashlib
from itertools import islice

from muse.pipeline.world.dice import Dice
from muse.pipeline.world.frames import draw
from muse.pipeline.world.sprites import coverage
from muse.pipeline.world.stills import still_caption
from muse.pipeline.world.things import SHAPES
from muse.pipeline.world.world import world_videos

MOMENTS = (0.0, 0.3, 0.6, 0.95)
VIDEOS = tuple(islice(world_videos(0), 36))  # two rounds of all axes, train and test
SPRITE_SIDES = (13, 17, 50, 66)


def sha256(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def test_the_frames_of_seed_0_have_the_published_bytes() -> None:
    frames = [draw(video.scene, moment).tobytes() for video in VIDEOS for moment in MOMENTS]
    assert sha256(*frames) == ("d5cf41b8bcf875344ac12d15c8431d55be9a58a33fb5e3f376ed198cd1546214")


def test_the_captions_of_seed_0_have_the_published_words() -> None:
    lines = [
        f"{video.video_id}\t{video.split}\t{video.group}\t{video.fact.axis}\t{text}\n"
        for video in VIDEOS
        for text in video.captions
    ]
    assert sha256(*lines) == ("cfdca41d8b4c00dfa2368c110515929e82990e13cd942506316d00851d47fc5f")


def test_the_lengths_of_seed_0_are_the_published_ones() -> None:
    assert sha256(*(f"{video.scene.seconds}\n" for video in VIDEOS)) == (
        "7dfab2d4d86ef70d64a2595613aaf6e93702a85834de2fbb86e65b194cc3f3d1"
    )


def test_the_still_captions_of_seed_0_have_the_words_that_muse_nano_read() -> None:
    dice = Dice("stills of a test")
    lines = [
        f"{still_caption(video.scene, moment, dice)}\n" for video in VIDEOS for moment in (0.2, 0.7)
    ]
    assert sha256(*lines) == ("c962ebf6460e608016e52d498e917204a441cac4cf8d4c6c07b8efcb1fbf0ea1")


def test_sprites_have_the_published_bytes() -> None:
    sprites = [coverage(shape, side).tobytes() for shape in SHAPES for side in SPRITE_SIDES]
    assert sha256(*sprites) == ("23ed7314c56f6b63ba218459982669436e3314fa8b539b5f55ca3073f9e854d2")
