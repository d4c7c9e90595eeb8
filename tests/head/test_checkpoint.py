import dataclasses
import json
from pathlib import Path

import pytest
import torch
from memory_store import make_store, other_frames
from safetensors.torch import load_file, save_file

from muse.errors import CheckpointError, IncompatibleStoreError
from muse.head import run_files
from muse.head.checkpoint import (
    RunConfig,
    load_head,
    open_run,
    read_config,
    write_config,
)
from muse.head.head_config import HeadConfig
from muse.head.model import RetrievalHead
from muse.head.training_state import TrainingState, read_state, write_state

HEAD = HeadConfig(dim=16, factors=(1.0,), depth=1, d_state=2)
BASELINES = (
    dataclasses.replace(HEAD, aggregator="seq-transf", max_frames=3),
    dataclasses.replace(HEAD, factors=()),
)


def make_run(run: Path, *, shape: HeadConfig = HEAD) -> tuple[RunConfig, RetrievalHead]:
    config = RunConfig(
        head=shape,
        train={"lr": 0.5},
        store=make_store(num_videos=2).header,
        view="tokens",
        root_sha256="ab",
        timestamps_sha256="cd",
        num_videos=2,
        num_captions=4,
        ran_on={"device": "cpu"},
        command=("muse",),
    )
    head = RetrievalHead(shape)
    for parameter in head.aggregator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    write_config(run, config)
    moments = {"step/logit_scale": torch.tensor(3.0)}
    random = {"cpu": torch.get_rng_state()}
    write_state(
        run, TrainingState(step=7, head=head.state_dict(), optimizer=moments, random=random)
    )
    return config, head


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    config, head = make_run(tmp_path / "run")
    assert read_config(tmp_path / "run") == config
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state.step == 7
    assert state.optimizer == {"step/logit_scale": torch.tensor(3.0)}
    assert torch.equal(state.random["cpu"], torch.get_rng_state())
    assert all(torch.equal(state.head[name], value) for name, value in head.state_dict().items())


@pytest.mark.parametrize("shape", [HEAD, *BASELINES])
def test_loaded_head_embeds_as_the_one_that_was_saved(shape: HeadConfig, tmp_path: Path) -> None:
    _, head = make_run(tmp_path / "run", shape=shape)
    loaded = load_head(tmp_path / "run", make_store(num_videos=5))  # same features, other videos
    tokens_BTKD, valid_BT = torch.randn(2, 3, 5, 16), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(
        loaded.embed_videos(tokens_BTKD, valid_BT), head.eval().embed_videos(tokens_BTKD, valid_BT)
    )
    assert not loaded.training
    assert loaded.config == shape


def test_run_from_before_there_were_aggregators_is_muse_and_goes_on(tmp_path: Path) -> None:
    config, head = make_run(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["head"]["aggregator"], content["head"]["max_frames"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    store = make_store(num_videos=2)
    loaded = load_head(tmp_path, store).state_dict()
    assert read_config(tmp_path).head == HEAD
    assert all(torch.equal(loaded[name], value) for name, value in head.state_dict().items())
    store.root_sha256, store.timestamps_sha256 = config.root_sha256, config.timestamps_sha256
    of_now = dataclasses.replace(config, head=dataclasses.replace(HEAD, max_frames=999))
    open_run(tmp_path, of_now, store)


@pytest.mark.parametrize("shape", BASELINES)
def test_run_of_another_head_is_refused_by_what_differs(shape: HeadConfig, tmp_path: Path) -> None:
    config, _ = make_run(tmp_path)
    differs = "aggregator muse" if shape.aggregator == "seq-transf" else r"factors \(1\.0,\)"
    with pytest.raises(CheckpointError, match=rf"made with head\.{differs}, asked for"):
        open_run(tmp_path, dataclasses.replace(config, head=shape), make_store(num_videos=2))


def test_store_of_other_features_is_refused_by_the_field(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(IncompatibleStoreError, match=r"sampling\.num_frames is 5, but 4"):
        load_head(tmp_path / "run", other_frames(make_store(num_videos=2)))


def test_store_that_reads_another_view_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    store = make_store(num_videos=2)
    store.token_view = "int8"
    with pytest.raises(IncompatibleStoreError, match=r"view is 'int8', .* trained on 'tokens'"):
        load_head(tmp_path / "run", store)
    load_head(tmp_path / "run", store, any_view=True)


def test_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no training run here.*muse train-head STORE"):
        read_config(tmp_path / "nowhere")


def test_run_before_its_first_checkpoint_says_so(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "head.safetensors").unlink()
    (tmp_path / "state.safetensors").unlink()
    assert read_state(tmp_path) is None
    with pytest.raises(CheckpointError, match="no weights yet"):
        load_head(tmp_path, make_store(num_videos=2))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"a"', '{"format_version": 1}', '{"format_version": 99}']
)
def test_config_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: ") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_head_setting_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["head"]["colour"] = "transformer"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="colour"):
        read_config(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 300])
def test_cut_weights_are_one_line(kept: int, tmp_path: Path) -> None:
    make_run(tmp_path)
    for name in ("head.safetensors", "state.safetensors"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:kept])
    for load in (read_state, lambda run: load_head(run, make_store(num_videos=2))):
        with pytest.raises(CheckpointError, match="damaged or no safetensors file") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_weights_of_another_head_are_refused_by_name(tmp_path: Path) -> None:
    make_run(tmp_path)
    weights = load_file(tmp_path / "head.safetensors")
    weights["logit_scale"] = torch.zeros(2)
    save_file(weights, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"logit_scale is \(2,\), the head needs \(\)"):
        load_head(tmp_path, make_store(num_videos=2))
    del weights["logit_scale"]
    save_file(weights, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="logit_scale is missing"):
        load_head(tmp_path, make_store(num_videos=2))


def test_state_without_a_step_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path)
    save_file({"head/logit_scale": torch.zeros(())}, tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="not a training state"):
        read_state(tmp_path)


def test_failed_write_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, head = make_run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_files.os, "fsync", full)
    state = TrainingState(step=9, head=head.state_dict(), optimizer={}, random={})
    with pytest.raises(CheckpointError, match=r"after step 9.*No space left on device"):
        write_state(tmp_path, state)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_settings_survive_json(tmp_path: Path) -> None:
    config, _ = make_run(tmp_path)
    for head in (HeadConfig(dim=32, factors=(0.5, 2.0)), *BASELINES):
        write_config(tmp_path, dataclasses.replace(config, head=head))
        assert read_config(tmp_path).head == head
