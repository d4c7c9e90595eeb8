"""All that is kept of a video, by its row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_store import SmallStore

from muse.errors import StoreError
from muse.pipeline.feature_rows import FeatureRows
from muse.pipeline.records import ClipFeatures, SourceFile

MakeFeatures = Callable[..., ClipFeatures]


@pytest.fixture
def small(make_store: Callable[..., SmallStore], make_features: MakeFeatures) -> SmallStore:
    """Rows 0 and 1 are written, and captions 0 to 3."""
    store = make_store(2)
    store.videos(0, [make_features(0), make_features(1, num_valid=2)])
    store.captions(0, np.arange(16, dtype=np.float16).reshape(4, 4))
    return store


@pytest.fixture
def rows(small: SmallStore) -> FeatureRows:
    return FeatureRows(small.writer.storage, small.writer.header)


def test_a_row_is_read_as_it_was_written_under_the_name_that_it_is_given(
    rows: FeatureRows, make_features: MakeFeatures
) -> None:
    source, written = SourceFile(size_bytes=1, mtime_ns=2), make_features(1, num_valid=2)
    found = rows.read(1, video_id="other", source=source)
    assert (found.video_id, found.source, set(found.arrays)) == ("other", source, {"tokens"})
    np.testing.assert_array_equal(found.arrays["tokens"], written.arrays["tokens"])
    np.testing.assert_array_equal(found.valid_T, written.valid_T)
    np.testing.assert_array_equal(found.pts_seconds_T, written.pts_seconds_T)


def test_tokens_of_a_row_are_those_that_were_written(
    rows: FeatureRows, make_features: MakeFeatures
) -> None:
    np.testing.assert_array_equal(rows.tokens(0), make_features(0).arrays["tokens"])


def test_captions_come_in_the_order_asked_for(rows: FeatureRows) -> None:
    found = rows.captions(np.array([3, 0]))
    assert found.tolist() == [[12, 13, 14, 15], [0, 1, 2, 3]]


@pytest.mark.parametrize("lost", ["tokens/c/0/0/0/0", "valid/c/0/0"])
def test_a_row_whose_file_is_gone_is_an_error_that_names_the_array(
    small: SmallStore, rows: FeatureRows, lost: str
) -> None:
    (Path(small.path) / "features.zarr" / lost).unlink()
    with pytest.raises(StoreError, match=rf"{lost.split('/')[0]}: row 1 is not in its file"):
        rows.read(1, video_id="v1", source=None)


def test_captions_whose_file_is_gone_are_an_error_that_names_the_array(
    small: SmallStore, rows: FeatureRows
) -> None:
    (Path(small.path) / "features.zarr/captions/c/0/0").unlink()
    with pytest.raises(StoreError, match=r"captions: row 2 is not in its file"):
        rows.captions(np.array([2]))
