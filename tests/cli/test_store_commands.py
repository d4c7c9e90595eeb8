"""``muse store errors``, ``verify`` and ``diff``: what they print, and with what they exit."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.cli.store import _windows
from muse.pipeline.header import Parity
from muse.pipeline.plan import VideoShard
from muse.pipeline.records import Failure, VideoRef
from muse.pipeline.sealed_json import sealed_bytes
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore
from tests.cli.conftest import Outcome

Muse = Callable[..., Outcome]
ODD_NAME = "Cat [dQw4w9WgXcQ] [/x].mp4"


@pytest.fixture
def broken(store: Path) -> Path:
    """The store, its second shard with a failed video of an odd name and a skipped one."""
    ids = ZarrStore.open(store).video_ids[4:]
    shard = VideoShard(
        index=1, first_row=4, videos=tuple(VideoRef(video_id=i, path=None) for i in ids)
    )
    failed = Failure(
        video_id=ODD_NAME,
        path=f"/videos/{ODD_NAME}",
        stage="decode",
        reason="corrupt",
        message="[mov,mp4] moov atom not found",
    )
    skipped = Failure(
        video_id="long.mp4", path="/l", stage="decode", reason="too_long", message="7200 s"
    )
    StoreWriter.open(store).write_video_shard(shard, [failed, skipped], seconds={})
    return store


@pytest.fixture
def damaged(store: Path) -> Path:
    """The store with one bit flipped."""
    file = store / "features.zarr/tokens/c/0/0/0/0"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    return store


# -- errors --------------------------------------------------------------------------------------


def test_errors_are_a_table_with_names_and_words_as_they_are(muse: Muse, broken: Path) -> None:
    outcome = muse("store", "errors", broken)
    assert outcome.code == 0
    assert outcome.out.startswith("listed 6 = ok 4 + failed 1 + skipped 1\n")
    for words in (ODD_NAME, "corrupt", "[mov,mp4] moov atom not found", "long.mp4", "too_long"):
        assert words in outcome.out


def test_errors_as_json_are_one_line_a_video(muse: Muse, broken: Path) -> None:
    lines = muse("store", "errors", broken, "--json").out.splitlines()
    found = [(line["video_id"], line["reason"]) for line in map(json.loads, lines)]
    assert found == [(ODD_NAME, "corrupt"), ("long.mp4", "too_long")]


@pytest.mark.parametrize(
    ("reasons", "shown"),
    [("corrupt", [ODD_NAME]), ("too_long, corrupt", [ODD_NAME, "long.mp4"]), ("timeout", [])],
)
def test_errors_of_some_reasons_alone(
    muse: Muse, broken: Path, reasons: str, shown: list[str]
) -> None:
    lines = muse("store", "errors", broken, "--reason", reasons, "--json").out.splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == shown


def test_an_unknown_reason_is_refused_with_those_there_are(muse: Muse, store: Path) -> None:
    outcome = muse("store", "errors", store, "--reason", "tired")
    assert outcome.code == 2
    assert outcome.err.startswith("muse: --reason 'tired': choose of missing, ")


def test_a_store_without_errors_is_one_line(muse: Muse, store: Path) -> None:
    outcome = muse("store", "errors", store)
    assert outcome.out == "listed 6 = ok 6 + failed 0 + skipped 0\n"


def test_info_counts_failed_and_skipped_by_reason(muse: Muse, broken: Path) -> None:
    content = json.loads(muse("store", "info", broken, "--json").out)
    assert content["failures_by_reason"] == {"corrupt": 1}
    assert content["skipped_by_reason"] == {"too_long": 1}
    assert content["root_sha256"] == ZarrStore.open(broken).root_sha256


# -- verify --------------------------------------------------------------------------------------


def test_info_tells_how_near_the_features_are_to_the_library_s(muse: Muse, store: Path) -> None:
    parity = Parity(
        num_videos=4,
        num_frames=8,
        device="cpu",
        pixels=0.0,
        class_token_mean=0.99995,
        class_token_min=0.9998,
        patch_tokens_mean=0.9997,
        patch_tokens_min=0.99,
        cosine_limit=0.995,
    )
    _write_parity(store, parity)
    content = json.loads(muse("store", "info", store, "--json").out)
    assert content["header"]["parity"] == dataclasses.asdict(parity)
    line = _parity_line(muse, store)
    assert "8 frames" in line
    assert "0/255 apart" in line
    assert "class tokens 0.999950 (least 0.999800), of patches 0.999700 (least 0.990000)" in line


def test_info_tells_that_nobody_compared_an_old_store(muse: Muse, store: Path) -> None:
    _write_parity(store, None)
    assert _parity_line(muse, store).split(maxsplit=1) == ["parity", "not measured"]


def _write_parity(store: Path, parity: Parity | None) -> None:
    header = dataclasses.replace(ZarrStore.open(store).header, parity=parity)
    (store / "store.json").write_bytes(sealed_bytes(header.as_json()))


def _parity_line(muse: Muse, store: Path) -> str:
    lines = muse("store", "info", store).out.splitlines()
    return next(line for line in lines if line.startswith("parity"))


def test_info_tells_the_commonest_windows() -> None:
    assert _windows({"0:31": 9, "2:4.5": 1}) == "10 videos are seconds 0:31, 2:4.5 of their files"
    many = dict.fromkeys(("0:1", "0:2", "0:3", "0:4", "0:5"), 2)
    assert _windows(many) == "10 videos are seconds 0:1, 0:2, 0:3 and 2 others of their files"


def test_a_whole_store_is_as_it_was_written(muse: Muse, store: Path) -> None:
    outcome = muse("store", "verify", store)
    assert outcome.code == 0
    state, root = outcome.out.splitlines()
    assert state.startswith("as it was written: ")
    assert root == f"root {ZarrStore.open(store).root_sha256}"


def test_a_damaged_store_names_the_file_and_exits_with_one(muse: Muse, damaged: Path) -> None:
    outcome = muse("store", "verify", damaged)
    assert outcome.code == 1
    problem, state, _ = outcome.out.splitlines()
    assert problem.startswith("features.zarr/tokens/c/0/0/0/0 is not what was written")
    assert state.startswith("1 problems: ")


def test_a_report_as_json_says_the_same(muse: Muse, damaged: Path) -> None:
    outcome = muse("store", "verify", damaged, "--json")
    content = json.loads(outcome.out)
    assert outcome.code == 1
    assert [problem["file"] for problem in content["problems"]] == [
        "features.zarr/tokens/c/0/0/0/0"
    ]
    assert (content["pending"], content["files"] > 10, content["bytes"] > 1000) == (0, True, True)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_repair_leaves_the_damaged_shard_to_the_next_run(
    muse: Muse, damaged: Path, flags: tuple[str, ...]
) -> None:
    outcome = muse("store", "verify", damaged, "--repair", *flags)
    assert outcome.code == 0
    assert "1 shards withdrawn" in outcome.err
    if flags:
        assert len(json.loads(outcome.out)["problems"]) == 1
    after = muse("store", "verify", damaged)
    assert (after.code, "; 4 videos pending" in after.out) == (0, True)


def test_what_can_t_be_repaired_is_one_line(muse: Muse, store: Path) -> None:
    (store / "captions.parquet").write_bytes(b"")
    outcome = muse("store", "verify", store, "--repair")
    assert outcome.code == 1
    assert outcome.err.startswith(f"muse: {store}: captions.parquet ")
    assert "No run can mend that" in outcome.err


# -- diff ----------------------------------------------------------------------------------------


def test_a_copy_holds_the_same(muse: Muse, store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy")
    outcome = muse("store", "diff", store, tmp_path / "copy")
    assert (outcome.code, outcome.out) == (0, "the same: 6 videos compared, bit for bit\n")


def test_differences_are_named_and_exit_with_one(muse: Muse, damaged: Path, tmp_path: Path) -> None:
    shutil.copytree(damaged, tmp_path / "pending")
    (tmp_path / "pending/receipts/videos-000001.json").unlink()
    outcome = muse("store", "diff", damaged, tmp_path / "pending")
    assert outcome.code == 1
    assert outcome.out == (
        "2 videos in another state: clip 4.mp4 (ok / pending), clip 5.mp4 (ok / pending)\n"
    )


def test_differing_features_are_named_with_the_worst(
    muse: Muse, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "other")
    file = tmp_path / "other/features.zarr/tokens/c/0/0/0/0"
    content = bytearray(file.read_bytes())
    content[1] ^= 0x80  # the sign of the first number of the first video
    file.write_bytes(bytes(content))
    outcome = muse("store", "diff", store, tmp_path / "other")
    assert outcome.code == 1
    assert "tokens: 1 of 6 videos differ, at most by " in outcome.out
    assert "clip 0.mp4" in outcome.out
    found = json.loads(muse("store", "diff", store, tmp_path / "other", "--json").out)
    assert [difference["video_id"] for difference in found["features"]] == ["clip 0.mp4"]
    assert muse("store", "diff", store, tmp_path / "other", "--max-videos", "1").code == 1
