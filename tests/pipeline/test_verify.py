"""Every file of a store is what was written, or `verify` says which one is not."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from runs import Runs

from muse.errors import StoreError
from muse.pipeline.redo import RedoRules
from muse.pipeline.store_writer import StoreWriter
from muse.pipeline.store_zarr import ZarrStore
from muse.pipeline.verify import VerifyReport, repair, verify

CAPTIONS = [("a", "one"), ("c", "three"), ("gone", "a dog")]
FILES = (
    "store.json",
    "videos.parquet",
    "captions.parquet",
    "features.zarr/zarr.json",
    *(
        f"features.zarr/{array}/zarr.json"
        for array in ("tokens", "valid", "pts_seconds", "captions")
    ),
    *(f"features.zarr/tokens/c/{shard}/0/0/0" for shard in (0, 1)),
    *(
        f"features.zarr/{array}/c/{shard}/0"
        for array in ("valid", "pts_seconds")
        for shard in (0, 1)
    ),
    "features.zarr/captions/c/0/0",
    *(f"receipts/videos-{shard:06d}.json" for shard in (0, 1, 2)),
    "receipts/captions-000000.json",
)
UNCOUNTED = {"run.json", "failures.jsonl", ".lock"}


@pytest.fixture
def whole(runs: Runs, kept: Path) -> Runs:
    """Five videos, of which the fourth is broken and the fifth missing; three captions."""

    def make(first: Runs) -> None:
        first.put(a=1, b=2, c=3, d="corrupt")
        first.run(CAPTIONS)

    return runs.begin_as(kept, make)


def checked(runs: Runs) -> VerifyReport:
    return verify(ZarrStore.open(runs.out))


def damage_is_found(runs: Runs, name: str) -> bool:
    """True if a report, or the error of a reader, names the file."""
    try:
        return name in [problem.name for problem in checked(runs).problems]
    except StoreError as error:
        return name in str(error)


def offsets_of(content: bytes, generator: np.random.Generator) -> Iterator[int]:
    """First, last and three random places."""
    yield from (0, len(content) - 1, *generator.integers(0, len(content), 3).tolist())


def test_a_store_is_as_it_was_written(whole: Runs) -> None:
    report = checked(whole)
    assert (report.problems, report.num_pending) == ((), 0)
    assert report.root_sha256 == whole.store.root_sha256


def test_every_file_that_counts_is_read_whole(whole: Runs) -> None:
    read: dict[str, int] = {}
    report = verify(whole.store, on_file=lambda name, size: read.update({name: size}))
    sealed = {name for name in FILES if name == "store.json" or name.startswith("receipts/")}
    assert read == {name: (whole.out / name).stat().st_size for name in set(FILES) - sealed}
    assert (report.num_files, report.num_bytes) == (len(read), sum(read.values()))


def test_the_files_below_are_all_there_are(
    whole: Runs, bytes_of: Callable[[Path], dict[str, bytes]]
) -> None:
    assert set(bytes_of(whole.out)) - UNCOUNTED == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_in_every_file(whole: Runs, name: str) -> None:
    generator = np.random.default_rng(FILES.index(name))
    content = (whole.out / name).read_bytes()
    for offset in offsets_of(content, generator):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(generator.integers(8))
        (whole.out / name).write_bytes(bytes(damaged))
        assert damage_is_found(whole, name), f"bit flipped at {offset}"
    (whole.out / name).write_bytes(content)
    assert checked(whole).problems == ()


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("receipts/")])
def test_a_file_that_is_gone_or_cut_short_is_found(whole: Runs, name: str) -> None:
    content = (whole.out / name).read_bytes()
    for shorter in (content[:-1], content[: len(content) // 2], b""):
        (whole.out / name).write_bytes(shorter)
        assert damage_is_found(whole, name), f"{len(shorter)} bytes left"
    (whole.out / name).unlink()
    assert damage_is_found(whole, name)


def test_a_file_that_grew_is_found(whole: Runs) -> None:
    name = "features.zarr/tokens/c/1/0/0/0"
    (whole.out / name).write_bytes((whole.out / name).read_bytes() + b"\0")
    assert damage_is_found(whole, name)


def test_a_receipt_that_is_gone_leaves_its_rows_pending(whole: Runs) -> None:
    root = whole.store.root_sha256
    (whole.out / "receipts/videos-000000.json").unlink()
    report = checked(whole)
    assert (report.problems, report.num_pending) == ((), 2)
    assert report.root_sha256 != root


@pytest.mark.parametrize("copy", [shutil.copy, shutil.move])
def test_a_receipt_of_another_shard_is_found(whole: Runs, copy: Callable[..., object]) -> None:
    receipts = whole.out / "receipts"
    copy(receipts / "videos-000001.json", receipts / "videos-000000.json")
    assert damage_is_found(whole, "receipts/videos-000000.json")


def test_a_receipt_of_another_store_is_found(whole: Runs) -> None:
    other = Runs(folder=whole.folder.with_name("others"), out=whole.out.with_name("other"))
    other.folder.mkdir()
    other.put(a=1, x=2)  # its first shard has as many rows
    other.run()
    shutil.copy(other.out / "receipts/videos-000000.json", whole.out / "receipts")
    problems = checked(whole).problems
    assert ("receipts/videos-000000.json", "speaks of other rows") in [
        (problem.name, problem.words) for problem in problems
    ]


def test_a_receipt_of_fewer_rows_of_another_store_is_found(whole: Runs) -> None:
    other = Runs(folder=whole.folder.with_name("others"), out=whole.out.with_name("other"))
    other.folder.mkdir()
    other.put(x=2)  # as if the first shard had grown since
    other.run()
    shutil.copy(other.out / "receipts/videos-000000.json", whole.out / "receipts")
    assert damage_is_found(whole, "receipts/videos-000000.json")


def test_an_unfinished_store_has_pending_videos_and_no_problem(runs: Runs) -> None:
    runs.put(a=1, b=2, c=3, d=4, e=5)
    with pytest.raises(KeyboardInterrupt):
        runs.run(cut_off_after=2)
    report = checked(runs)
    assert (report.problems, report.num_pending) == ((), 3)


def test_a_shard_that_is_being_done_again_is_no_problem(whole: Runs) -> None:
    store = whole.store
    StoreWriter.open(whole.out).reopen(store.video_receipts[0], [1])
    report = checked(whole)
    assert (report.problems, report.num_pending) == ((), 1)


# -- repair --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "num_shards"),
    [
        (("features.zarr/tokens/c/0/0/0/0",), 1),
        (("features.zarr/valid/c/1/0", "features.zarr/pts_seconds/c/1/0"), 1),
        (("features.zarr/captions/c/0/0", "features.zarr/tokens/c/0/0/0/0"), 2),
    ],
)
def test_a_repaired_store_is_the_same_again_after_the_next_run(
    whole: Runs,
    names: tuple[str, ...],
    num_shards: int,
    bytes_of: Callable[[Path], dict[str, bytes]],
) -> None:
    root, arrays = whole.store.root_sha256, bytes_of(whole.out / "features.zarr")
    for name in names:
        damaged = bytearray((whole.out / name).read_bytes())
        damaged[len(damaged) // 2] ^= 4
        (whole.out / name).write_bytes(bytes(damaged))
    problems = checked(whole).problems
    assert {problem.name for problem in problems} == set(names)
    assert repair(whole.store.location).num_withdrawn == num_shards
    assert checked(whole).problems == ()
    whole.run(CAPTIONS)
    assert whole.store.root_sha256 == root
    assert bytes_of(whole.out / "features.zarr") == arrays


def test_only_damaged_shards_are_done_again(whole: Runs) -> None:
    (whole.out / "features.zarr/tokens/c/1/0/0/0").unlink()
    repair(whole.store.location)
    whole.decoded.clear()
    whole.run(CAPTIONS)
    assert whole.decoded == ["c.mp4", "d.mp4"]


def test_what_no_run_can_write_again_is_refused_by_name(whole: Runs) -> None:
    (whole.out / "videos.parquet").unlink()
    with pytest.raises(StoreError, match=r"videos\.parquet is not there\. No run can mend that"):
        repair(whole.store.location)
    assert len(list((whole.out / "receipts").iterdir())) == 4


def test_nothing_is_repaired_while_a_run_writes(whole: Runs) -> None:
    receipt = whole.store.video_receipts[0]
    (whole.out / "features.zarr/tokens/c/0/0/0/0").unlink()
    with (
        whole.store.storage.lock(),
        pytest.raises(StoreError, match=r"another run .* is writing to it"),
    ):
        repair(whole.store.location)
    assert (whole.out / receipt.name).is_file()


# -- beside other runs -----------------------------------------------------------------------------


def test_what_a_run_has_changed_since_the_store_was_opened_is_no_damage(whole: Runs) -> None:
    opened = whole.store
    opened.video_receipts, opened.caption_receipts  # noqa: B018  # read now, as of now
    whole.put(a="8 anew", z=3)
    whole.run(CAPTIONS, append=True, redo=RedoRules(changed="stat"))
    assert verify(opened).problems == ()


def test_a_repair_withdraws_only_what_is_damaged_when_it_begins(whole: Runs) -> None:
    whole.put(a="8 anew")
    whole.run(CAPTIONS, redo=RedoRules(changed="stat"))
    assert repair(whole.store.location).num_withdrawn == 0
    assert "pending" not in whole.states.values()
