"""A library that writes to a full disk does not notice; whoever asks does."""

import errno
from pathlib import Path

import pytest
from tests.pipeline.full_disk import files_up_to

from muse.pipeline.exports.patient_file import PatientFile


def test_what_fits_is_in_the_file(tmp_path: Path) -> None:
    with PatientFile(tmp_path / "x") as file:
        file.write(b"abcdef")
        file.seek(2)
        file.write(memoryview(b"XY"))
        file.truncate(5)
        file.check()
        file.seek(-3, 2)
        assert file.read() == b"XYe"
    assert (tmp_path / "x").read_bytes() == b"abXYe"


def test_what_the_disk_refuses_is_read_back_until_someone_asks(tmp_path: Path) -> None:
    wanted = bytearray(b"abcdefghijklmnop")
    with files_up_to(10), PatientFile(tmp_path / "x") as file:
        file.write(wanted[:6])
        file.check()
        file.write(wanted[6:])
        for place, content in ((2, b"12"), (9, b"345"), (14, b"6789")):
            file.seek(place)
            file.write(content)
            wanted[place : place + len(content)] = content
        file.truncate(20)
        wanted += b"\0" * (20 - len(wanted))
        for place in range(20):
            for num_bytes in range(21 - place):
                file.seek(place)
                assert file.read(num_bytes) == wanted[place : place + num_bytes]
        assert file.seek(0, 2) == 20
        with pytest.raises(OSError, match="File too large") as raised:
            file.check()
        assert raised.value.errno == errno.EFBIG
    assert (tmp_path / "x").read_bytes() == b"abcdefghij"
