"""``muse extract --thumbnails`` and then ``muse evaluate --html``, with the videos gone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import EXTRACT_FLAGS, Outcome

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("is_exported", [False, True])
def test_page_shows_pictures_though_the_video_folder_is_gone(
    muse: Callable[..., Outcome],
    corpus: tuple[Path, Path],
    tiny_clip_folder: Path,
    tmp_path: Path,
    is_exported: bool,
) -> None:
    videos = shutil.copytree(corpus[0], tmp_path / "videos")
    store, file = tmp_path / "store", tmp_path / "report.html"
    encoder = ("--encoder", f"openclip:local-dir:{tiny_clip_folder}", "--engine", "local")
    asked = ("--captions", corpus[1], *encoder, *EXTRACT_FLAGS, "--out", store)
    assert muse("extract", videos, *asked, "--thumbnails").code == 0
    assert "JPEG, shorter edge 112 pixels" in muse("store", "info", store).out
    shutil.rmtree(videos)
    if is_exported:
        assert muse("store", "export", store, tmp_path / "store.h5").code == 0
        store = tmp_path / "store.h5"
    assert muse("evaluate", store, "--head", "mean-pool", "--html", file).code == 0
    page = file.read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page
    assert "no pictures" not in page


def test_page_has_grey_tiles_where_neither_thumbnails_nor_videos_are_left(
    muse: Callable[..., Outcome], store: Path, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    moved = corpus[0].with_name("elsewhere")
    corpus[0].rename(moved)
    file = tmp_path / "report.html"
    try:
        assert muse("evaluate", store, "--head", "mean-pool", "--html", file).code == 0
    finally:
        moved.rename(corpus[0])
    page = file.read_text(encoding="utf-8")
    assert "data:image/jpeg" not in page
    assert "no pictures" in page


def test_a_store_without_thumbnails_is_not_continued_with_them(
    muse: Callable[..., Outcome], store: Path, corpus: tuple[Path, Path], tiny_clip_folder: Path
) -> None:
    encoder = ("--encoder", f"openclip:local-dir:{tiny_clip_folder}", "--engine", "local")
    asked = ("--captions", corpus[1], *encoder, *EXTRACT_FLAGS, "--out", store)
    refused = muse("extract", corpus[0], *asked, "--thumbnails")
    assert refused.code == 1
    assert "made with thumbnails = False, this run has True" in refused.err
