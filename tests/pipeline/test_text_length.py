"""Where captions are cut: what is stored of it, and what is refused.

The encoder of these runs has letters for tokens.
"""

import dataclasses
import json
from collections.abc import Callable

import pytest
from runs import Runs
from small_store import SmallStore

from muse.errors import IncompatibleStoreError, UsageError
from muse.pipeline.diff import diff_stores
from muse.pipeline.header import StoreHeader, header_from_json
from muse.pipeline.store_zarr import ZarrStore

CAPTIONS = [("a", "four"), ("a", "sevenish"), ("a", "to")]


def test_captions_are_cut_at_the_text_length(runs: Runs) -> None:
    runs.put(a=7)
    runs.run(CAPTIONS, text_length=5)
    assert runs.lengths == [("four", 4), ("sevenish", 5), ("to", 2)]
    assert runs.store.header.text_length == 5


def test_a_run_with_another_text_length_is_refused_with_both(runs: Runs) -> None:
    runs.put(a=7)
    runs.run(CAPTIONS, text_length=5)
    with pytest.raises(IncompatibleStoreError, match="text_length = 5, this run has None"):
        runs.run(CAPTIONS)


def test_a_store_without_a_text_length_has_the_bytes_that_it_had_before_there_were_any(
    runs: Runs,
) -> None:
    runs.put(a=7)
    runs.run(CAPTIONS)
    header = json.loads((runs.out / "store.json").read_text(encoding="utf-8"))
    assert "text_length" not in header
    assert runs.run(CAPTIONS).was_complete


def test_the_text_length_is_in_the_root_and_not_in_the_fingerprint(
    make_store: Callable[..., SmallStore],
) -> None:
    without = make_store(1).open()
    cut = dataclasses.replace(without.header, text_length=32)
    assert ZarrStore(without.storage, cut).root_sha256 != without.root_sha256
    assert cut.fingerprint == without.header.fingerprint
    assert header_from_json(json.loads(json.dumps(cut.as_json())), source="x") == cut


def test_a_difference_of_two_stores_names_the_text_length(
    make_store: Callable[..., SmallStore],
) -> None:
    left = make_store(1).open()
    header: StoreHeader = dataclasses.replace(left.header, text_length=32)
    found = diff_stores(left, ZarrStore(left.storage, header))
    (field,) = found.fields
    assert (field.name, field.left, field.right) == ("text_length", None, 32)
    assert not field.is_in_fingerprint


def test_a_length_without_room_for_a_token_is_refused(runs: Runs) -> None:
    with pytest.raises(UsageError, match="text_length 2: at least 3 tokens"):
        runs.config(text_length=2)
