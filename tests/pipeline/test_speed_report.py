"""Which stage binds: spans that a child can add up, and the sentence that follows from them."""

import dataclasses

import pytest

from muse.pipeline.speed.report import DeviceRates, SpeedReport, SpeedTally, Workforce
from muse.pipeline.speed.spans import Activity, Span
from muse.pipeline.speed.wording import speed_sentence


def span(
    activity: Activity,
    start: float,
    seconds: float,
    *,
    items: int = 1,
    cpu: float | None = None,
    worker: str = "someone",
) -> Span:
    return Span(
        activity=activity,
        worker=worker,
        start_seconds=100 + start,
        seconds=seconds,
        num_items=items,
        num_frames=3 * items,
        num_bytes=1000 * items,
        cpu_seconds=cpu,
    )


def report_of(
    *spans: Span, decoders: int = 2, encoders: int = 1, cores: int = 4, device: str = "cuda",
    rates: DeviceRates | None = None,
) -> SpeedReport:  # fmt: skip
    workforce = Workforce(
        num_decoders=decoders, num_encoders=encoders, num_cores=cores, device=device, rates=rates
    )
    tally = SpeedTally(workforce, started_seconds=100)
    tally.add(spans)
    report = tally.report()
    assert report is not None
    return report


def run_of(
    *, decode: float, encode: float, write: float, captions: float = 0.0, **workforce: object
) -> SpeedReport:
    """A run of 10 s and 20 videos in ten shards; seconds that workers are busy in all."""
    shards = [span("write", i, write / 10, items=2) for i in range(10)]
    rest = [
        span("decode", 0, decode / 2, items=10),  # by each of two decoders
        span("decode", 0, decode / 2, items=10),
        span("encode", 0, encode, items=20),
        span("captions", 0, captions, items=60),
        span("write", 10, 0, items=0),  # until then it goes on
    ]
    return report_of(*rest, *shards, **workforce)  # type: ignore[arg-type]


# -- numbers ---------------------------------------------------------------------------------------


def test_before_the_first_span_there_is_no_report() -> None:
    workforce = Workforce(num_decoders=1, num_encoders=1, num_cores=1, device="cpu")
    tally = SpeedTally(workforce, started_seconds=100)
    tally.add([span("start", 0, 2, items=0), span("wait", 0, 3, items=0)])
    assert tally.report() is None


def test_a_bound_is_what_all_workers_could_do_at_the_mean_busy_time() -> None:
    # Two decoders; three videos take 1, 2 and 3 s, 2 s on average: one video a second.
    report = report_of(span("decode", 0, 1), span("decode", 0, 2), span("decode", 1, 3))
    decode = report.of("decode")
    assert decode is not None
    assert (decode.bound, decode.achieved, decode.share) == (1.0, 0.75, 0.75)


def test_a_share_is_achieved_by_bound() -> None:
    speed = run_of(decode=12.0, encode=5.0, write=1.0)
    for stage in speed.stages:
        if stage.bound is not None:
            assert stage.share == pytest.approx(stage.achieved / stage.bound)


def test_starting_up_is_no_part_of_the_rates() -> None:
    report = report_of(
        span("start", 1, 5, items=0), span("decode", 6, 2), span("wait", 3, 5, items=0),
        span("write", 8, 2),
    )  # fmt: skip
    assert (report.startup_seconds, report.wall_seconds) == (6.0, 4.0)
    assert report.num_videos == 1


def test_spans_may_be_reported_bit_by_bit_and_in_any_order() -> None:
    spans = [span("decode", 0, 2), span("encode", 2, 1), span("write", 3, 1)]
    workforce = Workforce(num_decoders=2, num_encoders=1, num_cores=4, device="cuda")
    tally = SpeedTally(workforce, started_seconds=100)
    for each in reversed(spans):
        tally.add([each])
    assert tally.report() == report_of(*spans)


def test_cores_are_shared_by_all_stages() -> None:
    report = report_of(
        span("decode", 0, 4, cpu=3.0), span("encode", 0, 4, cpu=9.0), decoders=1, cores=4
    )
    assert report.cores_share == 12.0 / 16.0


def test_a_span_that_does_not_tell_its_cpu_time_is_like_the_others() -> None:
    report = report_of(span("decode", 0, 3, cpu=1.5), span("decode", 3, 1), decoders=1)
    decode = report.of("decode")
    assert decode is not None
    assert (decode.cpu_seconds, decode.cores_while_busy) == (2.0, 0.5)


def test_json_has_the_numbers_of_every_stage() -> None:
    content = report_of(span("decode", 0, 1), span("encode", 1, 3), span("write", 3, 1)).as_json()
    assert [stage["stage"] for stage in content["stages"]] == ["decode", "encode", "write"]
    assert content["stages"][0] == {
        "stage": "decode", "workers": 2, "items": 1, "frames": 3, "bytes": 1000,
        "busy_seconds": 1.0, "cpu_seconds": None, "achieved_per_second": 0.25,
        "bound_per_second": 2.0, "share": 0.125, "on_gpu": 0,
    }  # fmt: skip


def test_limits_are_what_each_part_of_the_machine_allows_alone() -> None:
    # A video has three frames of 10 FLOP and 7 bytes.
    rates = DeviceRates(matrix_flops=600, frame_flops=10, copied_bytes=2100, frame_bytes=7)
    spans = [
        span("decode", 0, 5, items=10, cpu=5.0),
        span("encode", 0, 9, items=10, cpu=3.0),
        span("write", 9, 1, items=10),
    ]
    report = report_of(*spans, encoders=2, cores=4, rates=rates)
    assert report.limits == pytest.approx(
        {"cores": 10 * 4 / 8.0, "matrix": 2 * 600 / 30, "pcie": 2 * 2100 / 21, "disk": 2 * 10}
    )


def test_a_gpu_that_idles_between_products_needs_larger_batches() -> None:
    rates = DeviceRates(matrix_flops=600, frame_flops=10, copied_bytes=None, frame_bytes=7)
    sentence = speed_sentence(run_of(decode=5.0, encode=9.5, write=0.1, rates=rates))
    assert "a larger --batch-videos (the GPU does 10% of the products that it could)" in sentence


# -- which stage -----------------------------------------------------------------------------------


def test_the_stage_whose_workers_hardly_wait_binds() -> None:
    assert run_of(decode=19.0, encode=5.0, write=1.0).binds == "decode"  # of 2 decoders' 20 s
    assert run_of(decode=5.0, encode=9.0, write=0.5).binds == "encode"
    assert run_of(decode=5.0, encode=0.5, write=9.0).binds == "write"
    assert run_of(decode=5.0, encode=2.0, write=0.5, captions=7.0).binds == "captions"


def test_encoding_and_captions_bind_together_since_one_worker_does_both() -> None:
    report = run_of(decode=12.0, encode=5.5, write=0.1, captions=4.0)
    assert (report.encoder_share, report.binds) == (pytest.approx(0.95), "encode")
    assert report.bound_of_workers("encode") == pytest.approx(2.0 / 0.95)


def test_writing_is_done_beside_encoding_and_binds_alone() -> None:
    assert run_of(decode=12.0, encode=5.5, write=4.0).binds is None
    report = run_of(decode=12.0, encode=5.5, write=8.0)
    assert (report.busiest_share, report.binds) == (pytest.approx(0.8), "write")


def test_nothing_binds_where_all_wait_for_each_other() -> None:
    assert run_of(decode=10.0, encode=5.0, write=0.5).binds is None


# -- the sentence ----------------------------------------------------------------------------------


def test_the_sentence_tells_achieved_bound_and_what_would_lift_it() -> None:
    assert speed_sentence(run_of(decode=19.0, encode=5.0, write=1.0, cores=2)) == (
        "decode binds: 2.00 of the 2.11 videos/s that 2 decoders can give; more cores "
        "(--num-decoders), or fewer frames a video, would lift it, until encode binds at 4.00 "
        "videos/s."
    )


def test_idle_cores_are_offered_to_decoders() -> None:
    sentence = speed_sentence(run_of(decode=19.0, encode=5.0, write=1.0, cores=8))
    assert "more decoders (--num-decoders 8)" in sentence


def test_decoders_that_get_no_core_wait_for_a_disk_or_for_others() -> None:
    spans = [span("decode", 0, 10, items=20, cpu=3.0), span("write", 9, 1, items=20)]
    assert "a decoder got 30% of a core: a faster disk" in speed_sentence(
        report_of(*spans, decoders=1)
    )


@pytest.mark.parametrize(
    ("changes", "is_offered"),
    [
        ({}, True),
        ({"device": "cpu"}, False),  # no GPU
        ({"num_encoders": 2}, False),  # of several GPUs, which Ray has
        ({"decoder_because": "decoder cpu: it was measured"}, False),
    ],
)
@pytest.mark.parametrize("num_large", [9, 10])
def test_a_gpu_s_decoder_is_offered_where_most_frames_are_large(
    changes: dict[str, object], num_large: int, is_offered: bool
) -> None:
    usual = {"num_decoders": 1, "num_encoders": 1, "num_cores": 1, "device": "cuda"}
    tally = SpeedTally(Workforce(**{**usual, **changes}), started_seconds=100)  # type: ignore[arg-type]
    decode = dataclasses.replace(span("decode", 0, 19, items=20), num_large=num_large)
    tally.add([decode, span("write", 9, 1, items=20)])
    report = tally.report()
    assert report is not None
    words = "10 of 20 videos have 1080 pixels or more: --engine local --decoder auto measures"
    assert (words in speed_sentence(report)) == (is_offered and num_large == 10)


def test_more_decoders_are_not_offered_to_nvdec() -> None:
    workforce = Workforce(
        num_decoders=1, num_encoders=1, num_cores=8, device="cuda", decoder="nvdec"
    )
    tally = SpeedTally(workforce, started_seconds=100)
    tally.add([span("decode", 0, 19, items=20, cpu=2.0), span("write", 9, 1, items=20)])
    report = tally.report()
    assert report is not None
    assert "more cores, with --decoder cpu, or fewer frames a video," in speed_sentence(report)


def test_more_decoders_are_not_offered_where_the_cores_are_full() -> None:
    spans = [
        span("decode", 0, 19, items=20, cpu=12.0),
        span("encode", 0, 10, items=20, cpu=7.5),
        span("write", 19, 1, items=20, cpu=0.1),
    ]
    sentence = speed_sentence(report_of(*spans, decoders=1, cores=1, device="cpu"))
    assert "the cores are 98% busy: more of them, a GPU for the encoder" in sentence
    assert "num-decoders" not in sentence


UNTIL = " would lift it, until decode binds at 8.00 videos/s."


@pytest.mark.parametrize(
    ("device", "advice"),
    [
        ("cpu", "a GPU, or a smaller --encoder, would lift it."),
        ("cuda", f"another GPU, or a smaller --encoder,{UNTIL}"),
    ],
)
def test_an_encoder_that_binds_needs_a_gpu_or_another(device: str, advice: str) -> None:
    sentence = speed_sentence(run_of(decode=5.0, encode=9.5, write=0.1, device=device))
    assert sentence.startswith("encode binds: 2.00 of the 2.11 videos/s that 1 encoder on ")
    assert sentence.endswith(advice)


def test_an_encoder_that_gets_few_cores_would_be_faster_alone() -> None:
    spans = [span("encode", 0, 9, items=20, cpu=8.0), span("write", 9, 1, items=20, cpu=0.0)]
    sentence = speed_sentence(report_of(*spans, cores=4, device="cpu"))
    assert "a machine that does nothing else (the run got 20% of the cores)" in sentence


def test_what_else_an_encoder_does_is_told() -> None:
    sentence = speed_sentence(run_of(decode=5.0, encode=6.0, write=0.1, captions=3.0))
    assert "encode binds: 2.00 of the 2.22 videos/s" in sentence
    assert "1 encoder on cuda (also captions 33% of its time)" in sentence


def test_a_writer_that_binds_needs_a_faster_disk() -> None:
    assert speed_sentence(run_of(decode=5.0, encode=3.0, write=9.0)) == (
        "write binds: 2.00 of the 2.22 videos/s that 1 writer can give; a faster disk or network "
        "for --out, or fewer --views, would lift it, until encode binds at 6.67 videos/s."
    )


def test_captions_are_counted_in_captions() -> None:
    sentence = speed_sentence(run_of(decode=1.0, encode=0.5, write=0.1, captions=9.0))
    assert sentence.startswith("captions bind: 6.00 of the 6.32 captions/s")


def test_few_shards_can_t_overlap() -> None:
    spans = [span("decode", 0, 4), span("encode", 4, 3), span("write", 7, 3)]
    sentence = speed_sentence(report_of(*spans, decoders=1))
    assert sentence.startswith(
        "nothing binds: decode is the busiest, 40% of the time. With 1 shard"
    )
    assert "smaller --shard-size" in sentence


def test_many_shards_that_wait_for_each_other_are_for_the_trace_to_explain() -> None:
    sentence = speed_sentence(run_of(decode=10.0, encode=5.0, write=0.5))
    assert sentence.startswith("nothing binds: decode is the busiest, 50% of the time (a stage")
    assert "--profile shows where" in sentence


def test_a_run_that_starts_longer_than_it_works_is_too_short() -> None:
    late = [span("decode", 30, 1)] + [span("write", 30 + i, 0.1) for i in range(5)]
    assert "took 30 s to start and 4 s to work" in speed_sentence(report_of(*late))
