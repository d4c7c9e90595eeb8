"""The run in miniature against hand-made time lines and a clock of small ticks."""

import random

import pytest

from muse.pipeline.forecasting.run_model import (
    Pace,
    ShardWork,
    run_seconds,
    videos_seconds,
    without_stage,
)


def pace(**changes: float) -> Pace:
    plain = {
        "num_decoders": 2,
        "num_encoders": 1,
        "batch_seconds": 1.0,
        "encode_slowdown": 1.0,
        "decode_slowdown": 1.0,
        "write_seconds": 0.0,
        "caption_seconds": 0.0,
        "start_seconds": 0.0,
    }
    return Pace(**{**plain, **changes})  # type: ignore[arg-type]


def shard(*decode_seconds: float, batches: int = 0, write: float = 0.0) -> ShardWork:
    return ShardWork(decode_seconds=decode_seconds, num_batches=batches, write_share=write)


def test_two_decoders_share_the_videos_of_a_shard() -> None:
    assert videos_seconds([shard(1, 1, 1, 1)], pace()) == pytest.approx(2)
    assert videos_seconds([shard(3, 1, 1, 1)], pace()) == pytest.approx(3)


def test_a_shard_is_encoded_once_all_of_it_is_decoded_and_the_next_is_decoded_meanwhile() -> None:
    two = [shard(2, 2, 2, 2, batches=3)] * 2  # decoded at 4 and 8, encoded 4 to 7 and 8 to 11
    assert videos_seconds(two, pace()) == pytest.approx(11)


def test_an_encoder_that_is_slower_than_the_decoders_never_waits_again() -> None:
    assert videos_seconds([shard(2, 2, batches=5)] * 3, pace()) == pytest.approx(2 + 3 * 5)


def test_no_third_shard_is_decoded_before_the_first_is_encoded() -> None:
    shards = [shard(1, batches=10), shard(1, batches=1), shard(10, batches=1)]
    # 0 to 1 decode, 1 to 11 encode; only then 11 to 21 the third decode, 21 to 22 its encode.
    assert videos_seconds(shards, pace()) == pytest.approx(22)


def test_a_shard_is_written_while_the_next_is_encoded() -> None:
    two = [shard(1, batches=3, write=0.5)] * 2  # encoded 1 to 4 and 4 to 7, written 7 to 9
    assert videos_seconds(two, pace(write_seconds=4)) == pytest.approx(9)


def test_one_shard_is_written_at_a_time_and_one_waits_for_it() -> None:
    shards = [shard(batches=1, write=1)] * 4
    # Encoded at 1, 2, then, since no second one may wait, at 6 and 11; written from 1 on, 5 s each.
    assert videos_seconds(shards, pace(write_seconds=5)) == pytest.approx(1 + 4 * 5)
    last = [*shards, shard(batches=7)]  # begins when the fourth is handed over, at 16
    assert videos_seconds(last, pace(write_seconds=5)) == pytest.approx(16 + 7)


def test_decoder_and_encoder_slow_each_other_down_while_both_work() -> None:
    one_core = pace(num_decoders=1, encode_slowdown=2, decode_slowdown=2)
    # Alone until 10, both at half speed until 30, then the last shard's encode alone.
    assert videos_seconds([shard(10, batches=10)] * 2, one_core) == pytest.approx(40)


def test_two_encoders_take_shards_side_by_side() -> None:
    four = [shard(batches=6)] * 4
    assert videos_seconds(four, pace(num_encoders=2)) == pytest.approx(12)


def test_start_and_captions_are_added() -> None:
    steps = pace(start_seconds=3, caption_seconds=0.5)
    assert run_seconds([shard(4, batches=1)], 10, steps) == pytest.approx(3 + 4 + 1 + 5)


def test_played_shards_stand_for_all() -> None:
    few, many = [shard(1, 1, batches=2)] * 10, [shard(1, 1, batches=2)] * 100
    stretched = run_seconds(few, 0, pace(), num_shards=100)
    assert stretched == pytest.approx(videos_seconds(many, pace()))


def test_a_stage_that_takes_no_time_is_what_its_absence_would_save() -> None:
    shards = [shard(8, 8, batches=1)] * 3
    saved = {
        stage: videos_seconds(shards, pace())
        - run_seconds(*without_stage(stage, shards, 0, pace()))
        for stage in ("decode", "encode", "write", "captions")
    }
    assert saved == pytest.approx({"decode": 25 - 3, "encode": 1, "write": 0, "captions": 0})


@pytest.mark.parametrize("seed", range(5))
def test_it_ends_when_a_clock_of_small_ticks_says_so(seed: int) -> None:
    rng = random.Random(seed)
    shards = [
        shard(*(rng.uniform(0.2, 3) for _ in range(rng.randint(1, 6))), batches=rng.randint(0, 4))
        for _ in range(5)
    ]
    machine = pace(
        num_decoders=rng.randint(1, 4),
        batch_seconds=rng.uniform(0.2, 2),
        encode_slowdown=rng.uniform(1, 3),
        decode_slowdown=rng.uniform(1, 3),
    )
    assert videos_seconds(shards, machine) == pytest.approx(_by_ticks(shards, machine), abs=0.25)


def _by_ticks(shards: list[ShardWork], pace: Pace, *, tick: float = 0.01) -> float:
    """Every tick, each busy decoder and the encoder does a little of its work."""
    submitted, encoded, now = 0, 0, 0.0
    queue: list[list[float]] = []  # [shard, seconds left]
    encode_left = [work.num_batches * pace.batch_seconds for work in shards]
    while encoded < len(shards):
        while submitted < len(shards) and submitted < encoded + 2:
            queue += [[submitted, seconds] for seconds in shards[submitted].decode_seconds]
            submitted += 1
        busy = queue[: pace.num_decoders]
        is_encoding = not any(place == encoded for place, _ in queue)
        for video in busy:
            video[1] -= tick / pace.decode_slowdown if is_encoding else tick
        if is_encoding:
            share = len(busy) / pace.num_decoders
            encode_left[encoded] -= tick / (1 + (pace.encode_slowdown - 1) * share)
            encoded += encode_left[encoded] <= 0
        queue = [video for video in queue if video[1] > 0]
        now += tick
    return now
