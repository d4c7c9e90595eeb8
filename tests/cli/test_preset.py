"""What ``muse extract`` takes of a dataset where no flag says otherwise."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muse.cli.preset import AskedSettings, Settings, settings_of, with_preset_window
from muse.pipeline.datasets.benchmark import list_benchmark
from muse.pipeline.header import Sampling
from muse.pipeline.store_zarr import ZarrStore
from tests.cli.conftest import Outcome

NEW = "no-store-is-here"


@pytest.mark.parametrize(
    ("dataset", "num_frames", "text_length"),
    [
        ("msrvtt", 12, 32),
        ("msvd", 12, 32),
        ("lsmdc", 12, 32),
        ("vatex", 12, 32),
        ("didemo", 64, 64),
        ("activitynet", 64, 64),
    ],
)
def test_a_new_store_of_a_benchmark_has_the_papers_settings(
    dataset: str, num_frames: int, text_length: int
) -> None:
    found = settings_of(AskedSettings(), dataset=dataset, out=NEW)
    assert found.sampling == Sampling(kind="fps", fps=1.0, num_frames=num_frames)
    assert found.text_length == text_length


def test_the_made_world_has_its_own() -> None:
    found = settings_of(AskedSettings(), dataset="world", out=NEW)
    assert found.sampling == Sampling(kind="uniform", num_frames=8)
    assert found.text_length is None


def test_a_preset_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    settings_of(AskedSettings(num_frames=8), dataset="didemo", out=NEW)
    assert capsys.readouterr().err == (
        "note: preset of didemo: --sampling fps, --fps 1, --text-length 64.\n"
    )


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        (AskedSettings(num_frames=8), {"sampling": Sampling(num_frames=8)}),
        (AskedSettings(fps=2.0), {"sampling": Sampling(num_frames=64, fps=2.0)}),
        (
            AskedSettings(sampling="uniform"),
            {"sampling": Sampling(kind="uniform", num_frames=64)},
        ),
        (AskedSettings(text_length=20), {"text_length": 20}),
        (AskedSettings(text_length=0), {"text_length": None}),
    ],
)
def test_a_flag_wins_over_a_preset(asked: AskedSettings, changes: dict[str, Any]) -> None:
    preset = Settings(sampling=Sampling(num_frames=64), text_length=64)
    found = settings_of(asked, dataset="didemo", out=NEW)
    assert found == dataclasses.replace(preset, **changes)


def test_a_store_that_is_there_goes_on_with_its_own_and_says_so(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settings_of(AskedSettings(), dataset="didemo", out=str(store))
    assert found == Settings(sampling=Sampling(num_frames=3), text_length=None)
    assert capsys.readouterr().err == (
        f"note: {store} was made with --num-frames 3, --text-length 0, and goes on so; a new "
        "store of didemo would have --num-frames 64, --text-length 64.\n"
    )


def test_a_flag_that_a_store_was_not_made_with_is_passed_on_to_be_refused(store: Path) -> None:
    found = settings_of(AskedSettings(num_frames=64), dataset="didemo", out=str(store))
    assert found.sampling.num_frames == 64


def test_a_folder_has_the_usual_defaults_whatever_the_store_has(store: Path) -> None:
    found = settings_of(AskedSettings(), dataset=None, out=str(store))
    assert found == Settings(sampling=Sampling(), text_length=None)


@pytest.fixture
def didemo(tmp_path: Path) -> Path:
    (tmp_path / "test_data.json").write_text(
        '[{"video": "one.mov", "description": "a"}]', encoding="utf-8"
    )
    (tmp_path / "one.mp4").touch()
    return tmp_path


@pytest.fixture
def asked(
    muse: Callable[..., Outcome], didemo: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, Any]]:
    """The config and the listing that ``muse extract --dataset didemo`` begins with."""

    class StopHereError(Exception):
        pass

    begun: list[tuple[Any, Any]] = []

    def note(config: Any, listing: Any, **_: object) -> None:
        begun.append((config, listing))
        raise StopHereError

    def run(*arguments: object) -> tuple[Any, Any]:
        with pytest.raises(StopHereError):
            muse("extract", "--dataset", "didemo", "--root", didemo, *arguments)
        return begun[-1]

    monkeypatch.setattr("muse.pipeline.extract.extract", note)
    return run


def test_extract_takes_the_preset(asked: Callable[..., tuple[Any, Any]], tmp_path: Path) -> None:
    config, listing = asked("--out", tmp_path / "store")
    assert (config.sampling, config.text_length) == (Sampling(num_frames=64), 64)
    assert [video.window.text for video in listing.videos] == ["0:31"]


def test_a_window_that_is_asked_for_wins(
    asked: Callable[..., tuple[Any, Any]], tmp_path: Path
) -> None:
    for text, expected in (("0:30", "0:30"), ("none", None), ("preset", "0:31")):
        _, listing = asked("--out", tmp_path / "store", "--clip-window", text)
        assert [v.window and v.window.text for v in listing.videos] == [expected]


def test_videos_that_a_store_has_whole_stay_whole_unless_a_window_is_asked_for(
    didemo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = list_benchmark("didemo", didemo, ["test"])
    there = ZarrStore.open(store).video_ids[0]
    known = dataclasses.replace(
        listing, videos=(dataclasses.replace(listing.videos[0], video_id=there),)
    )
    whole = with_preset_window(known, "didemo", out=str(store))
    assert [video.window for video in whole.videos] == [None]
    assert capsys.readouterr().err == (
        f"note: {store} was made with --clip-window none, and goes on so; a new store of didemo "
        "would have --clip-window 0:31.\n"
    )
    assert with_preset_window(listing, "didemo", out=str(store)) == listing
