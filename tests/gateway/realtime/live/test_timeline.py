from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.realtime.live.timeline import Timeline


def test_audio_that_comes_as_it_is_recorded_ends_when_it_comes() -> None:
    line = Timeline()
    for n in range(10):
        line.hear(100, now_ms=1000 + 100 * n)
    assert [line.at(ms) for ms in (0, 50, 100, 1000)] == [900, 950, 1000, 1900]
    assert line.used_s == 1


def test_audio_that_comes_at_once_follows_itself() -> None:
    line = Timeline()
    for _ in range(10):
        line.hear(100, now_ms=150)
    assert [line.at(ms) for ms in (0, 500, 1000)] == [50, 550, 1050]


def test_a_pause_of_the_client_is_a_gap() -> None:
    line = Timeline()
    line.hear(100, now_ms=100)
    line.hear(100, now_ms=1000)
    assert [line.at(ms) for ms in (0, 99, 100, 200, 999)] == [0, 99, 900, 1000, 1000]
    assert line.used_s == 0.2


def test_skipped_silence_takes_no_time() -> None:
    line = Timeline()
    line.hear(100, now_ms=100)
    line.skip(500)
    line.hear(100, now_ms=200)
    assert [line.at(ms) for ms in (100, 300, 600, 700)] == [100, 100, 100, 200]


def test_audio_that_was_not_taken_in_has_no_place() -> None:
    line = Timeline()
    line.hear(100, now_ms=100)
    line.hear(100, now_ms=200)
    line.skip(-100)
    line.hear(100, now_ms=300)
    assert [line.at(ms) for ms in (50, 100, 200)] == [50, 200, 300]


def test_both_sides_at_a_time_are_used_once() -> None:
    line = Timeline()
    line.hear(1000, now_ms=1000)
    assert line.say(400, now_ms=800) == (800, 1200)
    assert line.say(400, now_ms=900) == (1200, 1600)
    assert line.say(100, now_ms=2000) == (2000, 2100)
    assert line.used_s == pytest.approx(1.7)


def test_silence_is_behind_speech_and_is_not_used() -> None:
    line = Timeline()
    assert line.say(100, now_ms=1000) == (1000, 1100)
    assert [line.be_silent(40), line.be_silent(40)] == [(1100, 1140), (1140, 1180)]
    assert (line.said_ms, line.spoken_ms) == (1180, 1100)
    assert line.say(100, now_ms=1150) == (1180, 1280)
    assert line.spoken_ms == 1280
    assert line.used_s == pytest.approx(0.2)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 500)), max_size=200))
def test_places_never_go_back(pieces: list[tuple[int, int]]) -> None:
    line, now, audio = Timeline(), 0, 0
    for length, pause in pieces:
        now += pause
        audio += length
        line.hear(length, now)
    places = [line.at(ms) for ms in range(0, audio, 50)]
    assert places == sorted(places)
