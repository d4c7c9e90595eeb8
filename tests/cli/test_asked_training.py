"""What flags, modes and files of settings come to."""

from pathlib import Path

import pytest
import typer

from muse.cli.asked_training import AskedTraining, asked_training
from muse.errors import UsageError
from muse.head.head_config import head_of_mode
from muse.head.train import train
from muse.head.train_config import TrainConfig, training_of_mode


def asked(store: Path, *flags: str) -> AskedTraining:
    reader = typer.Typer(add_completion=False)
    reader.command()(asked_training)
    command = typer.main.get_command(reader)
    context = command.make_context("train-head", [str(store), "--out", "run", *flags])
    found = command.invoke(context)
    assert isinstance(found, AskedTraining)
    return found


def test_without_a_flag_the_paper_is_asked_for(store: Path) -> None:
    found = asked(store)
    assert found.head == head_of_mode("paper", found.store.header)
    assert found.config == TrainConfig()


def test_a_mode_sets_head_and_training(store: Path) -> None:
    found = asked(store, "--mode", "release")
    assert found.head == head_of_mode("release", found.store.header)
    assert found.config == training_of_mode("release")
    assert found.config != TrainConfig()


def test_a_flag_wins_over_its_mode_even_where_it_is_the_usual_value(store: Path) -> None:
    found = asked(
        store, "--mode", "release", "--pyramid", "trained", "--optimizer", "adamw", "--depth", "2"
    )
    assert (found.head.pyramid, found.head.init, found.head.depth) == ("trained", "normal", 2)
    assert (found.config.optimizer, found.config.decay) == ("adamw", "published")


def test_each_field_of_a_head_has_its_flag(store: Path) -> None:
    found = asked(
        store,
        *("--aggregator", "muse", "--factors", "1,0.5", "--order", "frame", "--mixer", "mamba"),
        *("--residual", "plain", "--readout", "ends", "--depth", "0", "--dropout", "0.3"),
        *("--d-state", "8", "--d-conv", "3", "--expand", "2", "--pyramid", "frozen"),
        *("--init", "normal", "--padding", "scanned"),
    ).head
    assert (found.factors, found.order, found.mixer) == ((1.0, 0.5), "frame", "mamba")
    assert (found.residual, found.readout, found.depth) == ("plain", "ends", 0)
    assert (found.dropout, found.d_state, found.d_conv, found.expand) == (0.3, 8, 3, 2)
    assert (found.pyramid, found.init, found.padding) == ("frozen", "normal", "scanned")


def test_scales_are_cells_along_a_side_of_the_store_s_grid(store: Path) -> None:
    grid = asked(store).store.header.encoder.grid
    assert asked(store, "--scales", f"1,{2 * grid},{grid}").head.factors == (2.0, 1.0)
    assert asked(store, "--scales", "1").head.factors == ()
    assert asked(store, "--factors", "none").head.factors == ()


def test_a_repeated_run_takes_other_scales_and_no_mode(store: Path, tmp_path: Path) -> None:
    first = asked(store, "--factors", "0.5,1", "--depth", "1", "--epochs", "1", "--device", "cpu")
    train(first.store, tmp_path / "run", config=first.config, head=first.head)
    again = asked(store, "--config", str(tmp_path / "run"))
    assert (again.head, again.config) == (first.head, first.config)
    assert asked(store, "--config", str(tmp_path / "run"), "--scales", "1").head.factors == ()
    with pytest.raises(UsageError, match=r"with --mode muse: a run's settings are all there"):
        asked(store, "--config", str(tmp_path / "run"), "--mode", "muse")


def test_scales_and_factors_are_one_or_the_other(store: Path) -> None:
    with pytest.raises(UsageError, match=r"--scales 1 with --factors 2: name one of them"):
        asked(store, "--scales", "1", "--factors", "2")
    with pytest.raises(UsageError, match=r"--factors 'a': write numbers with commas"):
        asked(store, "--factors", "a")
