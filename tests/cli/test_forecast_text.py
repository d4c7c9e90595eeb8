"""What is printed of a forecast, and of a forecast beside its run."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from muse.cli.app import app
from muse.cli.forecast import RunForecast, comparison, print_forecast
from muse.errors import UsageError
from muse.pipeline.extract import ExtractConfig, ExtractSummary
from muse.pipeline.forecasting.record import Forecast
from muse.pipeline.store import StoreCounts


@pytest.fixture
def forecast() -> Forecast:
    return Forecast(
        num_videos=1000,
        num_missing=30,
        num_captions=20000,
        num_frames=11500,
        max_frames=11640,
        num_failures=(30.3, 5.5, 152.0),
        array_bytes={"tokens": 5_961_600_000, "captions": 20_480_000},
        row_bytes=6_145_960,
        table_bytes=900_000,
        decode_core_hours=0.51,
        encode_hours=0.021,
        encode_device="cuda",
        wall_seconds=200.0,
        wall_low_seconds=170.0,
        wall_high_seconds=240.0,
        peak_memory_bytes=8_000_000_000,
        free_bytes=None,
        binds="decode",
        binds_because="decode-bound: 8 cores decode 5 videos/s",
        num_decoders=8,
        num_encoders=1,
        num_sampled=32,
        num_sampled_failures=1,
        decode_cpu_share=0.98,
        probe_seconds=31.0,
    )


def test_a_forecast_is_printed_as_aligned_lines(
    forecast: Forecast, capsys: pytest.CaptureFixture[str]
) -> None:
    print_forecast(forecast, as_json=False)
    shown = capsys.readouterr()
    lines = dict(line.split(None, 1) for line in shown.out.splitlines() if line[8] == " ")
    assert lines["videos"] == "970 to do, 30 missing"
    assert lines["output"].startswith("5,982,080,000 bytes (6.0 GB) if every file decodes")
    assert "wall time    3 min 20 s (2 min 50 s to 4 min 0 s, 80 % interval)" in shown.out
    assert "encoding     0.021 GPU-hours" in shown.out
    assert shown.err == ""


def test_thumbnails_are_told_where_there_are_any(
    forecast: Forecast, capsys: pytest.CaptureFixture[str]
) -> None:
    print_forecast(forecast, as_json=False)
    assert "thumbnails" not in capsys.readouterr().out
    print_forecast(dataclasses.replace(forecast, thumbnail_bytes=46_000_000), as_json=False)
    assert "of tables and receipts, 46.0 MB of thumbnails" in capsys.readouterr().out


def test_pictures_of_frames_are_told_where_there_are_any(
    forecast: Forecast, capsys: pytest.CaptureFixture[str]
) -> None:
    print_forecast(dataclasses.replace(forecast, frame_bytes=2_800_000_000), as_json=False)
    assert "of tables and receipts, 2.8 GB of frames" in capsys.readouterr().out


def test_a_busy_machine_is_remarked_on(
    forecast: Forecast, capsys: pytest.CaptureFixture[str]
) -> None:
    print_forecast(dataclasses.replace(forecast, decode_cpu_share=0.4), as_json=True)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["output_bytes"] == 5_982_080_000
    assert "40% of a core" in shown.err


def test_a_run_is_set_beside_its_forecast(forecast: Forecast) -> None:
    wrote = forecast.output_bytes - 2 * forecast.row_bytes
    time, output, failures = comparison(forecast, seconds=184, array_bytes=wrote, num_failed=2)
    assert time == (
        "time         forecast 3 min 20 s (2 min 50 s to 4 min 0 s), took 3 min 4 s (−8 %)"
    )
    assert output.endswith("wrote 5,969,788,080 bytes (6.0 GB) (exact)")
    assert failures == "failures     forecast 30 (6 to 152), found 2"


def test_a_damaged_forecast_stops_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "forecast.json").write_text("{}", encoding="utf-8")
    RunForecast(ExtractConfig(out=tmp_path)).compare(
        ExtractSummary(
            counts=StoreCounts(
                listed=1, ok=1, failed=0, skipped=0, pending=0, captions=0, captions_embedded=0
            ),
            num_new_videos=1,
            num_new_failures=0,
            was_complete=False,
            elapsed_seconds=1.0,
        )
    )
    output = capsys.readouterr()
    assert output.out == ""
    assert "forecast.json: not a forecast" in output.err


def test_a_forecast_says_that_it_decodes_in_software(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def end(*arguments: object, **options: object) -> None:
        raise UsageError("that is all")

    monkeypatch.setattr("muse.pipeline.forecasting.forecast.forecast_run", end)
    (tmp_path / "a.mp4").write_text("a video", encoding="utf-8")
    flags = ["extract", str(tmp_path), "--out", str(tmp_path / "store"), "--plan"]
    words = "the forecast decodes in software, whatever --decoder says"
    outputs = [
        CliRunner().invoke(app, [*flags, "--decoder", decoder]).output
        for decoder in ("cpu", "nvdec", "auto")
    ]
    assert [words in output for output in outputs] == [False, True, True]
