"""What decoding has to make of each file that a video folder of the wild holds: a table.

The files are made by wild_files.py; every frame is painted with its index, so a case names the
frames that have to come out.
"""

import os
from dataclasses import dataclass

import av
from wild_files import (
    NOISE,
    Maker,
    a_socket,
    animation,
    archive,
    block_times,
    claims_packet,
    claims_size,
    cut,
    damaged,
    joined_late,
    linked,
    packed_bframes,
    patched,
    picture,
    playlist,
    replaced,
    song,
    stamped,
    swap_4_and_5,
    titled,
    two_videos,
    video,
    video_with_cover,
    written,
)

from muse.pipeline.header import Preprocessing, Sampling

PREPROCESSING = Preprocessing(
    size=32, resize_to=32, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
EVERY_FRAME = Sampling(kind="uniform", num_frames=500)
WORDS_OF_A_NEXT_STEP = (
    "Convert", "List", "Make", "Put", "Replace", "replace",
)  # fmt: skip

FIRST_TEN = list(range(10))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file and what it has to give."""

    name: str
    make: Maker
    expects: list[int] | int | str
    """The indices of the frames, their number, or a word of `FAILURE_REASONS`."""
    is_slow: bool = False


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
_PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n"

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
    # Before PyAV 19, libav read still pictures of this format only.
    Case(name="animated.webp", make=lambda p, m: animation(p, m, kind="WEBP"),
         expects=[0, 1, 2, 3, 4] if int(av.__version__.partition(".")[0]) >= 19 else "corrupt"),
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
    Case(name="playlist.mp4", make=playlist(_PLAYLIST), expects="not_a_video"),
    Case(name="joined.mp4", make=playlist(b"ffconcat version 1.0\nfile %s\n"),
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
