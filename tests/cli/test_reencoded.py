"""A finetuned run on the command line: it reads a store of its own, made once."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from muse.head import reencoder
from muse.head.checkpoint import load_head
from muse.head.embeddings import SplitEmbeddings, embed_split, embed_texts
from muse.head.evaluate import evaluate
from muse.head.head_config import HeadConfig
from muse.head.reencoder import RunEncoder, load_reencoder
from muse.head.train import StepReport, train
from muse.head.train_config import TrainConfig
from muse.pipeline.datasets.folder import list_folder
from muse.pipeline.extract import ExtractConfig, extract
from muse.pipeline.header import Sampling
from muse.pipeline.store import open_store
from muse.pipeline.verify import verify
from tests.cli.conftest import Outcome

pytestmark = pytest.mark.slow
Muse = Callable[..., Outcome]
BELOW = "block:1"  # of a tower of two blocks
HEAD = HeadConfig(dim=32, factors=(1,), depth=1, d_state=2)
TRAIN = TrainConfig(
    epochs=1, batch_size=4, device="cpu", finetune="top:1", clip_lr=1e-3, max_grad_norm=1e9
)


def is_clean(outcome: Outcome) -> bool:
    """Done, and nothing said but that a store was made."""
    notes = outcome.err.splitlines()
    return outcome.code == 0 and all(n.startswith("note: encoded 6 videos into") for n in notes)


@pytest.fixture(scope="session")
def source(
    corpus: tuple[Path, Path], tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The six clips, with the block below the top one."""
    out = tmp_path_factory.mktemp("blocks") / "store"
    _extract(out, tiny_clip_folder, *corpus)
    return out


def _extract(
    out: Path, tiny_clip_folder: Path, videos: Path, captions: Path, **settings: Any
) -> None:
    config = ExtractConfig(
        out=out,
        encoder=f"openclip:local-dir:{tiny_clip_folder}",
        sampling=Sampling(num_frames=3),
        views=("tokens", BELOW),
        engine="local",
        device="cpu",
        shard_size=4,
        batch_videos=2,
        **settings,
    )
    extract(config, list_folder(videos, captions))


def _trained(source: Path, run: Path, **settings: Any) -> Path:
    config = dataclasses.replace(TRAIN, **settings)
    train(open_store(source, view=BELOW), run, config=config, head=HEAD)
    return run


@pytest.fixture(scope="session")
def _frozen(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(source, tmp_path_factory.mktemp("frozen") / "run")


@pytest.fixture(scope="session")
def _with_text(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(source, tmp_path_factory.mktemp("text") / "run", finetune_text=True)


@pytest.fixture
def run(_frozen: Path, tmp_path: Path) -> Path:
    """A run that trained the top of the image tower, this test's own; nothing is encoded yet."""
    return Path(shutil.copytree(_frozen, tmp_path / "run"))


@pytest.fixture
def text_run(_with_text: Path, tmp_path: Path) -> Path:
    """The same with the text tower."""
    return Path(shutil.copytree(_with_text, tmp_path / "text_run"))


def encoded(run: Path) -> Path:
    """The one store that a run has made."""
    (found,) = (run / "stores").iterdir()
    return found


def times(folder: Path) -> dict[Path, int]:
    """When each file was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def by_the_run(source: Path, run: Path) -> SplitEmbeddings:
    """The test split by the head over its towers, which encodes the block at each call."""
    store = open_store(source, view=BELOW)
    return embed_split(store, load_head(run, store, scan="reference"))


@pytest.mark.parametrize("kind", ["run", "text_run"])
def test_the_numbers_are_those_of_the_head_over_its_towers(
    kind: str, muse: Muse, source: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run, file = request.getfixturevalue(kind), tmp_path / "scores.json"
    outcome = muse("evaluate", source, "--head", run, "--device", "cpu", "--json", file)
    assert is_clean(outcome)
    store = open_store(source, view=BELOW)
    wanted = evaluate(store, load_head(run, store, scan="reference")).as_json()
    found = json.loads(file.read_text())
    for direction in ("text_to_video", "video_to_text"):
        assert found[direction] == wanted[direction]
    own = open_store(encoded(run))
    info = load_reencoder(run, device="cpu").info
    assert own.header.encoder == info
    made = embed_split(own, load_head(run, own, own_encoder=info))
    direct = by_the_run(source, run)
    torch.testing.assert_close(made.video_VD, direct.video_VD, atol=2e-3, rtol=0)
    torch.testing.assert_close(made.text_QD, direct.text_QD, atol=2e-3, rtol=0)
    assert found["provenance"]["store"]["root_sha256"] == own.root_sha256


def test_a_second_call_encodes_nothing_and_loads_no_encoder(
    muse: Muse, source: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = muse("evaluate", source, "--head", run)
    before = times(run / "stores")
    monkeypatch.delattr(reencoder, "head_over_towers")
    second = muse("evaluate", source, "--head", run)
    assert (second.code, second.out) == (0, first.out)
    assert times(run / "stores") == before


def test_a_store_that_the_run_has_encoded_is_read_as_it_is(
    muse: Muse, source: Path, run: Path, tmp_path: Path
) -> None:
    first = muse("evaluate", source, "--head", run, "--encoded", tmp_path / "kept")
    (own,) = (tmp_path / "kept").iterdir()
    assert verify(open_store(own)).problems == ()
    second = muse("evaluate", own, "--head", run)
    assert (second.code, second.out) == (0, first.out)
    assert not (run / "stores").exists()


def test_captions_are_copied_where_the_text_tower_was_frozen(
    muse: Muse, source: Path, run: Path, text_run: Path
) -> None:
    for one in (run, text_run):
        assert muse("evaluate", source, "--head", one).code == 0
    rows = np.arange(12)
    theirs = open_store(source).read_caption_embeddings(rows)
    copied, own = open_store(encoded(run)), open_store(encoded(text_run))
    assert np.array_equal(copied.read_caption_embeddings(rows), theirs)
    view = open_store(source, view=BELOW)
    made = embed_texts(load_head(text_run, view), [caption.text for caption in own.captions])
    assert made is not None
    np.testing.assert_allclose(own.read_caption_embeddings(rows), made.numpy(), atol=2e-3)
    assert not np.array_equal(own.read_caption_embeddings(rows), theirs)


@pytest.mark.parametrize("kind", ["run", "text_run"])
def test_a_text_is_searched_by_the_tower_that_made_the_captions(
    kind: str, muse: Muse, source: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(kind)
    text = "text 1 of clip 4"
    outcome = muse("search", source, text, "--head", run, "--json", "-k", "6")
    assert is_clean(outcome)
    found = {one["video_id"]: one["cosine"] for one in map(json.loads, outcome.out.splitlines())}
    store = open_store(source, view=BELOW)
    head = load_head(run, store, scan="reference")
    split = embed_split(store, head, split="all")
    row = [caption.text for caption in store.captions].index(text)
    wanted = F.cosine_similarity(split.text_QD[row][None], split.video_VD)
    for place, video in enumerate(split.selection.video_rows_V.tolist()):
        assert found[store.video_ids[video]] == pytest.approx(float(wanted[place]), abs=2e-3)


def test_texts_of_a_finetuned_tower_need_its_run(muse: Muse, source: Path, text_run: Path) -> None:
    muse("evaluate", source, "--head", text_run)
    outcome = muse("search", encoded(text_run), "a text")
    assert outcome.code == 1
    assert "only that run can embed one. Name it with --head" in outcome.err
    assert muse("search", encoded(text_run), "a text", "--head", text_run).code == 0


def test_store_info_says_what_it_was_made_from(muse: Muse, source: Path, run: Path) -> None:
    muse("evaluate", source, "--head", run)
    outcome = muse("store", "info", encoded(run))
    assert f"made from    {BELOW} of {source}" in outcome.out
    assert "finetuned:openclip:local-dir:" in outcome.out


def test_each_run_of_a_folder_of_seeds_has_its_own(
    muse: Muse, source: Path, run: Path, text_run: Path, tmp_path: Path
) -> None:
    for seed, one in enumerate((run, text_run)):
        shutil.copytree(one, tmp_path / "seeds" / f"seed-{seed}")
    outcome = muse("evaluate", source, "--head", tmp_path / "seeds")
    assert is_clean(outcome)
    for seed in range(2):
        encoded(tmp_path / "seeds" / f"seed-{seed}")


def test_all_that_evaluate_writes_is_of_the_run_s_own_store(
    muse: Muse, source: Path, run: Path, tmp_path: Path
) -> None:
    page, ledger = tmp_path / "page.html", tmp_path / "rows.parquet"
    flags = ("--html", page, "--ledger", ledger, "--post", "qb-norm", "--against", "mean-pool")
    outcome = muse("evaluate", source, "--head", run, *flags)
    assert is_clean(outcome)
    assert page.stat().st_size
    assert ledger.stat().st_size
    for command in (("compare", source, run, "mean-pool"), ("head", "influence", source)):
        before = times(run / "stores")
        head = ("--head", run) if command[0] == "head" else ()
        outcome = muse(*command, *head)
        assert is_clean(outcome)
        assert times(run / "stores") == before


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def test_a_run_that_was_trained_further_encodes_into_another_folder(
    muse: Muse, source: Path, tmp_path: Path
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 1:
            raise KilledError

    config, run = dataclasses.replace(TRAIN, epochs=3, checkpoint_every=1), tmp_path / "run"
    with pytest.raises(KilledError):
        train(open_store(source, view=BELOW), run, config=config, head=HEAD, on_step=kill)
    assert muse("evaluate", source, "--head", run).code == 0
    before = times(encoded(run))
    train(open_store(source, view=BELOW), run, config=config, head=HEAD)
    assert muse("evaluate", source, "--head", run).code == 0
    assert len([*(run / "stores").iterdir()]) == 2
    assert before.items() <= times(run / "stores").items()


def test_videos_that_a_source_has_got_since_are_encoded_and_no_other(
    muse: Muse,
    source: Path,
    run: Path,
    corpus: tuple[Path, Path],
    tiny_clip_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    videos = Path(shutil.copytree(corpus[0], tmp_path / "videos"))
    captions = Path(shutil.copy(corpus[1], tmp_path))
    grown = Path(shutil.copytree(source, tmp_path / "grown"))
    assert muse("evaluate", grown, "--head", run).code == 0
    shutil.copy(videos / "clip 2.mp4", videos / "clip 6.mp4")
    captions.write_text(captions.read_text() + "clip 6.mp4,text of clip 6,test\n")
    _extract(grown, tiny_clip_folder, videos, captions, append=True)
    given: list[int] = []
    whole = RunEncoder.encode_clips

    def counted(self: RunEncoder, maps: Any, valid_NT: Any) -> Any:
        given.append(int(valid_NT.any(axis=1).sum()))
        return whole(self, maps, valid_NT)

    monkeypatch.setattr(RunEncoder, "encode_clips", counted)
    for _ in range(2):
        assert muse("evaluate", grown, "--head", run).code == 0
    assert given == [1]
    assert len(open_store(encoded(run)).video_ids) == 7
    outcome = muse("evaluate", source, "--head", run)  # as it was before it grew
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert muse("evaluate", source, "--head", run, "--encoded", tmp_path / "other").code == 0


def test_what_was_encoded_before_a_kill_is_not_encoded_again(
    muse: Muse, source: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = RunEncoder.encode_clips, []

    def cut_off(self: RunEncoder, maps: Any, valid: Any) -> Any:
        calls.append(len(maps))
        if len(calls) == 3:  # the first of the second shard
            raise KeyboardInterrupt
        return whole(self, maps, valid)

    monkeypatch.setattr(RunEncoder, "encode_clips", cut_off)
    assert muse("evaluate", source, "--head", run).code == 130
    before = times(encoded(run) / "receipts")
    assert before
    outcome = muse("evaluate", source, "--head", run)
    assert outcome.code == 0
    assert len(calls) == 4
    assert before.items() <= times(encoded(run) / "receipts").items()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights_sha256": "0" * 64}, "but '000"),
        ({}, "reads block:1. Extract with --views tokens,block:1 into another --out."),
    ],
)
def test_a_store_that_does_not_fit_is_refused_before_anything_is_encoded(
    change: dict[str, str], words: str, muse: Muse, store: Path, run: Path
) -> None:
    config = json.loads((run / "config.json").read_text())
    config["store"]["encoder"].update(change)
    (run / "config.json").write_text(json.dumps(config))
    outcome = muse("evaluate", store, "--head", run)
    assert outcome.code == 1
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (run / "stores").exists()


def test_a_view_is_not_chosen_for_a_run_that_reads_its_own(
    muse: Muse, source: Path, run: Path
) -> None:
    outcome = muse("evaluate", source, "--head", run, "--view", "tokens")
    assert outcome.code != 0
    assert "is finetuned and reads its own. Leave it out" in outcome.err


def test_a_run_of_adapters_is_evaluated_like_any_other(
    muse: Muse, source: Path, tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "scores.json"
    flags = ("--finetune", "top:1", "--lora", "2", "--clip-lr", "1e-2", "--finetune-text")
    usual = ("--epochs", "1", "--batch-size", "4", "--depth", "1", "--factors", "1")
    trained = muse("train-head", source, "--out", run, *flags, *usual, "--device", "cpu")
    assert trained.code == 0, trained.err
    outcome = muse("evaluate", source, "--head", run, "--device", "cpu", "--json", file)
    assert is_clean(outcome)
    own, direct = open_store(encoded(run)), by_the_run(source, run)
    info = load_reencoder(run, device="cpu").info
    made = embed_split(own, load_head(run, own, own_encoder=info))
    torch.testing.assert_close(made.video_VD, direct.video_VD, atol=2e-3, rtol=0)
    torch.testing.assert_close(made.text_QD, direct.text_QD, atol=2e-3, rtol=0)
