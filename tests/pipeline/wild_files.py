"""Files that are no good videos, written by libav, PIL and byte patches.

A maker writes one file at a path. Every made frame is painted with its index (tests/conftest.py).
Nothing of third parties; what decoding has to make of each is the table of adversarial.py.
"""

import os
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

MakeVideo = Callable[..., Path]
Maker = Callable[[Path, MakeVideo], object]


NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def colour(index: int) -> tuple[int, int, int]:
    """What tests/conftest.py paints frame ``index`` with, below 8."""
    return (20 + 30 * index, 20, 20)


def video(codec: str = "libx264", pix_fmt: str = "yuv420p", **options: object) -> Maker:
    """Ten painted frames; ``options`` are those of `make_video`."""
    arguments = {"num_frames": 10, "codec": codec, "pix_fmt": pix_fmt, **options}
    return lambda path, make_video: make_video(path, **arguments)


def cut(make: Maker, tenths: int) -> Maker:
    """The first ``tenths`` elevenths of a file."""

    def made(path: Path, make_video: MakeVideo) -> None:
        make(path, make_video)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * tenths // 11])

    return made


def patched(make: Maker, patch: Callable[[bytes], bytes]) -> Maker:
    """A file after a change of its bytes."""

    def made(path: Path, make_video: MakeVideo) -> None:
        make(path, make_video)
        content = patch(path.read_bytes())
        path.write_bytes(content)

    return made


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """A patch that has to find what it replaces."""

    def patch(content: bytes) -> bytes:
        assert old in content, f"{old!r} is not in the file"
        return content.replace(old, new)

    return patch


def written(content: bytes) -> Maker:
    """A file of these bytes."""
    return lambda path, make_video: path.write_bytes(content)


def stamped(make: Maker, suffix: str, stamp: Callable[[int], int]) -> Maker:
    """The packets of an intra-only video with other time stamps, in tenths of a second."""

    def made(path: Path, make_video: MakeVideo) -> None:
        plain = path.with_suffix(f".plain{suffix}")
        make(plain, make_video)
        options = {"avoid_negative_ts": "disabled"}
        with av.open(str(plain)) as reader, av.open(str(path), "w", options=options) as writer:
            stream = reader.streams.video[0]
            copy = writer.add_stream_from_template(stream)
            packets = [packet for packet in reader.demux(stream) if packet.size]
            for index, packet in enumerate(packets):
                packet.pts = packet.dts = stamp(index)
                packet.time_base = Fraction(1, 10)
                packet.stream = copy
                writer.mux(packet)
        plain.unlink()

    return made


def titled(path: Path, make_video: MakeVideo) -> None:
    """A title in Latin-1."""
    plain = make_video(path.with_suffix(f".plain{path.suffix}"), num_frames=10)
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        writer.metadata["title"] = "Caffe latte"
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    plain.unlink()
    path.write_bytes(replaced(b"Caffe latte", b"Caff\xe8 latte")(path.read_bytes()))


def song(path: Path, make_video: MakeVideo, *, cover: bool = False) -> None:
    """A second of silence, with a picture of the cover or without."""
    codec = "mp3" if path.suffix == ".mp3" else "aac"
    with av.open(str(path), "w", format="mp4" if codec == "aac" else None) as container:
        stream = container.add_stream(codec, rate=44100)
        stream.codec_context.layout = "mono"
        picture = _cover_stream(container) if cover else None
        if picture is not None:
            container.mux(_cover_packets(picture))
        for _ in range(10):
            samples = np.zeros((1, stream.codec_context.frame_size or 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _cover_stream(container: av.container.OutputContainer) -> av.VideoStream:
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
    stream.disposition = Disposition.attached_pic.value
    return stream


def _cover_packets(stream: av.VideoStream) -> list[av.Packet]:
    image = np.full((48, 64, 3), 200, np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return [*stream.encode(frame), *stream.encode()]


def video_with_cover(path: Path, make_video: MakeVideo) -> None:
    """An .mp4 whose first video stream is its cover image: the metadata come before the track."""
    plain = make_video(path.with_suffix(".plain.mp4"), num_frames=10)
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        copy, picture = writer.add_stream_from_template(stream), _cover_stream(writer)
        writer.mux(_cover_packets(picture))
        for packet in reader.demux(stream):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    plain.unlink()
    path.write_bytes(_with_metadata_first(path.read_bytes()))
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & Disposition.attached_pic


def _with_metadata_first(content: bytes) -> bytes:
    moov_at = content.index(b"moov") - 4
    (size,) = struct.unpack(">I", content[moov_at : moov_at + 4])
    boxes = dict(_boxes(content[moov_at + 8 : moov_at + size]))
    order = [b"mvhd", b"udta", *(kind for kind in boxes if kind not in (b"mvhd", b"udta"))]
    moov = b"".join(boxes[kind] for kind in order)
    return content[: moov_at + 8] + moov + content[moov_at + size :]


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        yield kind, content[at : at + size]
        at += size


def two_videos(path: Path, make_video: MakeVideo) -> None:
    """Two video streams: the painted frames, and grey ones of another size."""
    plain = make_video(path.with_suffix(".plain.mkv"), num_frames=10)
    grey = make_video(
        path.with_suffix(".grey.mkv"), num_frames=10, size=(128, 96), image=np.uint8([[[90] * 3]])
    )
    with (
        av.open(str(plain)) as left,
        av.open(str(grey)) as right,
        av.open(str(path), "w") as writer,
    ):
        copies = [writer.add_stream_from_template(r.streams.video[0]) for r in (left, right)]
        for reader, copy in zip((left, right), copies, strict=True):
            for packet in reader.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    writer.mux(packet)
    plain.unlink()
    grey.unlink()


def animation(path: Path, make_video: MakeVideo, *, kind: str) -> None:
    """Five frames of an animated picture, by PIL."""
    pictures = [Image.new("RGB", (64, 48), colour(index)) for index in range(5)]
    options = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(
        path, kind, save_all=True, append_images=pictures[1:], duration=100, loop=0, **options
    )


def picture(path: Path, make_video: MakeVideo, *, kind: str) -> None:
    """A photo under a video's name."""
    Image.new("RGB", (64, 48), colour(3)).save(path, kind)


def archive(path: Path, make_video: MakeVideo) -> None:
    """A .zip or .tar of a text, under a video's name."""
    text = path.with_suffix(".txt")
    text.write_text("hello\n" * 100, encoding="utf-8")
    if "zip" in path.name:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(text, "hello.txt")
    else:
        with tarfile.open(path, "w") as bundle:
            bundle.add(text, "hello.txt")
    text.unlink()


def playlist(text: bytes) -> Maker:
    """A text that names the video beside it, under a video's name."""

    def made(path: Path, make_video: MakeVideo) -> None:
        named = make_video(path.with_suffix(".part.ts"), num_frames=3)
        path.write_bytes(text % named.name.encode())

    return made


def linked(target: str) -> Maker:
    """A symbolic link."""
    return lambda path, make_video: path.symlink_to(target)


def a_socket(path: Path, make_video: MakeVideo) -> None:
    """What a server that was killed leaves behind."""
    here = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def joined_late(path: Path, make_video: MakeVideo) -> None:
    """A transport stream from the middle of its first group of pictures on, as a tuner gives it."""
    options = {"bf": "2", "x264-params": "open-gop=1:keyint=10"}
    make_video(path, num_frames=30, codec_options=options)
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[(starts[5] or 0) // 188 * 188 :])


def packed_bframes(path: Path, make_video: MakeVideo) -> None:
    """An .avi as DivX wrote it: two frames in one packet, and one that says "nothing new" after."""
    options = {"bf": "1", "b_strategy": "0", "g": "50", "qmax": "3"}
    plain = make_video(
        path.with_suffix(".plain.avi"), num_frames=20, codec="mpeg4", codec_options=options
    )
    with av.open(str(plain)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        copy.codec_context.extradata = (stream.codec_context.extradata or b"") + _DIVX_PACKED
        pictures = [bytes(packet) for packet in reader.demux(stream) if packet.size]
        for index, content in enumerate(_packed(pictures)):
            packet = av.Packet(content)
            packet.pts = packet.dts = index
            packet.time_base = Fraction(1, 10)
            packet.is_keyframe = index == 0
            packet.stream = copy
            writer.mux(packet)
    plain.unlink()


_VOP, _NOTHING_NEW = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb6\x53\x7f"
_DIVX_PACKED = b"\x00\x00\x01\xb2DivX503b1393p"


def _packed(pictures: list[bytes]) -> Iterator[bytes]:
    following = [*pictures[1:], b""]
    is_b = [_VOP in p and p[p.index(_VOP) + 4] >> 6 == 2 for p in following]
    for picture, next_one, next_is_b in zip(pictures, following, is_b, strict=True):
        if next_is_b:
            yield picture + next_one
        elif picture[picture.index(_VOP) + 4] >> 6 == 2:
            yield _NOTHING_NEW
        else:
            yield picture


def damaged(frame: int) -> Callable[[bytes], bytes]:
    """A patch that destroys one SimpleBlock of a Matroska file."""

    def patch(content: bytes) -> bytes:
        blocks = list(_simple_blocks(content))
        at, size = blocks[frame]
        return content[: at + 4] + b"\xff" * (size - 4) + content[at + size :]

    return patch


def block_times(change: Callable[[list[int]], list[int]]) -> Callable[[bytes], bytes]:
    """A patch of the times of a Matroska file's frames, milliseconds."""

    def patch(content: bytes) -> bytes:
        places = [at + 1 for at, _ in _simple_blocks(content)]
        times = [struct.unpack(">h", content[at : at + 2])[0] for at in places]
        changed = bytearray(content)
        for at, time in zip(places, change(times), strict=True):
            changed[at : at + 2] = struct.pack(">h", time)
        return bytes(changed)

    return patch


def swap_4_and_5(times: list[int]) -> list[int]:
    return [*times[:4], times[5], times[4], *times[6:]]


def _simple_blocks(content: bytes) -> Iterator[tuple[int, int]]:
    """(offset behind the size, size) of each SimpleBlock with a size of 1, 2 or 8 bytes."""
    at = content.index(bytes.fromhex("1F43B675"))
    at += 4 + 9 - content[at + 4].bit_length()
    while at < len(content):
        kind, first = content[at], content[at + 1]
        if content[at : at + 4] == bytes.fromhex("1F43B675"):
            at += 4 + 9 - content[at + 4].bit_length()
            continue
        if content[at : at + 4] == bytes.fromhex("1C53BB6B"):
            return
        length = 9 - first.bit_length()
        size = int.from_bytes(content[at + 1 : at + 1 + length], "big") & ((1 << 7 * length) - 1)
        if kind == 0xA3:
            yield at + 1 + length, size
        at += 1 + length + size


def claims_packet(number: int) -> Callable[[bytes], bytes]:
    """A patch of one entry of an .mp4's table of sample sizes (14496-12, 8.7.3)."""

    def patch(content: bytes) -> bytes:
        at = content.index(b"stsz") + 4 + 12 + 4 * number
        return content[:at] + struct.pack(">I", 0x3600_0000) + content[at + 4 :]

    return patch


def claims_size(place: bytes, offset: int, layout: str) -> Callable[[bytes], bytes]:
    """A patch that makes a header claim 100,000 x 100,000 pixels, or as many as it can."""
    side = 100_000 if "I" in layout or "i" in layout else 65_535

    def patch(content: bytes) -> bytes:
        at = content.index(place) + offset
        new = struct.pack(layout, side, side)
        return content[:at] + new + content[at + len(new) :]

    return patch
