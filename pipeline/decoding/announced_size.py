"""Where a file says that it ends, for the two formats whose cut-off copies nothing else tells.

libav reads a Matroska file to its last whole cluster, and an .mp4 in fragments to its last whole
frame, and reports no error. Knows the outermost elements of the two formats (RFC 9559, Segment;
RFC 8794, variable-size integers; ISO/IEC 14496-12, boxes) and nothing of video.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")
_HEAD_BYTES = 4096  # the EBML header before the segment takes some 40
_MOST_BOXES = 100_000


def announced_end(path: Path) -> int | None:
    """The offset in bytes at which a file says that its frames end.

    None if it says nothing: another format, a Matroska file that was written live, or an .mp4
    without fragments, whose index announces the number of its frames.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        if head.startswith(_EBML):
            return _end_of_segment(head)
        return _end_of_fragments(stream) if head[4:8] in (b"ftyp", b"styp", b"moov") else None


def _end_of_fragments(stream: BinaryIO) -> int | None:
    ends = {kind: end for kind, end in _boxes(stream) if kind in (b"moof", b"mdat")}
    return max(ends.values()) if b"moof" in ends else None


def _boxes(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, offset behind it) of every outermost box that begins within the file."""
    at = 0
    for _ in range(_MOST_BOXES):
        stream.seek(at)
        header = stream.read(16)
        if len(header) < 8:
            return
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack(">Q", header[8:])
        if size < 8:  # 0: to the end of the file, whatever that is
            return
        at += size
        yield kind, at


def _end_of_segment(head: bytes) -> int | None:
    header = _size(head, len(_EBML))
    if header is None:
        return None
    segment_at = header[1] + header[0]
    if head[segment_at : segment_at + 4] != _SEGMENT:
        return None
    segment = _size(head, segment_at + 4)
    return segment[1] + segment[0] if segment else None


def _size(content: bytes, at: int) -> tuple[int, int] | None:
    """(a size, the offset behind it); None where it is unknown: all bits one, or cut off."""
    length = 9 - content[at].bit_length() if at < len(content) else 9
    if length > 8 or at + length > len(content):
        return None
    bits = 7 * length
    value = int.from_bytes(content[at : at + length], "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else (value, at + length)
