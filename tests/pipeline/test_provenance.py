"""A store whose header says anything else than before is refused, and the field is named.

Each field that features depend on is changed in turn and the header sealed again; then everything
that would use the store is asked to.
"""

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Runs

from muse.errors import IncompatibleStoreError
from muse.pipeline.golden import PARTS
from muse.pipeline.header import (
    StoreHeader,
    flat_fields,
    require_same_encoder,
    require_same_features,
)
from muse.pipeline.sealed_json import sealed_bytes

KNOWN = {"fps": "uniform", "bicubic": "bilinear", "fp32": "bf16"}
ANOTHER: dict[type, Callable[[Any], Any]] = {
    str: lambda value: KNOWN.get(value, f"{value}x"),
    int: lambda value: value + 1,
    float: lambda value: value + 0.5,
    tuple: lambda value: (*value[:-1], value[-1] + 0.5),
}
ENCODER = (
    "spec",
    "weights_sha256",
    "dim",
    "tokens_per_frame",
    "grid",
    "width",
    "num_blocks",
    "precision",
    "logit_scale",
    "token_layout",
    "preprocessing.size",
    "preprocessing.resize_to",
    "preprocessing.interpolation",
    "preprocessing.mean",
    "preprocessing.std",
    "preprocessing.resize",
)
SAMPLING = ("kind", "num_frames", "fps")
FIELDS = (*(f"encoder.{name}" for name in ENCODER), *(f"sampling.{name}" for name in SAMPLING))


def changed(value: Any, path: list[str]) -> Any:
    """A value with one field below it changed, past its checks: such a file may lie on a disk."""
    if not path:
        return ANOTHER[type(value)](value)
    inner = changed(getattr(value, path[0]), path[1:])
    copy = object.__new__(type(value))
    for field in dataclasses.fields(value):
        kept = inner if field.name == path[0] else getattr(value, field.name)
        object.__setattr__(copy, field.name, kept)
    return copy


def mutated(header: StoreHeader, name: str) -> StoreHeader:
    found: StoreHeader = changed(header, name.split("."))
    return found


@pytest.fixture
def extracted(runs: Runs, kept: Path) -> Runs:
    """A store of one video, and a second video that it lacks."""

    def make(first: Runs) -> None:
        first.put(a=7)
        first.run()
        first.put(b=9)

    return runs.begin_as(kept, make)


def test_these_are_all_the_fields(extracted: Runs) -> None:
    header = extracted.store.header
    names = [*flat_fields("encoder", header.encoder), *flat_fields("sampling", header.sampling)]
    assert sorted(names) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_an_append_to_a_store_with_another_field_is_refused_by_its_name(
    name: str, extracted: Runs
) -> None:
    header = mutated(extracted.store.header, name)
    (extracted.out / "store.json").write_bytes(sealed_bytes(header.as_json()))
    before = {file: file.read_bytes() for file in extracted.out.rglob("*") if file.is_file()}
    named = {"encoder.spec": "encoder", "sampling.kind": "sampling"}.get(name, name)
    with pytest.raises(IncompatibleStoreError, match=named.removeprefix("sampling.")):
        extracted.run(append=True)
    after = {file: file.read_bytes() for file in extracted.out.rglob("*") if file.is_file()}
    changed_files = {file.name for file in after if after[file] != before.get(file)}
    assert changed_files <= {".lock"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_head_refuses_a_store_with_another_field_by_its_name(name: str, extracted: Runs) -> None:
    """`require_same_features` is what train-head and evaluate ask."""
    header = extracted.store.header
    require_same_features(header, header, what="store")
    with pytest.raises(IncompatibleStoreError, match=rf"store: {name} is "):
        require_same_features(mutated(header, name), header, what="store")
    assert mutated(header, name).fingerprint != header.fingerprint


@pytest.mark.parametrize("name", [f"encoder.{name}" for name in ENCODER])
def test_a_search_refuses_a_store_of_another_encoder_by_the_field(
    name: str, extracted: Runs
) -> None:
    """`require_same_encoder` is what search asks."""
    header = extracted.store.header
    with pytest.raises(IncompatibleStoreError, match=rf"encoder: {name} is "):
        require_same_encoder(mutated(header, name).encoder, header.encoder, what="encoder")


@pytest.mark.parametrize("part", PARTS)
def test_an_append_with_a_library_that_changes_features_is_refused_by_the_part(
    part: str, extracted: Runs
) -> None:
    header = extracted.store.header
    assert header.golden is not None
    nothing = base64.b64encode(bytes(2 * header.encoder.dim)).decode()
    golden = dataclasses.replace(header.golden, **{part: nothing})
    other = dataclasses.replace(header, golden=golden)
    (extracted.out / "store.json").write_bytes(sealed_bytes(other.as_json()))
    with pytest.raises(IncompatibleStoreError, match=rf"golden\.{part} differs"):
        extracted.run(append=True)
    assert len(extracted.states) == 1
