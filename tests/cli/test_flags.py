"""Each flag's default is its config's, each choice list is its owner's: one truth."""

import dataclasses
import inspect
import subprocess
import sys
from typing import get_args

from muse.cli import train_flags
from muse.cli.ablate import TableFlag
from muse.cli.compare import compare
from muse.cli.evaluate import evaluate
from muse.cli.evaluation_extras import asked_extras
from muse.cli.extract import (
    ChangedFlag,
    DatasetFlag,
    DecoderFlag,
    EngineFlag,
    PrecisionFlag,
    SamplingFlag,
    extract,
)
from muse.cli.flags import ScanFlag, TiesFlag, V2TFlag, ViewFlag
from muse.cli.preset import AskedSettings, settings_of
from muse.cli.train_flags import (
    AggregatorFlag,
    AugmentFlag,
    CaptionsFlag,
    DecayFlag,
    DuplicatesFlag,
    OptimizerFlag,
    ShuffleFlag,
    TrainPrecisionFlag,
)
from muse.cli.train_head import train_head
from muse.head.bootstrap import Resampling
from muse.head.comparison import compare_heads
from muse.head.devices import Precision as TrainPrecision
from muse.head.epoch_order import Captions, Shuffle
from muse.head.head_config import CHOICES, Aggregator, HeadConfig, Mode
from muse.head.loss import Duplicates
from muse.head.optimizer import DecayRule, OptimizerName
from muse.head.paper_tables import TABLE_NAMES
from muse.head.ranks import TieRule
from muse.head.scan.select import ScanBackend
from muse.head.tiles import V2TRule
from muse.head.train_config import MAX_RESTARTS, Augment, TrainConfig
from muse.pipeline.datasets.benchmark import benchmarks
from muse.pipeline.decoding.decoder import DecodeLimits
from muse.pipeline.decoding.decoder_choice import AskedDecoder
from muse.pipeline.encoders.setting import Precision
from muse.pipeline.extract import EngineName, ExtractConfig
from muse.pipeline.header import SamplingKind
from muse.pipeline.redo import FailureLimit, RedoRules
from muse.pipeline.schedule import Workers
from muse.pipeline.sources import ChangeTest
from muse.pipeline.store import TOKEN_VIEWS


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
    wanted = {**_fields(ExtractConfig), **_fields(Workers)}
    wanted["views"] = ",".join(ExtractConfig(out="store").views)
    wanted["dedup"] = wanted.pop("finds_duplicates")
    wanted["content_hash"] = wanted.pop("hashes_content")
    for name, value in wanted.items():
        assert flags[name] == value, name


def test_flags_that_a_dataset_may_decide_have_no_default_and_a_folder_the_config_s() -> None:
    flags = _defaults(extract)
    for name in ("sampling", "num_frames", "fps", "text_length"):
        assert flags[name] is None, name
    settings = settings_of(AskedSettings(), dataset=None, out="store")
    config = ExtractConfig(out="store")
    assert (settings.sampling, settings.text_length) == (config.sampling, config.text_length)


def test_defaults_of_extract_s_rules_and_limits_are_those_of_their_configs() -> None:
    flags, config, limits = _defaults(extract), ExtractConfig(out="store"), DecodeLimits()
    assert (flags["retry_failed"], flags["changed"]) == (None, None)
    assert config.redo == RedoRules(failed=(), changed=None)
    assert FailureLimit.parse(str(flags["max_failures"])) == config.max_failures
    assert config.workers.limits == limits
    assert flags["decode_timeout"] == limits.timeout_seconds
    assert flags["decode_memory"] * 1e9 == limits.memory_bytes  # type: ignore[operator]
    assert flags["max_duration"] == limits.max_duration_seconds


def test_defaults_of_train_head_are_those_of_its_configs() -> None:
    flags = _defaults(train_head)
    constants = {"max_grad_norm"}  # nobody turns it between runs
    for name, value in _fields(TrainConfig).items():
        assert name in constants or flags[name] == value, name
    head = _fields(HeadConfig)
    of_the_store = {"max_frames", "logit_scale_init", "factors"}
    for name, value in head.items():
        assert name in of_the_store or flags[name] == value, name
    assert flags["factors"] == ",".join(f"{factor:g}" for factor in head["factors"])  # type: ignore[attr-defined]


def test_train_head_makes_up_for_lost_workers_as_often_as_python_does() -> None:
    assert _defaults(train_head)["max_restarts"] == MAX_RESTARTS


def test_evaluate_looks_at_the_test_split_by_default() -> None:
    assert _defaults(evaluate)["split"] == "test"


def test_defaults_of_draws_and_permutations_are_their_owners() -> None:
    flags, resampling = _defaults(compare), Resampling()
    assert (flags["interval"], flags["draws"]) == (resampling.level, resampling.draws)
    assert flags["permutations"] == _defaults(compare_heads)["num_permutations"]
    extras = asked_extras(interval=None, draws=None, post="", has_page=True)
    assert (_defaults(evaluate)["draws"], extras.page_resampling) == (None, resampling)
    some = asked_extras(interval=None, draws=500, post="", has_page=True)
    assert some.page_resampling == dataclasses.replace(resampling, draws=500)
    assert flags["split"] == "test"


def test_choices_are_their_owners() -> None:
    assert tuple(EngineFlag) == get_args(EngineName)
    assert tuple(DecoderFlag) == get_args(AskedDecoder)
    assert set(SamplingFlag) == set(get_args(SamplingKind))
    assert tuple(PrecisionFlag) == get_args(Precision)
    assert set(ChangedFlag) == set(get_args(ChangeTest))
    assert tuple(ViewFlag) == TOKEN_VIEWS
    assert set(DatasetFlag) == set(benchmarks())
    assert tuple(AggregatorFlag) == get_args(Aggregator)
    assert tuple(train_flags.ModeFlag) == get_args(Mode)
    for field, choices in CHOICES.items():
        assert tuple(getattr(train_flags, f"{field.capitalize()}Flag")) == choices, field
    assert tuple(TableFlag) == (*TABLE_NAMES, "all")
    assert set(DuplicatesFlag) == set(get_args(Duplicates))
    assert tuple(OptimizerFlag) == get_args(OptimizerName)
    assert tuple(DecayFlag) == get_args(DecayRule)
    assert set(AugmentFlag) == set(get_args(Augment))
    assert set(CaptionsFlag) == set(get_args(Captions))
    assert set(ShuffleFlag) == set(get_args(Shuffle))
    assert set(ScanFlag) == set(get_args(ScanBackend))
    assert tuple(TiesFlag) == get_args(TieRule)
    assert tuple(V2TFlag) == get_args(V2TRule)
    assert set(TrainPrecisionFlag) == set(get_args(TrainPrecision))


def test_help_loads_no_heavy_library() -> None:
    heavy = ["torch", "av", "ray", "zarr", "numpy", "pyarrow", "open_clip"]
    script = (
        "import sys, muse.cli.app; "
        f"loaded = [name for name in {heavy!r} if name in sys.modules]; "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
