"""A trace as a browser reads it: a row a worker, microseconds from the start of the run."""

from pathlib import Path

import pytest

from muse.errors import TooManyFailuresError
from muse.pipeline.speed.spans import Activity, Span
from muse.pipeline.speed.trace import trace_json, traced


def span(activity: Activity, worker: str, start: float, seconds: float, **told: object) -> Span:
    return Span(
        activity=activity,
        worker=worker,
        start_seconds=1000 + start,
        seconds=seconds,
        **told,  # type: ignore[arg-type]
    )


def test_a_span_is_a_complete_event_in_microseconds() -> None:
    one = span("decode", "decoder 1", 1.5, 0.25, what="a.mp4", num_items=1, cpu_seconds=0.2)
    *_, event = trace_json([one], started_seconds=1000)["traceEvents"]
    assert event == {
        "ph": "X",
        "name": "decode",
        "cat": "decode",
        "ts": 1_500_000.0,
        "dur": 250_000.0,
        "pid": 1,
        "tid": 1,
        "args": {"what": "a.mp4", "items": 1, "cpu_seconds": 0.2},
    }


def test_each_worker_has_a_row_and_the_encoders_come_first() -> None:
    workers = ["decoder 10", "decoder 2", "encoder 1", "decoder 1", "decoder 2"]
    spans = [span("decode", worker, 0, 1) for worker in workers]
    events = trace_json(spans, started_seconds=1000)["traceEvents"]
    names = [(e["tid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert names == [(1, "encoder 1"), (2, "decoder 1"), (3, "decoder 2"), (4, "decoder 10")]
    assert [e["tid"] for e in events if e["ph"] == "X"] == [4, 3, 1, 2, 3]


def test_without_a_file_nothing_is_kept() -> None:
    with traced(None) as log:
        log.add([span("decode", "decoder 1", 0, 1)])
    assert log.spans == []


def test_a_block_that_fails_leaves_a_whole_file_and_its_own_error(tmp_path: Path) -> None:
    def run() -> None:
        with traced(tmp_path / "trace.json") as log:
            log.add([span("decode", "decoder 1", 0, 1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    assert (tmp_path / "trace.json").read_text(encoding="utf-8").endswith("]}")


def test_what_ended_a_run_is_told_also_where_no_trace_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    def run() -> None:
        with traced(tmp_path / "trace.json"):
            raise TooManyFailuresError("3 of 4 videos failed")

    monkeypatch.setattr("muse.pipeline.speed.trace.write_new", full)
    with pytest.raises(TooManyFailuresError, match="3 of 4 videos failed"):
        run()
    assert "can't be written (No space left on device)" in caplog.text


def test_a_trace_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for worker in ("decoder 1", "decoder 7"):
        with traced(tmp_path / "trace.json") as log:
            log.add([span("decode", worker, 0, 1)])
    assert "decoder 7" in (tmp_path / "trace.json").read_text(encoding="utf-8")
    assert "decoder 1" not in (tmp_path / "trace.json").read_text(encoding="utf-8")
