"""A store at a URL holds what a store in a folder holds, and goes on and reads the same way."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from runs import WithoutProcess
from tests.pipeline.storage_s3 import s3_bucket

from muse.errors import StoreError
from muse.pipeline import schedule_local, shards
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.decoding.decoder import attempt
from muse.pipeline.encoders.base import Encoder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling
from muse.pipeline.progress import Progress
from muse.pipeline.records import Listing
from muse.pipeline.schedule import Workers
from muse.pipeline.store import open_store
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import verify


@pytest.fixture(autouse=True)
def _run_here(plain_encoder: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_local, "IsolatedDecoder", lambda limits: _Here())
    monkeypatch.setattr(shards, "build_encoder", plain_encoder)


class _Here(WithoutProcess):
    """Decodes in this process."""

    __call__ = staticmethod(attempt)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield f"memory:/{tmp_path}/store"
        return
    with s3_bucket() as bucket:
        yield f"{bucket}/a folder/store"


@pytest.fixture
def listing(video_folder: Path, tmp_path: Path) -> Listing:
    captions = tmp_path / "captions.csv"
    captions.write_text("video,caption\nf,a cat\na,a song\ngone,a dog\n", encoding="utf-8")
    return list_folder(video_folder, captions)


@pytest.fixture
def config(url: str) -> ExtractConfig:
    return ExtractConfig(
        out=url,
        encoder="plain",
        engine="local",
        device="cpu",
        sampling=Sampling(fps=4.0, num_frames=3),
        thumbnails=True,
        shard_size=3,
        batch_videos=2,
        workers=Workers(num_decoders=1),
    )


def test_a_store_at_a_url_has_the_root_of_one_in_a_folder(
    config: ExtractConfig, listing: Listing, tmp_path: Path
) -> None:
    extract(config, listing)
    extract(dataclasses.replace(config, out=tmp_path / "folder"), listing)
    there, here = ZarrStore.open(config.out), ZarrStore.open(tmp_path / "folder")
    assert there.root_sha256 == here.root_sha256
    assert verify(there).problems == ()
    for row in np.flatnonzero(here.has_features_N).tolist():
        ours, theirs = here.read_clip(row), open_store(config.out).read_clip(row)
        assert ours.tokens_TKD.tobytes() == theirs.tokens_TKD.tobytes()
        assert len(there.read_thumbnails(row) or ()) == ours.valid_T.sum()
        assert there.read_thumbnails(row) == here.read_thumbnails(row)
    rows = np.flatnonzero(here.has_embedding_Q)
    assert (there.read_caption_embeddings(rows) == here.read_caption_embeddings(rows)).all()


def test_a_run_at_a_url_goes_on_where_it_was_cut_off(
    config: ExtractConfig, listing: Listing
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.num_committed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(config, listing, on_progress=interrupt)
    assert ZarrStore.open(config.out).counts().pending == 4
    assert extract(config, listing).num_new_videos == 4
    assert extract(config, listing).was_complete


def test_a_url_that_holds_something_else_is_refused(
    config: ExtractConfig, listing: Listing
) -> None:
    from muse.pipeline.storage.files import open_storage

    open_storage(config.out).write("thesis/chapter1.tex", b"it was a dark night")
    with pytest.raises(StoreError, match=r"not empty \(thesis is in it\)"):
        extract(config, listing)
