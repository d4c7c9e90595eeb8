"""``muse doctor``: it finds a backend that computes something else."""

import json

import pytest
from typer.testing import CliRunner

from muse.cli.app import app
from muse.head.scan import cpu, select


def run(*flags: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu", *flags])
    return done.exit_code, done.output


def test_backends_that_run_agree_and_the_others_say_why() -> None:
    code, text = run()
    assert code == 0
    assert "auto is cpu: the fastest without a GPU" in text
    assert text.count("agrees with the reference") == 2  # reference, cpu
    assert text.count("can't run: ") == 2  # cuda, mamba-ssm


def test_json_has_an_error_and_a_time_of_each_that_ran() -> None:
    code, text = run("--json")
    found = {each["backend"]: each for each in json.loads(text)["scan"]}
    assert code == 0
    assert list(found) == ["reference", "cpu", "cuda", "mamba-ssm"]
    assert [name for name, each in found.items() if each["is_chosen"]] == ["cpu"]
    assert 0 < found["cpu"]["error"] < 1e-5
    assert found["cpu"]["milliseconds"] > 0
    assert found["cuda"]["why_not"]


def test_a_backend_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(select._SCANS, "cpu", lambda *inputs: cpu.selective_scan(*inputs) * 1.001)
    code, text = run()
    assert code == 1
    assert "cpu        DIFFERS FROM the reference: worst relative error 1e-03" in text
