"""A store made of another one: rows are copied, maps are encoded, and nothing is done twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runs import Runs

from muse.cli.store import info
from muse.errors import IncompatibleStoreError, StoreError
from muse.pipeline import reencode as module
from muse.pipeline.derivation import derivation_of
from muse.pipeline.exports.hdf5_writer import write_hdf5
from muse.pipeline.header import EncoderInfo, Golden
from muse.pipeline.receipts import Receipt
from muse.pipeline.reencode import reencode
from muse.pipeline.store import open_raw_store
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import verify


@dataclass
class Doubler:
    """Its tokens are twice what it reads; its texts are ones, or the source's."""

    info: EncoderInfo
    golden: Golden | None = None
    writes_texts: bool = False
    batches: list[NDArray[np.bool_]] = field(default_factory=list)

    def encode_clips(
        self, maps_NTKW: NDArray[Any], valid_NT: NDArray[np.bool_]
    ) -> NDArray[np.float16]:
        self.batches.append(valid_NT)
        return (2 * maps_NTKW + 1).astype(np.float16)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float16] | None:
        return np.ones((len(texts), self.info.dim), np.float16) if self.writes_texts else None


@pytest.fixture
def doubler(plain_encoder: Callable[..., Any]) -> Callable[..., Doubler]:
    def make(weights: str = "tuned", **settings: Any) -> Doubler:
        return Doubler(replace(plain_encoder("plain").info, weights_sha256=weights), **settings)

    return make


@pytest.fixture
def source(runs: Runs, kept: Path) -> Runs:
    """Six files, one of them no video; two a shard."""

    def make(first: Runs) -> None:
        first.put(a=10, b=20, c="not_a_video", d=40, e=50, f=60)
        first.run([("a", "one"), ("d", "three")], thumbnails=True)

    return runs.begin_as(kept, make)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "encoded"


def _cut_off_after(videos: int) -> Callable[[int, int], None]:
    def interrupt(done: int, total: int) -> None:
        if done > videos:
            raise KeyboardInterrupt

    return interrupt


def test_the_rows_are_the_source_s_and_the_tokens_the_encoder_s(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    made, found = reencode(source.store, out, doubler()), source.store
    assert made.video_ids == found.video_ids
    assert made.captions == found.captions
    assert made.windows == found.windows
    assert made.sources == found.sources
    assert made.failures == found.failures
    assert made.timestamps_sha256 == found.timestamps_sha256
    for row in np.flatnonzero(found.has_features_N).tolist():
        mine, theirs = made.read_clip(row), found.read_clip(row)
        valid = theirs.valid_T
        assert np.array_equal(mine.tokens_TKD[valid], 2 * theirs.tokens_TKD[valid] + 1)
        assert not mine.tokens_TKD[~valid].any()
        assert np.array_equal(mine.pts_seconds_T, theirs.pts_seconds_T, equal_nan=True)
        assert made.read_thumbnails(row) == found.read_thumbnails(row) is not None


def test_its_fingerprint_is_its_own_and_it_says_what_it_was_made_from(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    made = reencode(source.store, out, doubler())
    assert made.header.fingerprint != source.store.header.fingerprint
    assert made.header.listing_sha256 == source.store.header.listing_sha256
    assert made.header.parity is None  # nobody compared these weights with a library
    origin = derivation_of(made)
    assert origin is not None
    assert origin.root_sha256 == source.store.root_sha256
    assert (origin.source, origin.view, origin.texts) == (str(source.out), "tokens", "copied")
    assert origin.header == source.store.header
    assert origin.header.parity is not None
    assert derivation_of(source.store) is None
    assert verify(made).problems == ()


def test_store_info_tells_what_it_was_made_from(
    source: Runs,
    out: Path,
    doubler: Callable[..., Doubler],
    capsys: pytest.CaptureFixture[str],
) -> None:
    reencode(source.store, out, doubler())
    info(str(out))
    assert f"made from    tokens of {source.out} (plain, root" in capsys.readouterr().out
    info(str(source.out))
    assert "made from" not in capsys.readouterr().out


def test_captions_are_copied_or_encoded(
    source: Runs, tmp_path: Path, doubler: Callable[..., Doubler]
) -> None:
    rows = np.arange(2)
    copied = reencode(source.store, tmp_path / "copied", doubler())
    encoded = reencode(source.store, tmp_path / "own", doubler(writes_texts=True))
    theirs = source.store.read_caption_embeddings(rows)
    assert np.array_equal(copied.read_caption_embeddings(rows), theirs)
    assert (encoded.read_caption_embeddings(rows) == 1).all()


def test_each_call_of_the_encoder_has_the_same_shape(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    encoder = doubler()
    reencode(source.store, out, encoder)
    assert {batch.shape for batch in encoder.batches} == {(2, 3)}


def test_a_second_call_does_nothing(
    source: Runs,
    out: Path,
    doubler: Callable[..., Doubler],
    bytes_of: Callable[[Path], dict[str, bytes]],
) -> None:
    reencode(source.store, out, doubler())
    before, encoder = bytes_of(out), doubler()
    reencode(source.store, out, encoder)
    assert encoder.batches == []
    assert bytes_of(out) == before


@pytest.mark.parametrize("videos", range(5))
def test_a_call_that_was_killed_is_gone_on_with_to_the_same_bytes(
    videos: int,
    source: Runs,
    tmp_path: Path,
    out: Path,
    doubler: Callable[..., Doubler],
    same_store: Callable[[Path, Path], bool],
) -> None:
    reencode(source.store, tmp_path / "whole", doubler())
    with pytest.raises(KeyboardInterrupt):
        reencode(source.store, out, doubler(), on_progress=_cut_off_after(videos))
    reencode(source.store, out, doubler())
    assert same_store(out, tmp_path / "whole")


def test_a_kill_between_a_receipt_and_its_origin_is_mended(
    source: Runs,
    tmp_path: Path,
    out: Path,
    doubler: Callable[..., Doubler],
    same_store: Callable[[Path, Path], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reencode(source.store, tmp_path / "whole", doubler())
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_origin", _killed)
        with pytest.raises(KeyboardInterrupt):
            reencode(source.store, out, doubler())
    reencode(source.store, out, doubler())
    assert same_store(out, tmp_path / "whole")


def _killed(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_what_an_unfinished_source_has_not_yet_is_pending_and_done_later(
    runs: Runs,
    tmp_path: Path,
    out: Path,
    doubler: Callable[..., Doubler],
    same_store: Callable[[Path, Path], bool],
) -> None:
    runs.put(a=10, b=20, c=30, d=40, e=50)
    with pytest.raises(KeyboardInterrupt):
        runs.run(cut_off_after=1)
    first = reencode(runs.store, out, doubler())
    assert 0 < first.counts().pending == runs.store.counts().pending
    runs.run()
    encoder = doubler()
    assert reencode(runs.store, out, encoder).counts().pending == 0
    assert sum(int(batch.any(axis=1).sum()) for batch in encoder.batches) == first.counts().pending
    reencode(runs.store, tmp_path / "whole", doubler())
    assert same_store(out, tmp_path / "whole")


def test_a_source_that_was_appended_to_is_followed(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    reencode(source.store, out, doubler())
    source.put(g=70)
    captions = [("a", "one"), ("d", "three"), ("g", "seven")]
    source.run(captions, append=True, thumbnails=True)
    encoder = doubler()
    made = reencode(source.store, out, encoder)
    assert made.video_ids == source.store.video_ids
    assert made.has_features_N.tolist() == source.store.has_features_N.tolist()
    assert made.has_embedding_Q.all()
    assert len(made.captions) == 3
    assert sum(int(batch.any(axis=1).sum()) for batch in encoder.batches) == 1


def test_a_video_that_failed_and_is_mended_is_encoded_then(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    reencode(source.store, out, doubler())
    _replace_row(source, 2, 30)
    encoder = doubler()
    made = reencode(source.store, out, encoder)
    assert made.has_features_N.all()
    assert made.failures == []
    assert sum(int(batch.any(axis=1).sum()) for batch in encoder.batches) == 1


def test_a_source_whose_rows_changed_is_refused(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    reencode(source.store, out, doubler())
    _replace_row(source, 0, 99)
    with pytest.raises(IncompatibleStoreError, match=r"1 videos .*first: 'a.*Remove this folder"):
        reencode(source.store, out, doubler())


def _replace_row(source: Runs, row: int, grey: int) -> None:
    """The source's row done again, from another file."""
    store = source.store
    receipt: Receipt = next(r for r in store.video_receipts if row in r.rows)
    name = store.video_ids[row].removesuffix(".mp4")
    source.put(**{name: grey})
    StoreWriter.open(source.out).reopen(receipt, [row])
    source.run([("a", "one"), ("d", "three")], thumbnails=True)


def test_a_folder_of_another_encoder_is_refused(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    reencode(source.store, out, doubler())
    with pytest.raises(IncompatibleStoreError, match="made by weights tuned, and other is needed"):
        reencode(source.store, out, doubler("other"))


def test_two_calls_at_once_are_kept_apart(
    source: Runs, out: Path, doubler: Callable[..., Doubler]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        reencode(source.store, out, doubler(), on_progress=_cut_off_after(0))
    with ZarrStore.open(out).storage.lock(), pytest.raises(StoreError, match="another run"):
        reencode(source.store, out, doubler())


def test_an_exported_file_is_as_good_a_source(
    source: Runs,
    tmp_path: Path,
    out: Path,
    doubler: Callable[..., Doubler],
    bytes_of: Callable[[Path], dict[str, bytes]],
) -> None:
    file = tmp_path / "source.h5"
    write_hdf5(source.store, file)
    made = reencode(open_raw_store(file), out, doubler())
    reencode(source.store, tmp_path / "whole", doubler())
    assert bytes_of(out / "features.zarr") == bytes_of(tmp_path / "whole" / "features.zarr")
    assert made.failures == source.store.failures


def test_a_full_disk_is_told_before_anything_is_encoded(
    source: Runs, out: Path, doubler: Callable[..., Doubler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muse.pipeline.storage.files.LocalStorage.free_bytes", lambda self: 10)
    encoder = doubler()
    with pytest.raises(StoreError, match=r"10 B free.*name a folder on another disk"):
        reencode(source.store, out, encoder)
    assert encoder.batches == []
