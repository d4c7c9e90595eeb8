"""A whole tower that is trained from the videos themselves: the run that kept frames would make."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.head.checkpoint import read_config
from muse.head.head_config import HeadConfig
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling
from muse.pipeline.store import FeatureStore, open_store
from tests.cli.conftest import Outcome

pytestmark = pytest.mark.slow
Muse = Callable[..., Outcome]
HEAD = HeadConfig(dim=32, factors=(1,), depth=1, d_state=2)
TRAIN = TrainConfig(
    epochs=2, batch_size=4, device="cpu", finetune="all", clip_lr=1e-3, checkpoint_every=1
)
FLAGS = ("--finetune", "all", "--epochs", "1", "--batch-size", "4", "--device", "cpu")
FLAGS += ("--depth", "1", "--factors", "1")
WEIGHTS = ("head.safetensors", "towers.safetensors")


@pytest.fixture(scope="module")
def videos(corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six clips, in a folder that these tests may spoil."""
    return Path(shutil.copytree(corpus[0], tmp_path_factory.mktemp("own") / "videos"))


@pytest.fixture(scope="module")
def stores(
    videos: Path,
    corpus: tuple[Path, Path],
    tiny_clip_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The clips with frames and without."""
    made = {}
    for name, views in {"kept": ("tokens", "frames:uint8"), "plain": ("tokens",)}.items():
        made[name] = tmp_path_factory.mktemp("stores") / name
        config = ExtractConfig(
            out=made[name],
            encoder=f"openclip:local-dir:{tiny_clip_folder}",
            sampling=Sampling(num_frames=3),
            views=views,
            engine="local",
            device="cpu",
            shard_size=4,
            batch_videos=2,
        )
        extract(config, list_folder(videos, corpus[1]))
    return made


class KilledError(Exception):
    """Raised by a test at a step."""


def weights(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in WEIGHTS]


def test_a_run_from_decoded_frames_has_the_bits_of_one_from_kept_frames(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    for name, view in (("uint8", "frames:uint8"), ("decoded", "frames:decoded")):
        train(open_store(stores["kept"], view=view), tmp_path / name, config=TRAIN, head=HEAD)
    assert weights(tmp_path / "decoded") == weights(tmp_path / "uint8")


def test_a_run_that_was_cut_short_ends_with_the_bits_of_one_that_was_not(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 1:
            raise KilledError

    def opened() -> FeatureStore:
        return open_store(stores["plain"], view="frames:decoded")

    train(opened(), tmp_path / "whole", config=TRAIN, head=HEAD)
    with pytest.raises(KilledError):
        train(opened(), tmp_path / "cut", config=TRAIN, head=HEAD, on_step=kill)
    train(opened(), tmp_path / "cut", config=TRAIN, head=HEAD)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_such_a_run_is_trained_evaluated_and_searched_by(
    muse: Muse,
    stores: dict[str, Path],
    videos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = {}
    for name, store in stores.items():
        run = tmp_path / name
        trained = muse("train-head", store, "--out", run, *FLAGS)
        assert trained.code == 0, trained.err
        assert ("decodes every video again" in caplog.text) is (name == "plain")
        evaluated = muse("evaluate", store, "--head", run, "--device", "cpu")
        assert evaluated.code == 0
        assert evaluated.err.startswith("note: encoded 6 videos into ")
        searched = muse("search", store, "text 1 of clip 4", "--head", run, "-k", "6")
        assert (searched.code, searched.err) == (0, "")
        found[name] = (weights(run), evaluated.out.splitlines()[2:], searched.out)
    assert read_config(tmp_path / "plain").view == "frames:decoded"
    assert found["plain"] == found["kept"]
    gone = videos / "clip 1.mp4"
    gone.rename(tmp_path / "elsewhere.mp4")
    try:  # what was encoded once is read, whatever became of the videos
        again = muse("evaluate", stores["plain"], "--head", tmp_path / "plain", "--device", "cpu")
        assert (again.code, again.out.splitlines()[2:]) == (0, found["plain"][1])
        refused = muse("train-head", stores["plain"], "--out", tmp_path / "new", *FLAGS)
    finally:
        (tmp_path / "elsewhere.mp4").rename(gone)
    assert refused.code == 1
    assert "1 of 6 are not where they were" in refused.err
    assert "'clip 1.mp4'" in refused.err
    assert not (tmp_path / "new").exists()


def test_an_exported_file_without_frames_is_refused_in_a_line(
    muse: Muse, stores: dict[str, Path], tmp_path: Path
) -> None:
    assert muse("store", "export", stores["plain"], tmp_path / "x.h5").code == 0
    refused = muse("train-head", tmp_path / "x.h5", "--out", tmp_path / "run", *FLAGS)
    assert refused.code == 1
    assert "an exported file has no paths of its videos" in refused.err.splitlines()[-1]
