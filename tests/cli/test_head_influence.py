"""``muse head influence``: what it prints, and the words it finds for numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.cli.head_influence import change_text, percent_text
from muse.head.scale_removal import RecallChange
from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]
TRAIN = ("--epochs", "1", "--batch-size", "4", "--depth", "1", "--device", "cpu")


def test_a_run_s_scales_are_printed_and_put_into_words(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    muse("train-head", store, "--out", tmp_path / "run", "--factors", "1,2", *TRAIN)
    plain = muse("head", "influence", store, "--head", tmp_path / "run")
    assert (plain.code, plain.err) == (0, "")
    lines = plain.out.splitlines()
    assert lines[0].startswith("folder, split test: 2 videos, 4 captions; head")
    outcome = muse("head", "influence", store, "--head", tmp_path / "run", "--json")
    content = json.loads(outcome.out)
    scales = [share["name"] for share in content["gradient"]["by_scale"]]
    assert scales[0] == "class tokens"
    for scale, words in zip(scales[1:], lines[-2:], strict=True):
        assert words.startswith("The embedding ")
        assert f" {scale}: " in words
    assert sum(share["share"] for share in content["gradient"]["by_scale"]) == pytest.approx(1)
    removed = [one["scale"] for one in content["recall"]["removals"]]
    assert removed == [name for name in (*scales[1:], "all scales") for _ in range(2)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--head", "mean-pool"), "reads class tokens only"),
        (("--head", "no-run"), "no-run"),
        (("--head", "mean-pool", "--videos", "0"), "at least 1"),
    ],
)
def test_what_can_t_be_asked_is_one_line(
    muse: Muse, store: Path, flags: tuple[str, ...], words: str
) -> None:
    outcome = muse("head", "influence", store, *flags)
    assert outcome.code in (1, 2)
    assert (outcome.out, len(outcome.err.splitlines())) == ("", 1)
    assert words in outcome.err


def test_a_head_is_needed(muse: Muse, store: Path) -> None:
    assert "--head" in muse("head", "influence", store).err


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (0.0, 0.0, "is the same"),
        (-12.0, 1.5, "falls by 12 ± 1.5"),
        (0.3, 0.4, "rises by 0.3 ± 0.4, which may be chance"),
    ],
)
def test_a_change_is_worded_by_its_error(change: float, error: float, words: str) -> None:
    changed = RecallChange(recall_at_1=40.0, change=change, standard_error=error)
    assert change_text(changed) == words


def test_a_small_share_keeps_its_digits() -> None:
    shares = [percent_text(share) for share in (0.123, 0.0012, 1.2e-5, 3e-17, 0.0)]
    assert shares == ["12.3 %", "0.12 %", "0.0012 %", "3e-15 %", "0 %"]
