"""Files that a video folder of the wild holds, made here, and what decoding has to make of each.

Every made frame is painted with its index (tests/conftest.py), so a case names the frames that have
to come out. Nothing of third parties: libav, PIL and byte patches write them.
"""

import os
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from muse.pipeline.header import Preprocessing, Sampling

PREPROCESSING = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
EVERY_FRAME = Sampling(kind="uniform", num_frames=500)
WORDS_OF_A_NEXT_STEP = (
    "Convert", "List", "Make", "Put", "Replace", "Use", "replace", "or remove",
)  # fmt: skip

MakeVideo = Callable[..., Path]
Maker = Callable[[Path, MakeVideo], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file and what it has to give."""

    name: str
    make: Maker
    expects: list[int] | int | str
    """The indices of the frames, their number, or a word of `FAILURE_REASONS`."""
    is_slow: bool = False


FIRST_TEN = list(range(10))
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def colour(index: int) -> tuple[int, int, int]:
    """What tests/conftest.py paints frame ``index`` with, below 8."""
    return (20 + 30 * index, 20, 20)


# -- makers --------------------------------------------------------------------------------------


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


# -- the table -----------------------------------------------------------------------------------

_INTRA = {"g": "1", "bf": "0"}
_FRONT = {"container_options": {"movflags": "+faststart"}}
_NOISY = video(num_frames=20, image=NOISE, codec_options={"g": "5"})
_NOISY_FRONT = video(num_frames=20, image=NOISE, codec_options={"g": "5"}, **_FRONT)
_LOSSLESS = video("ffv1", "bgr0")
_FRAGMENTS = video(
    num_frames=40,
    codec_options={"g": "5"},
    container_options={"movflags": "+frag_keyframe+empty_moov"},
)
_CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}
_PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\ngood.mp4\n#EXT-X-ENDLIST\n"

CODECS = (
    Case(name="h264.mp4", make=video(), expects=FIRST_TEN),
    Case(name="hevc.mp4", make=video("libx265", codec_options={"x265-params": "log-level=none"}),
         expects=FIRST_TEN),
    Case(name="vp8.webm", make=video("libvpx"), expects=FIRST_TEN, is_slow=True),
    Case(name="vp8_hidden_frames.webm", is_slow=True, expects=list(range(40)),
         make=video("libvpx", num_frames=40,
                    codec_options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"})),
    Case(name="vp9.webm", make=video("libvpx-vp9"), expects=FIRST_TEN),
    Case(name="vp9_hidden_frames.webm", is_slow=True, expects=list(range(40)),
         make=video("libvpx-vp9", num_frames=40,
                    codec_options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"})),
    Case(name="av1.mp4", make=video("libsvtav1"), expects=FIRST_TEN, is_slow=True),
    Case(name="theora.ogv", make=video("libtheora"), expects=FIRST_TEN),
    Case(name="mpeg4.mp4", make=video("mpeg4", codec_options={"qmax": "3"}), expects=FIRST_TEN),
    Case(name="mpeg2.mpg", make=video("mpeg2video", fps=25), expects=FIRST_TEN),
    Case(name="mpeg2_bframes.mpg", expects=FIRST_TEN,
         make=video("mpeg2video", fps=25, codec_options={"bf": "2"})),
    Case(name="mpeg1.mpg", make=video("mpeg1video", fps=25), expects=FIRST_TEN),
    Case(name="mjpeg.mov", make=video("mjpeg", "yuvj420p"), expects=FIRST_TEN),
    Case(name="sorenson.flv", make=video("flv", codec_options={"qmax": "3"}), expects=FIRST_TEN),
    Case(name="h264.flv", make=video(codec_options={"bf": "2"}), expects=FIRST_TEN),
    Case(name="wmv2.wmv", make=video("wmv2", codec_options={"qmax": "3"}), expects=FIRST_TEN),
    Case(name="h263.3gp", expects=FIRST_TEN,
         make=video("h263", size=(176, 144), codec_options={"qmax": "3"})),
    Case(name="huffyuv.avi", make=video("huffyuv", "yuv422p"), expects=FIRST_TEN),
    Case(name="raw_rgb.avi", make=video("rawvideo", "bgr24"), expects=FIRST_TEN),
    Case(name="animated.gif", make=lambda p, m: animation(p, m, kind="GIF"),
         expects=[0, 1, 2, 3, 4]),
    Case(name="animated.apng", make=lambda p, m: animation(p, m, kind="PNG"),
         expects=[0, 1, 2, 3, 4]),
    # libav 8 reads still pictures of this format only.
    Case(name="animated.webp", make=lambda p, m: animation(p, m, kind="WEBP"), expects="corrupt"),
)  # fmt: skip

PIXELS = (
    Case(name="ten_bit.mkv", make=video(pix_fmt="yuv420p10le"), expects=FIRST_TEN),
    Case(name="yuv444.mkv", make=video(pix_fmt="yuv444p"), expects=FIRST_TEN),
    Case(name="gray.mkv", make=video("ffv1", "gray"), expects=10),
    Case(name="gray_sixteen_bit.mkv", make=video("ffv1", "gray16le"), expects=10),
    Case(name="alpha_qtrle.mov", make=video("qtrle", "argb"), expects=FIRST_TEN),
    Case(name="alpha_png.mov", make=video("png", "rgba"), expects=FIRST_TEN),
    Case(name="alpha_prores.mov", make=video("prores_ks", "yuva444p10le"), expects=FIRST_TEN),
    Case(name="alpha_vp9.webm", make=video("libvpx-vp9", "yuva420p"), expects=FIRST_TEN),
    Case(name="interlaced.mpg", expects=FIRST_TEN,
         make=video("mpeg2video", fps=25, codec_options={"flags": "+ilme+ildct"})),
    Case(name="interlaced.mkv", expects=FIRST_TEN,
         make=video(codec_options={"x264-params": "interlaced=1"})),
    Case(name="size_16x16.mp4", make=video(size=(16, 16)), expects=FIRST_TEN),
    Case(name="size_2x2.mp4", make=video(size=(2, 2)), expects=FIRST_TEN),
    Case(name="size_67x45.mkv", make=video("ffv1", "yuv444p", size=(67, 45)), expects=FIRST_TEN),
    Case(name="size_1x64.mov", make=video("png", "rgb24", size=(1, 64)), expects=FIRST_TEN),
    Case(name="size_64x1.mov", make=video("png", "rgb24", size=(64, 1)), expects=FIRST_TEN),
    Case(name="size_1x1.mov", make=video("png", "rgb24", size=(1, 1)), expects=FIRST_TEN),
    Case(name="size_4000x16.mp4", make=video(size=(4000, 16), num_frames=3), expects=[0, 1, 2]),
    Case(name="size_16x4000.mp4", make=video(size=(16, 4000), num_frames=3), expects=[0, 1, 2]),
    Case(name="size_30000x1.mov", make=video("png", "rgb24", size=(30_000, 1), num_frames=2),
         expects=[0, 1]),
    Case(name="size_8k.mp4", is_slow=True, expects=[0, 1],
         make=video(size=(7680, 4320), num_frames=2, codec_options={"preset": "ultrafast"})),
)  # fmt: skip

TIMES = (
    Case(name="one_frame.mp4", make=video(num_frames=1), expects=[0]),
    Case(name="fragments.mp4", make=_FRAGMENTS, expects=list(range(40))),
    Case(name="live.mkv", make=video(container_options={"live": "1"}), expects=FIRST_TEN),
    Case(name="packed_bframes.avi", make=packed_bframes, expects=list(range(20))),
    Case(name="late.mkv", make=video(pts=range(500, 510)), expects=FIRST_TEN),
    Case(name="variable_rate.mkv", make=video(pts=[0, 1, 2, 3, 4, 10, 20, 30, 40, 50]),
         expects=FIRST_TEN),
    Case(name="no_times.h264", make=video(codec_options={"bf": "2"}), expects=FIRST_TEN),
    Case(name="no_times.m2v", make=video("mpeg2video", fps=25), expects=FIRST_TEN),
    Case(name="bframes.avi", make=video(codec_options={"bf": "2"}), expects=FIRST_TEN),
    Case(name="falling_times.mkv", expects=FIRST_TEN,
         make=patched(_LOSSLESS, block_times(swap_4_and_5))),
    Case(name="repeated_times.mkv", expects=FIRST_TEN,
         make=stamped(_LOSSLESS, ".mkv", lambda index: index - index // 5)),
    Case(name="all_times_zero.mkv", expects=FIRST_TEN,
         make=stamped(_LOSSLESS, ".mkv", lambda index: 0)),
    Case(name="negative_times.mkv", expects=FIRST_TEN,
         make=patched(_LOSSLESS, block_times(lambda times: [time - 5000 for time in times]))),
    Case(name="jump_of_three_years.mkv", expects=FIRST_TEN,
         make=stamped(_LOSSLESS, ".mkv", lambda i: i + (10 * 86_400 * 1000 if i > 4 else 0))),
    Case(name="joined_late.ts", make=joined_late, expects=list(range(8, 30))),
)  # fmt: skip

STREAMS = (
    Case(name="title_latin1.mp4", make=titled, expects=FIRST_TEN),
    Case(name="title_latin1.avi", make=titled, expects=FIRST_TEN),
    Case(name="title_latin1.mkv", make=titled, expects=FIRST_TEN),
    Case(name="audio_only.mp4", make=song, expects="no_video_stream"),
    Case(name="song_with_cover.mp3", make=lambda p, m: song(p, m, cover=True),
         expects="no_video_stream"),
    Case(name="song_with_cover.m4a", make=lambda p, m: song(p, m, cover=True),
         expects="no_video_stream"),
    Case(name="cover_before_video.mp4", make=video_with_cover, expects=FIRST_TEN),
    Case(name="two_videos.mkv", make=two_videos, expects=FIRST_TEN),
    Case(name="encrypted.mp4", make=video(container_options=_CENC), expects="unsupported_codec"),
    Case(name="encrypted_tag.mp4", make=patched(video(), replaced(b"avc1", b"encv")),
         expects="unsupported_codec"),
    Case(name="unknown_codec.avi", expects="unsupported_codec",
         make=patched(video("mjpeg", "yuvj420p"), replaced(b"MJPG", b"ZZZZ"))),
    Case(name="unknown_codec.mkv", expects="unsupported_codec",
         make=patched(video(), replaced(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/ZZZ"))),
)  # fmt: skip

BROKEN = (
    Case(name="empty.mp4", make=written(b""), expects="not_a_video"),
    Case(name="zeros.mp4", make=written(bytes(100_000)), expects="not_a_video"),
    Case(name="random.mp4", make=written(NOISE.tobytes()), expects="not_a_video"),
    *(Case(name=f"cut_{n:02}_front.mp4", make=cut(_NOISY_FRONT, n),
           expects="zero_frames" if n == 1 else "truncated") for n in range(1, 11)),
    *(Case(name=f"cut_{n:02}_end.mp4", make=cut(_NOISY, n), expects="not_a_video")
      for n in range(1, 11)),
    *(Case(name=f"cut_{n:02}.mkv", make=cut(_NOISY, n),
           expects="zero_frames" if n < 4 else "truncated") for n in range(1, 11)),
    *(Case(name=f"cut_{n:02}.avi", make=cut(_NOISY, n),
           expects="not_a_video" if n < 4 else "truncated") for n in range(1, 11)),
    Case(name="cut_in_a_fragment.mp4", make=cut(_FRAGMENTS, 7), expects="truncated"),
    Case(name="cut_behind_its_frames.mkv", expects=20,
         make=patched(_NOISY, lambda content: content[:-20])),
    Case(name="cut_fragments.mp4", make=cut(_FRAGMENTS, 3), expects="truncated"),
    Case(name="damaged_in_the_middle.mkv", expects="corrupt",
         make=patched(video(codec_options={"bf": "0"}), damaged(5))),
    Case(name="claims_a_packet_of_900_mb.mp4", expects="corrupt",
         make=patched(video(), claims_packet(7))),
    Case(name="claims_100000.avi", expects="corrupt",
         make=patched(video("rawvideo", "bgr24"), claims_size(b"strf", 12, "<ii"))),
    Case(name="claims_100000.png.mp4", expects="corrupt",
         make=patched(lambda p, m: picture(p, m, kind="PNG"), claims_size(b"IHDR", 4, ">II"))),
    Case(name="claims_65535.gif", expects="corrupt",
         make=patched(lambda p, m: animation(p, m, kind="GIF"), claims_size(b"GIF89a", 6, "<HH"))),
    Case(name="claims_100000.y4m", expects="not_a_video",
         make=written(b"YUV4MPEG2 W100000 H100000 F25:1 C420\nFRAME\n" + bytes(1000))),
)  # fmt: skip

OTHERS = (
    Case(name="photo.png.mp4", make=lambda p, m: picture(p, m, kind="PNG"), expects=[3]),
    Case(name="photo.jpg.mp4", make=lambda p, m: picture(p, m, kind="JPEG"), expects=[3]),
    Case(name="photo.webp.mp4", make=lambda p, m: picture(p, m, kind="WEBP"), expects=[3]),
    Case(name="notes.mp4", make=written(b"not a video\n" * 100), expects="not_a_video"),
    Case(name="error_page.mp4", make=written(b"<!DOCTYPE html><html>404</html>\n"),
         expects="not_a_video"),
    Case(name="subtitles.mp4", make=written(b"1\n00:00:00,000 --> 00:00:01,000\nHello\n"),
         expects="no_video_stream"),
    Case(name="playlist.mp4", make=written(_PLAYLIST), expects="not_a_video"),
    Case(name="joined.mp4", make=written(b"ffconcat version 1.0\nfile good.mp4\n"),
         expects="not_a_video"),
    Case(name="archive.zip.mp4", make=archive, expects="not_a_video"),
    Case(name="archive.tar.mp4", make=archive, expects="not_a_video"),
    Case(name="folder.mp4", make=lambda p, m: p.mkdir(), expects="unreadable"),
    Case(name="fifo.mp4", make=lambda p, m: os.mkfifo(p), expects="unreadable"),
    Case(name="socket.mp4", make=a_socket, expects="unreadable"),
    Case(name="loop.mp4", make=linked("loop.mp4"), expects="unreadable"),
    Case(name="dangling.mp4", make=linked("nowhere.mp4"), expects="missing"),
    Case(name="endless.mp4", make=linked("/dev/zero"), expects="unreadable"),
    Case(name="nowhere_at_all.mp4", make=lambda p, m: None, expects="missing"),
    Case(name="12:30 %d [a] 日本.mp4", make=video(), expects=FIRST_TEN),
    Case(name="text-latin1-\udce8.mp4", make=written(b"no video"), expects="not_a_video"),
    Case(name="latin1-\udce8.mp4", make=video(), expects=FIRST_TEN),
)  # fmt: skip

CASES = (*CODECS, *PIXELS, *TIMES, *STREAMS, *BROKEN, *OTHERS)
