"""Results files: what they say of a number's origin, and which of them are read back."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import muse as package
from muse.cli.results_file import COMPARISON, EVALUATION, SEEDS, read_results
from muse.errors import UsageError
from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]


def _written(tmp_path: Path, **content: Any) -> Path:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.slow
def test_an_evaluation_says_all_that_its_numbers_depend_on(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "scores.json"
    assert muse("evaluate", store, "--ties", "optimistic", "--json", file).code == 0
    content = read_results(file, EVALUATION)
    assert content["num_videos"] == 2  # where it was before there was a provenance
    found = content["provenance"]
    assert found["command"] == [
        "muse", "evaluate", str(store), "--ties", "optimistic", "--json", str(file),
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert found["versions"]["muse"] == package.__version__
    assert {"torch", "numpy", "open_clip_torch", "mamba-ssm"} <= set(found["versions"])
    assert (found["device"]["type"], found["scan"]) == ("cpu", None)
    assert found["rules"] == {"ties": "optimistic", "v2t": "group"}
    assert found["store"]["location"] == str(store)
    assert re.fullmatch("[0-9a-f]{64}", found["store"]["root_sha256"])
    assert (found["split"]["num_videos_listed"], found["split"]["num_captions"]) == (2, 4)
    assert found["head"] == {"name": "mean-pool"}
    assert found["remarks"] == []
    assert found["seconds"] > 0


@pytest.mark.slow
def test_a_comparison_says_it_of_both_heads(muse: Muse, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "compared.json"
    assert muse("compare", store, "mean-pool", "mean-pool", "--json", file).code == 0
    content = read_results(file, COMPARISON, EVALUATION)
    assert [head["name"] for head in content["provenance"]["heads"]] == ["mean-pool"] * 2
    assert content["provenance"]["split"]["num_captions"] == content["num_captions"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"schema": EVALUATION, "schema_version": 2}, "schema version 2 .* this muse reads 1"),
        ({"schema": EVALUATION}, "schema version None"),
        ({"schema": COMPARISON, "schema_version": 1}, "expected muse-evaluation or muse-seeds"),
        ({"protocol": "MSVD test"}, "schema None"),
    ],
)
def test_a_file_of_another_schema_or_version_is_refused(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read_results(_written(tmp_path, **content), EVALUATION, SEEDS)


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="schema None"):
        read_results(tmp_path / "list.json", EVALUATION)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(UsageError, match="can't be read as JSON"):
        read_results(tmp_path / "text.json", EVALUATION)
    with pytest.raises(UsageError, match=r"none\.json: can't be read"):
        read_results(tmp_path / "none.json", EVALUATION)
