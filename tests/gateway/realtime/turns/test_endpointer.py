"""Speech begins and ends where the probabilities say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.realtime.turns.endpointer import (
    HOP_MS,
    SHORT_SPEECH_MS,
    BriefSound,
    Change,
    Endpointer,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
)
from services.gateway.realtime.turns.options import TurnDetection

OPTIONS = TurnDetection(silence_duration_ms=320)
VOICE, BETWEEN, QUIET = 0.9, 0.4, 0.1


def changes(
    *probabilities: float,
    options: TurnDetection = OPTIONS,
    pause_ms: int = 0,
    short_pause_ms: int | None = None,
    min_speech_ms: int = 3 * HOP_MS,
) -> list[Change]:
    endpointer = Endpointer(options, pause_ms, short_pause_ms)
    fed = [endpointer.feed(probability, min_speech_ms) for probability in probabilities]
    assert endpointer.hops == len(probabilities)
    return [change for change in fed if change is not None]


def test_speech_begins_at_its_first_hop_and_ends_after_the_silence() -> None:
    heard = changes(*[QUIET] * 5, *[VOICE] * 4, *[QUIET] * 12)
    assert heard == [SpeechStarted(5), SpeechStopped(19)]


def test_a_click_is_no_speech() -> None:
    assert not changes(VOICE, VOICE, *[QUIET] * 6, VOICE, VOICE, *[QUIET] * 20)


def test_speech_that_hesitates_is_speech() -> None:
    assert changes(VOICE, *[QUIET] * 5, VOICE, VOICE) == [SpeechStarted(0)]


def test_speech_goes_on_until_it_is_well_below_the_threshold() -> None:
    started = [VOICE] * 3
    assert changes(*started, *[BETWEEN] * 50) == [SpeechStarted(0)]
    assert changes(*started, QUIET, *[BETWEEN] * 9) == [SpeechStarted(0), SpeechStopped(13)]
    assert not changes(*[BETWEEN] * 50)


def test_a_pause_is_no_end() -> None:
    heard = changes(*[VOICE] * 3, *[QUIET] * 9, VOICE, *[QUIET] * 10)
    assert heard == [SpeechStarted(0), SpeechStopped(23)]


def test_a_pause_after_a_word_is_told_sooner() -> None:
    word, more = SHORT_SPEECH_MS // HOP_MS, SHORT_SPEECH_MS // HOP_MS + 1
    for hops, silence in ((word, 4), (more, 7)):
        heard = changes(*[VOICE] * hops, *[QUIET] * 9, pause_ms=200, short_pause_ms=128)
        assert heard == [SpeechStarted(0), SpeechPaused(hops + silence)]
    assert changes(*[VOICE] * 3, *[QUIET] * 9, pause_ms=200, short_pause_ms=0) == [SpeechStarted(0)]


def test_a_pause_is_told_once_and_its_end() -> None:
    heard = changes(*[VOICE] * 3, *[QUIET] * 8, VOICE, *[QUIET] * 10, pause_ms=200)
    assert heard == [SpeechStarted(0), SpeechPaused(10), SpeechResumed(), SpeechPaused(19), SpeechStopped(22)]
    assert changes(*[VOICE] * 3, *[QUIET] * 10, pause_ms=320) == [SpeechStarted(0), SpeechStopped(13)]


def test_longer_speech_may_be_asked_for() -> None:
    assert not changes(*[VOICE] * 9, *[QUIET] * 20, min_speech_ms=300)
    assert changes(*[VOICE] * 10, min_speech_ms=300) == [SpeechStarted(0)]


def test_a_threshold_at_either_end_works() -> None:
    assert changes(*[0.0] * 3, options=TurnDetection(threshold=0)) == [SpeechStarted(0)]
    assert not changes(*[0.99] * 50, options=TurnDetection(threshold=1))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1)), st.floats(0, 1), st.integers(0, 600), st.integers(0, 400))
def test_changes_alternate(probabilities: list[float], threshold: float, silence_ms: int, pause_ms: int) -> None:
    options = TurnDetection(threshold=threshold, silence_duration_ms=silence_ms)
    follows: dict[type[Change] | None, set[type[Change]]] = {
        None: {SpeechStarted},
        SpeechStarted: {SpeechPaused, SpeechStopped},
        SpeechPaused: {SpeechResumed, SpeechStopped},
        SpeechResumed: {SpeechPaused, SpeechStopped},
        SpeechStopped: {SpeechStarted},
    }
    last, at = None, 0
    for change in changes(*probabilities, options=options, pause_ms=pause_ms):
        assert type(change) in follows[last]
        if not isinstance(change, SpeechResumed):
            assert at <= change.hop <= len(probabilities)
            at = change.hop
        last = type(change)


def test_a_brief_sound_is_told_at_its_end() -> None:
    def told(hops: int) -> list[Change | None]:
        endpointer = Endpointer(OPTIONS)
        probabilities = [*[QUIET] * 2, *[VOICE] * hops, *[QUIET] * 6]
        return [change for one in probabilities if (change := endpointer.feed(one, 320, 192)) is not None]

    assert told(5) == []
    assert told(6) == [BriefSound(hop=2, end=8, voiced=6)]
    assert told(9) == [BriefSound(hop=2, end=11, voiced=9)]
    assert told(10) == [SpeechStarted(2)]


def test_a_brief_sound_may_become_a_turn() -> None:
    for after, ends in (([QUIET] * 20, 18), ([VOICE] * 3 + [QUIET] * 20, 24)):
        endpointer = Endpointer(OPTIONS)
        (sound,) = [
            change for one in [VOICE] * 8 + [QUIET] * 3 if (change := endpointer.feed(one, 320, 192)) is not None
        ]
        assert isinstance(sound, BriefSound)
        heard = [endpointer.feed(one, 320, 192) for one in after[:3]]
        endpointer.begin(sound)
        heard += [endpointer.feed(one) for one in after[3:]]
        assert endpointer.hops == 11 + len(after)
        assert [change for change in heard if change is not None] == [SpeechStopped(ends)]
