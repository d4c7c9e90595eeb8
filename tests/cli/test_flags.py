"""Each flag's default is its config's, each choice list is its owner's: one truth."""

import dataclasses
import inspect
import subprocess
import sys
from typing import get_args

from muse.cli.evaluate import evaluate
from muse.cli.extract import DatasetFlag, EngineFlag, PrecisionFlag, SamplingFlag, extract
from muse.cli.flags import ScanFlag
from muse.cli.train_head import DuplicatesFlag, TrainPrecisionFlag, train_head
from muse.head.devices import Precision as TrainPrecision
from muse.head.loss import Duplicates
from muse.head.model import HeadConfig
from muse.head.scan.select import ScanBackend
from muse.head.train import TrainConfig
from muse.pipeline.datasets.benchmark import benchmarks
from muse.pipeline.decoder import DecodeLimits
from muse.pipeline.encoders.base import Precision
from muse.pipeline.extract import EngineName, ExtractConfig
from muse.pipeline.header import Sampling, SamplingKind
from muse.pipeline.redo import FailureLimit, RedoRules
from muse.pipeline.schedule import Workers


def _defaults(function: object) -> dict[str, object]:
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    return {
        name: p.default
        for name, p in parameters.items()
        if p.default is not inspect.Parameter.empty
    }


def _fields(config: type) -> dict[str, object]:
    missing = dataclasses.MISSING
    return {f.name: f.default for f in dataclasses.fields(config) if f.default is not missing}


def test_defaults_of_extract_are_those_of_its_configs() -> None:
    flags = _defaults(extract)
    sampling = _fields(Sampling)
    wanted = {**_fields(ExtractConfig), **_fields(Workers), **_fields(DecodeLimits), **sampling}
    for flag, field in (
        ("sampling", "kind"),
        ("dedup", "finds_duplicates"),
        ("content_hash", "hashes_content"),
        ("decode_timeout", "timeout_seconds"),
        ("max_duration", "max_duration_seconds"),
    ):
        wanted[flag] = wanted.pop(field)
    wanted["views"] = ",".join(ExtractConfig(out="store").views)
    wanted["decode_memory"] = wanted.pop("memory_bytes") / 1e9  # type: ignore[operator]
    for name, value in wanted.items():
        assert flags[name] == value, name
    assert FailureLimit.parse(str(flags["max_failures"])) == FailureLimit()
    assert (flags["retry_failed"], flags["changed"]) == (None, None)
    assert RedoRules() == RedoRules(failed=(), changed=None)


def test_defaults_of_train_head_are_those_of_its_configs() -> None:
    flags = _defaults(train_head)
    constants = {"max_grad_norm"}  # nobody turns it between runs
    for name, value in _fields(TrainConfig).items():
        assert name in constants or flags[name] == value, name
    head = _fields(HeadConfig)
    assert (flags["depth"], flags["dropout"]) == (head["depth"], head["dropout"])
    assert flags["factors"] == ",".join(f"{factor:g}" for factor in head["factors"])  # type: ignore[attr-defined]


def test_evaluate_looks_at_the_test_split_by_default() -> None:
    assert _defaults(evaluate)["split"] == "test"


def test_choices_are_their_owners() -> None:
    assert tuple(EngineFlag) == get_args(EngineName)
    assert set(SamplingFlag) == set(get_args(SamplingKind))
    assert tuple(PrecisionFlag) == get_args(Precision)
    assert set(DatasetFlag) == set(benchmarks())
    assert set(DuplicatesFlag) == set(get_args(Duplicates))
    assert set(ScanFlag) == set(get_args(ScanBackend))
    assert set(TrainPrecisionFlag) == set(get_args(TrainPrecision))


def test_help_loads_no_heavy_library() -> None:
    heavy = ["torch", "av", "ray", "zarr", "numpy", "pyarrow", "open_clip"]
    script = (
        "import sys, muse.cli.app; "
        f"loaded = [name for name in {heavy!r} if name in sys.modules]; "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
