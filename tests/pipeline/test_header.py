"""What a header says of itself, how it is read back, and what it is compared by."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from own_reference import PERFECT

from muse.errors import IncompatibleStoreError, StoreError
from muse.pipeline.header import (
    FORMAT_VERSION,
    Golden,
    Sampling,
    StoreHeader,
    header_from_json,
    require_same_features,
)
from muse.pipeline.listing import ListedRows


@pytest.fixture
def header(
    make_rows: Callable[..., ListedRows], make_header: Callable[..., StoreHeader]
) -> StoreHeader:
    return make_header(make_rows(5))


def with_encoder(header: StoreHeader, **fields: Any) -> StoreHeader:
    return dataclasses.replace(header, encoder=dataclasses.replace(header.encoder, **fields))


def test_a_header_survives_its_file(header: StoreHeader) -> None:
    content = json.loads(json.dumps(header.as_json()))
    assert header_from_json(content, source="store.json") == header


def test_all_that_a_header_may_say_survives_its_file(header: StoreHeader) -> None:
    full = dataclasses.replace(
        header,
        views=("tokens", "int8"),
        golden=Golden(class_token="AAA=", mean_patch="AQE=", text="AgI="),
        versions={"torch": "2.8.0", "ray": None},
        files={"videos.parquet": "ab"},
    )
    content = json.loads(json.dumps(full.as_json()))
    assert header_from_json(content, source="store.json") == full


@pytest.mark.parametrize(
    "change",
    [
        lambda h: with_encoder(h, weights_sha256="ff"),
        lambda h: with_encoder(h, width=99),
        lambda h: with_encoder(h, num_blocks=99),
        lambda h: with_encoder(h, precision="bf16"),
        lambda h: with_encoder(
            h, preprocessing=dataclasses.replace(h.encoder.preprocessing, interpolation="bilinear")
        ),
        lambda h: dataclasses.replace(h, sampling=Sampling(num_frames=4)),
        lambda h: dataclasses.replace(h, format_version=FORMAT_VERSION + 1),
    ],
)
def test_the_fingerprint_changes_with_what_a_vector_means(
    header: StoreHeader, change: Callable[[StoreHeader], StoreHeader]
) -> None:
    assert change(header).fingerprint != header.fingerprint


def test_the_fingerprint_does_not_change_with_the_listing(header: StoreHeader) -> None:
    other = dataclasses.replace(header, num_videos=9, listing_sha256="0", shard_size=7)
    assert other.fingerprint == header.fingerprint


def test_the_fingerprint_does_not_change_with_what_else_is_kept(header: StoreHeader) -> None:
    other = dataclasses.replace(header, views=("int8",), versions={"torch": "1"}, files={"a": "b"})
    assert other.fingerprint == header.fingerprint


@pytest.mark.parametrize(
    "field", ["protocol", "encoder", "sampling", "listing_sha256", "views", "golden"]
)
def test_a_header_without_a_field_is_refused_by_name(header: StoreHeader, field: str) -> None:
    content = header.as_json()
    del content[field]
    with pytest.raises(StoreError, match=rf"^store\.json: .*{field}"):
        header_from_json(content, source="store.json")


def test_a_header_without_parity_is_one_of_a_store_without(header: StoreHeader) -> None:
    content = header.as_json()
    assert "parity" not in content
    assert header_from_json(content, source="store.json").parity is None


def test_parity_is_read_as_it_was_written(header: StoreHeader) -> None:
    content = dataclasses.replace(header, parity=PERFECT).as_json()
    assert content["parity"]["class_token_min"] == 1.0
    read = header_from_json(json.loads(json.dumps(content)), source="store.json")
    assert read.parity == PERFECT
    assert read.fingerprint == header.fingerprint


def test_parity_without_a_field_is_refused_by_name(header: StoreHeader) -> None:
    content = dataclasses.replace(header, parity=PERFECT).as_json()
    del content["parity"]["pixels"]
    with pytest.raises(StoreError, match="pixels"):
        header_from_json(content, source="store.json")


def test_a_header_with_an_unknown_field_is_refused_by_name(header: StoreHeader) -> None:
    with pytest.raises(StoreError, match="colour"):
        header_from_json({**header.as_json(), "colour": "red"}, source="store.json")


def test_another_format_version_is_refused_with_both_numbers(header: StoreHeader) -> None:
    content = {**header.as_json(), "format_version": 99}
    with pytest.raises(StoreError, match=f"version 99, this muse reads {FORMAT_VERSION}"):
        header_from_json(content, source="store.json")


@pytest.mark.parametrize("content", [None, [], "store", 3])
def test_what_is_no_object_is_no_header(content: object) -> None:
    with pytest.raises(StoreError, match="expected an object"):
        header_from_json(content, source="store.json")


def test_a_sampling_out_of_range_is_no_header(header: StoreHeader) -> None:
    content = json.loads(json.dumps(header.as_json()))
    content["sampling"]["num_frames"] = 0
    with pytest.raises(StoreError, match="num_frames 0"):
        header_from_json(content, source="store.json")


def test_equal_features_of_other_listings_are_the_same(header: StoreHeader) -> None:
    other = dataclasses.replace(header, num_videos=9, listing_sha256="0", protocol="other")
    require_same_features(other, header, what="store")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda h: with_encoder(h, spec="conse"), "encoder.spec is 'conse'"),
        (lambda h: with_encoder(h, weights_sha256="ff"), "encoder.weights_sha256 is 'ff'"),
        (
            lambda h: with_encoder(
                h, preprocessing=dataclasses.replace(h.encoder.preprocessing, size=99)
            ),
            "encoder.preprocessing.size is 99",
        ),
        (
            lambda h: dataclasses.replace(h, sampling=Sampling(num_frames=77)),
            "sampling.num_frames is 77",
        ),
    ],
)
def test_other_features_are_refused_by_the_field_that_differs(
    header: StoreHeader, change: Callable[[StoreHeader], StoreHeader], named: str
) -> None:
    with pytest.raises(IncompatibleStoreError, match=f"^the store: {named}, but"):
        require_same_features(change(header), header, what="the store")
