"""What a run says of its speed: a table for a person, the same numbers for a program."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from muse.cli.speed import print_speed, shares_text, speed_json
from muse.pipeline.speed.report import SpeedReport, SpeedTally, Workforce
from muse.pipeline.speed.spans import Span, StageName
from tests.cli.conftest import EXTRACT_FLAGS, Outcome


def _span(stage: StageName, start: float, seconds: float, cpu_seconds: float) -> Span:
    return Span(
        activity=stage,
        worker="someone",
        start_seconds=1000 + start,
        seconds=seconds,
        num_items=20,
        num_frames=160,
        num_bytes=5_000_000 if stage == "write" else 0,
        cpu_seconds=cpu_seconds,
    )


@pytest.fixture
def report() -> SpeedReport:
    """Twenty videos in 10 s, after 3 s of starting up."""
    workforce = Workforce(num_decoders=1, num_encoders=1, num_cores=2, device="cpu")
    tally = SpeedTally(workforce, started_seconds=1000)
    tally.add([_span("decode", 3, 9.5, 9.0), _span("encode", 5, 4, 4.0)])
    tally.add([_span("write", 12.5, 0.5, 0.2)])
    made = tally.report()
    assert made is not None
    return made


def test_the_table_has_a_row_for_each_stage_and_the_cores(
    report: SpeedReport, capsys: pytest.CaptureFixture[str]
) -> None:
    print_speed(report)
    *table, _, _, _ = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in table}
    assert rows["stage"] == "workers busy achieved bound share"
    assert rows["decode"] == "1 9.5 s 2.00 videos/s 2.11 videos/s 95% 0.95 cores a worker"
    assert rows["encode"] == "1 4.0 s 2.00 videos/s 5.00 videos/s 40% 1 cores a worker"
    assert rows["write"] == "1 0.5 s 2.00 videos/s 40.0 videos/s 5% 10.0 MB/s"
    assert rows["cores"] == "2 13.2 s 66%"


def test_the_sentence_follows_the_table(
    report: SpeedReport, capsys: pytest.CaptureFixture[str]
) -> None:
    print_speed(report)
    *_, rates, limits, sentence = capsys.readouterr().out.splitlines()
    assert rates == "2.00 videos/s, 16.0 frames/s over 10 s, after 3 s of starting up"
    # 13.2 CPU seconds for 20 videos, on two cores: 3.03 a second. Half a second of writing: 40.
    assert limits == "this machine allows, in videos/s: cores 3.03, disk 40.0"
    assert sentence.startswith("decode binds: 2.00 of the 2.11 videos/s that 1 decoder can give; ")


def test_who_decodes_and_why_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    because = "decoder nvdec: it was quick"
    workforce = Workforce(
        num_decoders=4, num_encoders=1, num_cores=2, device="cuda",
        decoder="nvdec", decoder_because=because,
    )  # fmt: skip
    tally = SpeedTally(workforce, started_seconds=1000)
    tally.add([dataclasses.replace(_span("decode", 3, 9.5, 9.0), num_on_gpu=18)])
    made = tally.report()
    assert made is not None
    print_speed(made)
    lines = capsys.readouterr().out.splitlines()
    assert because in lines
    assert lines[1].rstrip().endswith("0.95 cores a worker, 18 by NVDEC")
    content = made.as_json()
    assert (content["decoder"], content["decoder_because"]) == ("nvdec", because)
    assert content["stages"][0]["on_gpu"] == 18


def test_a_program_reads_the_same(report: SpeedReport) -> None:
    content = json.loads(json.dumps(speed_json(report)))
    assert (content["binds"], content["videos"], content["startup_seconds"]) == ("decode", 20, 3.0)
    assert content["because"].startswith("decode binds: ")
    assert [stage["share"] for stage in content["stages"]] == [0.95, 0.4, 0.05]


def test_a_run_that_did_nothing_says_nothing() -> None:
    assert speed_json(None) is None


def test_the_line_of_progress_has_the_shares(report: SpeedReport) -> None:
    assert shares_text(report) == "decode 95% (binds), encode 40%, write 5%"


def test_an_extraction_ends_with_what_it_took_and_leaves_a_trace(
    muse: Callable[..., Outcome],
    corpus: tuple[Path, Path],
    tiny_clip_folder: Path,
    tmp_path: Path,
) -> None:
    videos, captions = corpus
    flags = ("--captions", captions, "--encoder", f"openclip:local-dir:{tiny_clip_folder}")
    more = ("--engine", "local", "--json", "--profile", tmp_path / "trace.json")
    found = muse("extract", videos, *flags, *EXTRACT_FLAGS, "--out", tmp_path / "store", *more)
    done = json.loads(found.out.splitlines()[-1])
    items = {stage["stage"]: stage["items"] for stage in done["speed"]["stages"]}
    assert items == {"decode": 6, "encode": 6, "write": 6, "captions": 12}
    assert set(done["speed"]["limits_per_second"]) == {"cores", "matrix", "disk"}
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert sum(event["name"] == "decode" for event in trace["traceEvents"]) == 6
    again = muse("extract", videos, *flags, *EXTRACT_FLAGS, "--out", tmp_path / "store", *more)
    assert json.loads(again.out.splitlines()[-1])["speed"] is None
