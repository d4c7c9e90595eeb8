"""Instants and shown frames, against loops over seconds and frames."""

import math

import numpy as np
import pytest

from muse.errors import UsageError
from muse.pipeline.header import Sampling
from muse.pipeline.sampling import (
    fps_instants,
    instants,
    nearest_frames,
    sampled_frames,
    shown_frames,
    uniform_instants,
)
from muse.pipeline.window import Window


def test_uniform_instants_are_the_midpoints_of_equal_parts() -> None:
    assert uniform_instants(8.0, num_frames=4).tolist() == [1.0, 3.0, 5.0, 7.0]


@pytest.mark.parametrize("num_frames", [1, 3, 12])
def test_uniform_instants_are_as_many_as_asked_for(num_frames: int) -> None:
    assert len(uniform_instants(0.7, num_frames=num_frames)) == num_frames


def test_fps_instants_of_a_short_video_are_its_whole_seconds() -> None:
    assert fps_instants(4.5, fps=1.0, num_frames=12).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_video_of_exactly_three_seconds_has_three_whole_seconds() -> None:
    assert fps_instants(3.0 + 1e-9, fps=1.0, num_frames=12).tolist() == [0.0, 1.0, 2.0]


def test_a_video_shorter_than_one_period_gives_its_first_frame() -> None:
    assert fps_instants(0.04, fps=1.0, num_frames=12).tolist() == [0.0]


@pytest.mark.parametrize("duration", [13.0, 29.97, 240.0])
def test_fps_instants_of_a_long_video_are_thinned_evenly_and_truncated(duration: float) -> None:
    last = math.ceil(duration) - 1
    expected = [float(int(place * last / 11)) for place in range(12)]
    assert fps_instants(duration, fps=1.0, num_frames=12).tolist() == expected


def test_fps_instants_follow_the_rate() -> None:
    assert fps_instants(1.0, fps=4.0, num_frames=12).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_the_policy_chooses_the_function() -> None:
    uniform = instants(10.0, Sampling(kind="uniform", num_frames=5))
    regular = instants(10.0, Sampling(kind="fps", num_frames=5, fps=0.5))
    assert (uniform.tolist(), regular.tolist()) == ([1, 3, 5, 7, 9], [0, 2, 4, 6, 8])


@pytest.mark.parametrize("duration", [0.0, -1.0, math.nan, math.inf])
def test_a_duration_that_is_no_positive_number_is_refused(duration: float) -> None:
    with pytest.raises(UsageError, match="longer than 0 s"):
        instants(duration, Sampling())


def test_the_frame_shown_is_the_last_one_that_has_begun() -> None:
    generator = np.random.default_rng(0)
    starts = np.sort(generator.uniform(0, 10, size=50))
    starts[0] = 0.0
    asked = np.sort(generator.uniform(0, 10, size=20))
    expected = []
    for instant in asked:
        shown = 0
        for index, start in enumerate(starts):
            if start <= instant:
                shown = index
        if shown not in expected:
            expected.append(shown)
    assert shown_frames(asked, starts).tolist() == expected


def test_two_instants_on_one_frame_give_it_once() -> None:
    starts = np.array([0.0, 1.0])
    assert shown_frames(np.array([0.1, 0.2, 0.3, 1.5]), starts).tolist() == [0, 1]


def test_an_instant_a_rounding_error_before_a_frame_shows_that_frame() -> None:
    starts = np.arange(60) * 1001 / 30000
    assert shown_frames(np.array([30 * 1001 / 30000 - 1e-12]), starts).tolist() == [30]


def test_an_instant_before_the_first_frame_shows_the_first() -> None:
    assert shown_frames(np.array([0.0]), np.array([0.5, 1.0])).tolist() == [0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "every"}, "sampling 'every'"),
        ({"num_frames": 0}, "num_frames 0"),
        ({"fps": 0.0}, "fps 0.0"),
        ({"fps": math.nan}, "fps nan"),
    ],
)
def test_a_policy_out_of_range_is_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Sampling(**settings)  # type: ignore[arg-type]


def test_the_nearest_frame_is_taken_once_and_of_two_the_earlier() -> None:
    instants_seconds = np.array([0.2, 0.9, 1.5, 3.9])
    assert nearest_frames(instants_seconds, np.array([0.0, 1.0, 2.0, 9.0])).tolist() == [0, 1, 2]


def test_keyframes_are_those_nearest_to_the_midpoints() -> None:
    seconds, keyframes = np.arange(100) / 10, np.array([0, 30, 37, 80])
    found = sampled_frames(
        seconds, 10.0, Sampling(kind="keyframes", num_frames=4), keyframes=keyframes
    )
    # Midpoints 1.25, 3.75, 6.25 and 8.75 s; the keyframes lie at 0, 3, 3.7 and 8 s.
    assert found.tolist() == [0, 37, 80]


def test_keyframes_of_a_window_are_those_within_it() -> None:
    seconds, keyframes = np.arange(100) / 10, np.array([0, 30, 37, 80])
    window = Window(start_seconds=2.0, end_seconds=6.0)
    for kind, wanted in (("keyframes", [30, 37]), ("uniform", [30, 50])):
        sampling = Sampling(kind=kind, num_frames=2)  # type: ignore[arg-type]
        found = sampled_frames(seconds, 10.0, sampling, window=window, keyframes=keyframes)
        assert found.tolist() == wanted


def test_a_video_that_names_no_keyframe_is_sampled_evenly() -> None:
    seconds = np.arange(100) / 10
    found = sampled_frames(seconds, 10.0, Sampling(kind="keyframes", num_frames=2))
    assert found.tolist() == [25, 75]
