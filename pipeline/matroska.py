"""Where a Matroska or WebM file says that it ends: the one size that tells a cut-off copy.

libav reads such a file to its last whole cluster and reports no error. Knows two elements of the
format (RFC 9559, Segment; RFC 8794, variable-size integers) and nothing of video.
"""

from pathlib import Path

_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")
_HEAD_BYTES = 4096  # the EBML header before the segment takes some 40


def announced_end(path: Path) -> int | None:
    """The offset in bytes at which the segment ends.

    None if this is no Matroska file, or one written live, which says no size.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.startswith(_EBML):
        return None
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
