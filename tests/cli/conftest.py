"""What tests of the command line share: running it in this process, and a folder of clips."""

import csv
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from muse.cli.app import main
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def _commands_made_once() -> Iterator[None]:
    """Typer makes all commands of all functions anew whenever one is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def muse(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    _commands_made_once: None,
) -> Callable[..., Outcome]:
    """``muse ARGUMENTS`` as the script runs it, without a process of its own."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["muse", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        output = capsys.readouterr()
        return Outcome(code, output.out, output.err)

    return run


@pytest.fixture(scope="session")
def corpus(
    tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]
) -> tuple[Path, Path]:
    """(folder, captions.csv): six clips of 1 to 3.5 s, two captions each; four train."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(6):
        name = f"clip {number}.mp4"
        make_video(folder / "videos" / name, num_frames=10 + 5 * number)
        split = "train" if number < 4 else "test"
        rows += [(name, f"text {place} of clip {number}", split) for place in range(2)]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("video", "caption", "split"), *rows])
    return folder / "videos", folder / "captions.csv"


@pytest.fixture(scope="session")
def _extracted(
    corpus: tuple[Path, Path], tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("extracted") / "store"
    config = ExtractConfig(
        out=out,
        encoder=f"openclip:local-dir:{tiny_clip_folder}",
        sampling=Sampling(num_frames=3),
        engine="local",
        device="cpu",
        shard_size=4,
        batch_videos=2,
    )
    extract(config, list_folder(*corpus))
    return out


@pytest.fixture
def store(_extracted: Path, tmp_path: Path) -> Path:
    """A store of the corpus, this test's own; `EXTRACT_FLAGS` are the flags that continue it."""
    return Path(shutil.copytree(_extracted, tmp_path / "extracted"))


# What `muse extract` has to be given to go on with `store`, besides videos, captions and encoder.
EXTRACT_FLAGS = (
    "--num-frames", "3", "--shard-size", "4", "--batch-videos", "2", "--device", "cpu",
)  # fmt: skip
