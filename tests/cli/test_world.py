"""``muse world make``: what it prints, and with what it exits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds") / "kept"


def test_a_world_is_made_and_the_next_command_said(muse: Muse, kept: Path) -> None:
    outcome = muse("world", "make", kept, "--num-videos", 1, "--seed", 5)
    assert outcome.code == 0
    assert outcome.out.startswith(f"{kept}: 1 videos of seed 5. Next: muse extract --dataset world")
    assert (kept / "videos" / "000000.mp4").is_file()


def test_the_same_command_without_numbers_has_nothing_to_do(muse: Muse, kept: Path) -> None:
    muse("world", "make", kept, "--num-videos", 1, "--seed", 5)
    outcome = muse("world", "make", kept)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{kept}: 1 videos of seed 5.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seed", 6), "Name a new folder"),
        (("--num-videos", 0), "at least 1"),
        (("--processes", -1), "at least 1"),
        (("--num-videos", "many"), "Invalid value"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    muse: Muse, kept: Path, arguments: tuple[object, ...], words: str
) -> None:
    muse("world", "make", kept, "--num-videos", 1, "--seed", 5)
    outcome = muse("world", "make", kept, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err
