"""Several views of a video from one run, each as if it had been the only one."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from runs import Runs

from muse.errors import IncompatibleStoreError, StoreError
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling
from muse.pipeline.redo import RedoRules
from muse.pipeline.schedule import Workers
from muse.pipeline.store import open_store
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import verify
from muse.pipeline.views import dequantise, quantise

DERIVED = ("tokens", "int8", "class", "pooled")


@pytest.fixture
def extracted(runs: Runs) -> Runs:
    """Two videos in one shard, one that fails, and a fourth in another; all views of tokens."""
    runs.put(a=7, b=9, c="corrupt", d=4)
    runs.run(views=DERIVED)
    return runs


def test_every_view_follows_from_the_tokens(extracted: Runs) -> None:
    store = extracted.store
    for row in np.flatnonzero(store.has_features_N).tolist():
        arrays = store.read_features(row).arrays
        quantised, scale = quantise(arrays["tokens"])
        assert (arrays["tokens_int8"] == quantised).all()
        assert (arrays["tokens_int8_scale"] == scale).all()
        assert (arrays["class_tokens"] == arrays["tokens"][:, 0]).all()
        assert np.linalg.norm(arrays["pooled"]) == pytest.approx(1)


def test_zarr_reads_every_view_row_by_row(extracted: Runs) -> None:
    store = extracted.store
    group = zarr.open_group(extracted.out / "features.zarr", mode="r")
    assert {spec.name for spec in store.arrays} | {"valid", "pts_seconds", "captions"} == set(group)
    for spec in store.arrays:
        array = group[spec.name]
        assert (array.shape, str(array.dtype)) == ((4, *spec.shape), spec.dtype)
        assert array.metadata.dimension_names[0] == "video"
        for row, has_features in enumerate(store.has_features_N):
            ours = store.read_features(row).arrays[spec.name] if has_features else 0
            assert (array[row] == ours).all()


def test_a_view_has_the_bytes_that_it_has_alone(extracted: Runs, tmp_path: Path) -> None:
    for view in DERIVED:
        extracted.run(out=tmp_path / view, views=(view,))
        alone = ZarrStore.open(tmp_path / view)
        for row in np.flatnonzero(alone.has_features_N).tolist():
            beside = extracted.store.read_features(row).arrays
            for name, array in alone.read_features(row).arrays.items():
                assert array.tobytes() == beside[name].tobytes()


def test_a_store_with_int8_alone_is_read_as_tokens(extracted: Runs, tmp_path: Path) -> None:
    extracted.run(out=tmp_path / "int8", views=("int8",))
    store = open_store(tmp_path / "int8")
    assert store.token_view == "int8"
    arrays = extracted.store.read_features(0).arrays
    expected = dequantise(arrays["tokens_int8"], arrays["tokens_int8_scale"])
    assert (store.read_clip(0).tokens_TKD == expected).all()
    with pytest.raises(StoreError, match="view 'tokens': the store has int8"):
        open_store(tmp_path / "int8", view="tokens")


def test_a_store_without_tokens_says_what_it_has(runs: Runs) -> None:
    runs.put(a=7)
    runs.run(views=("class", "pooled"))
    with pytest.raises(StoreError, match="only the views class, pooled"):
        open_store(runs.out).read_clip(0)


def test_other_views_on_the_same_store_are_refused(extracted: Runs) -> None:
    with pytest.raises(IncompatibleStoreError, match="views = 'tokens,int8,class,pooled', this"):
        extracted.run(views=("tokens",))


def test_a_retry_and_an_append_keep_every_view_of_the_others(extracted: Runs) -> None:
    before = extracted.rows()
    extracted.put(c=5, e=6)
    extracted.run(views=DERIVED, append=True, redo=RedoRules(failed=("all",)))
    after = extracted.rows()
    assert {i: after[i] for i in before} == before
    assert set(after) - set(before) == {"c.mp4", "e.mp4"}
    assert verify(extracted.store).problems == ()


@pytest.mark.slow
def test_inner_views_come_through_a_whole_run(
    video_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    views = ("tokens", "unprojected", "block:1", "block:2")
    config = ExtractConfig(
        out=tmp_path / "store",
        encoder=f"openclip:local-dir:{tiny_clip_folder}",
        sampling=Sampling(num_frames=3),
        views=views,
        engine="local",
        device="cpu",
        workers=Workers(num_decoders=1),
    )
    extract(config, list_folder(video_folder, None))
    store = ZarrStore.open(tmp_path / "store")
    shapes = {spec.name: spec.shape for spec in store.arrays}
    inner = (3, 5, 64)
    assert shapes == {
        "tokens": (3, 5, 32), "unprojected": inner, "block_01": inner, "block_02": inner
    }  # fmt: skip
    arrays = store.read_features(0).arrays
    assert all(np.abs(arrays[name][0]).max() > 0 for name in shapes)
    assert not np.array_equal(arrays["block_01"], arrays["block_02"])
