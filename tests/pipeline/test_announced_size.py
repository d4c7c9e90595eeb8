"""Where a file says that it ends, from bytes written here by the book."""

import struct
from pathlib import Path

import pytest

from muse.pipeline.decoding.announced_size import announced_end

EBML = bytes.fromhex("1A45DFA3") + b"\x82" + b"\x00\x00"  # a header of two bytes: ends at 7
SEGMENT = bytes.fromhex("18538067")


def box(kind: bytes, size: int) -> bytes:
    return struct.pack(">I4s", size, kind) + bytes(size - 8)


FTYP, MOOF, MDAT = box(b"ftyp", 16), box(b"moof", 20), box(b"mdat", 100)
LARGE_MDAT = struct.pack(">I4sQ", 1, b"mdat", 5_000_000_000)


@pytest.mark.parametrize(
    ("content", "end"),
    [
        pytest.param(EBML + SEGMENT + b"\x85", 7 + 4 + 1 + 5, id="a size of one byte"),
        pytest.param(EBML + SEGMENT + b"\x40\x85", 7 + 4 + 2 + 0x85, id="of two bytes"),
        pytest.param(
            EBML + SEGMENT + b"\x01" + (10**9).to_bytes(7, "big"), 7 + 4 + 8 + 10**9, id="of eight"
        ),
        pytest.param(EBML + SEGMENT + b"\xff", None, id="unknown: written live"),
        pytest.param(EBML + SEGMENT + b"\x01" + b"\xff" * 7, None, id="unknown in eight bytes"),
        pytest.param(EBML + SEGMENT, None, id="cut before the size"),
        pytest.param(EBML + SEGMENT + b"\x01\x00", None, id="cut in the size"),
        pytest.param(EBML + SEGMENT + b"\x00" * 9, None, id="no size at all"),
        pytest.param(EBML[:4], None, id="cut in the header"),
        pytest.param(EBML + b"another element", None, id="no segment"),
        pytest.param(FTYP + MOOF + MDAT, 16 + 20 + 100, id="a fragment"),
        pytest.param(FTYP + MOOF + MDAT + box(b"mfra", 30), 136, id="an index behind it"),
        pytest.param(FTYP + MOOF + MDAT[:50], 136, id="cut in its frames"),
        pytest.param(FTYP + MOOF[:12], 36, id="cut in its table"),
        pytest.param(FTYP + MOOF + LARGE_MDAT, 36 + 5_000_000_000, id="over 4 GB"),
        pytest.param(FTYP + MOOF + b"\x00\x00\x00\x00mdat", 36, id="to the end, whatever it is"),
        pytest.param(FTYP + MDAT[:50], None, id="no fragments"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"RIFF1234AVI ", None, id="another format"),
    ],
)
def test_a_file_ends_where_its_outermost_elements_say(
    content: bytes, end: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert announced_end(path) == end
