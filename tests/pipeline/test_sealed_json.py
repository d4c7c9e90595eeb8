"""Files that carry a hash of their own content."""

import pytest

from muse.pipeline.sealed_json import hash_of_json, json_bytes, sealed_bytes, unsealed

CONTENT = {"name": "Café ☕.mp4", "share": 1e-07, "rows": [1, 2, 3], "none": None}


def test_what_was_sealed_is_read_again() -> None:
    assert unsealed(sealed_bytes(CONTENT)) == CONTENT


def test_each_field_has_a_line_of_its_own() -> None:
    assert json_bytes({"b": [1, 2], "a": 1}) == b'{\n"a": 1,\n"b": [1, 2]\n}\n'


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_noticed_wherever_it_is(bit: int) -> None:
    sealed = sealed_bytes(CONTENT)
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1 << bit
        with pytest.raises(ValueError, match=r"."):
            unsealed(bytes(damaged))


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"{}", b'{"a": 1}', b"\xff"])
def test_what_was_never_sealed_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unsealed(content)


def test_a_file_that_was_cut_short_is_refused() -> None:
    for length in range(len(sealed_bytes(CONTENT))):
        with pytest.raises(ValueError, match=r"."):
            unsealed(sealed_bytes(CONTENT)[:length])


def test_the_hash_does_not_depend_on_the_order_of_the_keys() -> None:
    assert hash_of_json({"a": 1, "b": 2}) == hash_of_json({"b": 2, "a": 1})


def test_the_hash_depends_on_every_value() -> None:
    hashes = {hash_of_json(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, [], [[]])}
    assert len(hashes) == 6
