"""Whether a film's frames are evenly paced, and which frame is shown when."""

import numpy as np
import pytest

from services.preprocess.media.pace import MAX_FPS, pace_of


def shown(times_s: list[float], last_s: float = 0.0) -> list[int]:
    pace = pace_of(times_s, last_s, 0.0, 2.0)
    return [pace.frame_at(tick) for tick in range(pace.frames)]


@pytest.mark.parametrize("fps", [2.0, 24000 / 1001, 30.0, 120.0])
@pytest.mark.parametrize("starts_s", [0.0, 5.0, -1.4])
def test_frames_in_whole_milliseconds_are_even(fps: float, starts_s: float):
    times_s = [round(starts_s + i / fps, 3) for i in range(500)]
    pace = pace_of([*times_s[1:], times_s[0]], 1 / fps, fps, 2.0)  # in the order of decoding
    assert (pace.frames, pace.fps, pace.times_s) == (500, fps, ())


def test_a_cameras_jitter_is_even():
    jitter = np.random.default_rng(0).uniform(-0.008, 0.008, 300)
    pace = pace_of((np.arange(300) / 30 + jitter).tolist(), 0.033, 30.0, 2.0)
    assert (pace.frames, pace.fps, pace.times_s) == (300, 30.0, ())


def test_a_wrong_rate_in_the_headers_does_not_count():
    pace = pace_of([i / 10 for i in range(20)], 0.1, 1000.0, 2.0)
    assert (pace.frames, pace.times_s) == (20, ())
    assert pace.fps == pytest.approx(10)


def test_frames_without_timestamps_have_the_headers_rate():
    assert pace_of([0.0, None, 0.2], 0.1, 25.0, 2.0).fps == 25.0
    assert pace_of([None] * 50, 5.0, 0.0, 2.0).fps == 10.0


def test_a_held_frame_is_shown_until_the_next():
    assert shown([0.0, 0.1, 0.2, 0.7, 0.8], 0.1) == [0, 1, 2, 2, 2, 2, 2, 3, 4]
    assert shown([0.0, 0.1, 0.5], 0.3) == [0, 1, 1, 1, 1, 2, 2, 2]


def test_a_slide_show_is_sampled_as_often_as_asked():
    pace = pace_of([0.0, 5.0, 20.0], 0.0, 0.0, 2.0)
    assert pace.fps == 2.0
    assert [pace.frame_at(tick) for tick in (0, 9, 10, 39, 40)] == [0, 0, 1, 1, 2]


def test_the_first_frame_is_shown_from_where_the_sound_begins():
    pace = pace_of([i / 4 for i in range(6)], 0.25, 4.0, 2.0, 1.0)
    assert [pace.frame_at(tick) for tick in range(pace.frames)] == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_two_frames_at_once_make_no_endless_clock():
    pace = pace_of([0.0, 0.0, 1.0, 9.0], 1.0, 0.0, 2.0)
    assert (pace.fps, pace.frames) == (MAX_FPS, 10 * MAX_FPS)
