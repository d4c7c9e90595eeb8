"""When frames begin, from time stamps that may be missing, repeated or absurd."""

from fractions import Fraction

import pytest

from muse.pipeline.decoding.timeline import (
    LONGEST_PAUSE_SECONDS,
    PacketTimes,
    ends_early,
    timeline_of,
)

TENTH = Fraction(1, 10)


def packets(*stamps: int | None, duration: int = 1) -> list[PacketTimes]:
    return [PacketTimes(pts=stamp, dts=None, duration=duration) for stamp in stamps]


def seconds_of(*stamps: int | None, time_base: Fraction | None = TENTH) -> list[float]:
    timeline = timeline_of(packets(*stamps), time_base=time_base, rate=4)
    return [round(float(second), 6) for second in timeline.seconds]


def test_times_are_counted_from_the_first_frame_shown() -> None:
    assert seconds_of(10, 13, 11, 12) == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("stamps", [(0, None, 2), (0, 1, 1), (None, None, None), (7, 7, 7)])
def test_without_a_stamp_for_each_frame_the_frame_rate_counts(stamps: tuple[int | None]) -> None:
    assert seconds_of(*stamps) == [0.0, 0.25, 0.5]


def test_without_a_time_base_the_frame_rate_counts() -> None:
    assert seconds_of(0, 1, 2, time_base=None) == [0.0, 0.25, 0.5]


def test_a_missing_pts_is_taken_from_the_dts() -> None:
    times = [PacketTimes(pts=None, dts=stamp, duration=1) for stamp in (5, 6, 8)]
    timeline = timeline_of(times, time_base=TENTH, rate=4)
    assert (timeline.has_pts, timeline.seconds.tolist()) == (True, pytest.approx([0, 0.1, 0.3]))


def test_the_last_frame_lasts_as_long_as_its_packet_says() -> None:
    timeline = timeline_of(packets(0, 10, duration=5), time_base=TENTH, rate=4)
    assert timeline.duration_seconds == pytest.approx(1.5)


@pytest.mark.parametrize("duration", [0, -(2**62)])
def test_a_last_frame_without_a_length_lasts_for_one_frame(duration: int) -> None:
    timeline = timeline_of(packets(0, 10, duration=duration), time_base=TENTH, rate=4)
    assert timeline.duration_seconds == pytest.approx(1.25)


def test_a_jump_of_the_clock_counts_as_one_ordinary_frame() -> None:
    year = 10 * 86_400 * 365
    assert seconds_of(0, 1, 2, year, year + 1) == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_pause_of_hours_is_no_jump() -> None:
    assert seconds_of(0, 1, 36_000)[-1] == 3600


def test_stamps_at_both_ends_of_64_bits_do_not_overflow() -> None:
    assert seconds_of(-(2**63), -(2**63) + 1, 2**63 - 1) == [0.0, 0.1, 0.2]


def test_two_stamps_at_both_ends_of_64_bits_keep_their_distance() -> None:
    assert seconds_of(-(2**63), 2**63 - 1)[1] == pytest.approx(2.0**64 / 10)


def test_a_picture_a_day_keeps_its_days() -> None:
    day = int(LONGEST_PAUSE_SECONDS * 10) + 10
    assert seconds_of(0, day, 2 * day) == [0.0, day / 10, day / 5]


def test_a_timeline_from_a_later_frame_begins_at_zero() -> None:
    timeline = timeline_of(packets(0, 1, 2, 3), time_base=TENTH, rate=4).from_frame(2)
    assert timeline.seconds.tolist() == pytest.approx([0, 0.1])
    assert timeline.duration_seconds == pytest.approx(0.2)
    assert timeline.starts.tolist() == [2, 3]


@pytest.mark.parametrize(("announced_end", "is_early"), [(10, True), (4, False), (None, True)])
def test_a_stream_ends_early_before_its_announced_end(
    announced_end: int | None, is_early: bool
) -> None:
    assert ends_early(packets(0, 1, 2, 3), announced_end) is is_early
