"""The check of speech against its text, on tables of codes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from services.common.derailments import Derailment
from services.talker.derailment import LONGEST_CYCLE, CheckLimits, SpeechCheck, rms_of

LIMITS = CheckLimits()
LOUD, QUIET = 0.05, 0.001
RNG = random.Random(7)
ORDINARY = [RNG.randrange(2048) for _ in range(600)]


def told(
    codes: Iterable[int],
    *,
    rms: Sequence[float] = (),
    text_tokens: int = 1000,
    text_ended: bool = True,
    limits: CheckLimits = LIMITS,
) -> tuple[Derailment | None, int, int]:
    """Return why the speech derailed, and the frames taken and good by then."""
    check = SpeechCheck(limits)
    for index, code in enumerate(codes):
        level = rms[index] if index < len(rms) else LOUD
        why = check.add(code, level, text_tokens=text_tokens, text_ended=text_ended)
        if why is not None:
            return why, check.frames, check.good
    return None, check.frames, check.good


def cycles(length: int, times: int) -> list[int]:
    return ORDINARY[:20] + ORDINARY[100 : 100 + length] * times


def pause(frames: int) -> list[int]:
    """Two codes in turn, as of a pause."""
    return [index // 3 % 2 for index in range(frames)]


@pytest.mark.parametrize(
    ("codes", "rms"),
    [
        pytest.param(ORDINARY, [], id="no code like the one before"),
        pytest.param([code for code in ORDINARY[:200] for _ in range(3)], [], id="each code three times"),
        pytest.param([*ORDINARY[:30], *[5] * 30, *ORDINARY[30:60]], [], id="a code for 2.4 s"),
        pytest.param([*ORDINARY[:30], *pause(40), *ORDINARY[30:60]], [], id="a pause of 3.2 s"),
        pytest.param(ORDINARY[:200], [LOUD] * 50 + [QUIET] * 45, id="silence of 3.6 s"),
        pytest.param([*ORDINARY[:60], *ORDINARY[:60], *ORDINARY[:60]], [], id="a sentence three times"),
        pytest.param(cycles(8, 4) + ORDINARY[200:230], [], id="a word four times"),
    ],
)
def test_ordinary_speech_is_left_alone(codes: list[int], rms: list[float]) -> None:
    assert told(codes, rms=rms) == (None, len(codes), len(codes))


@pytest.mark.parametrize(
    ("codes", "rms", "why", "frames", "good"),
    [
        pytest.param([*ORDINARY[:20], *[5] * 60], [], Derailment.STALL, 20 + 51, 20 + 12, id="one code"),
        pytest.param(cycles(2, 60), [], Derailment.CYCLE, 20 + 52, 20 + 13, id="two codes in turn"),
        pytest.param(cycles(10, 12), [], Derailment.CYCLE, 20 + 60, 20 + 21, id="a word"),
        pytest.param(
            cycles(LONGEST_CYCLE, 6), [], Derailment.CYCLE, 20 + 100, 20 + LONGEST_CYCLE + 11, id="the longest cycle"
        ),
        pytest.param(
            [*ORDINARY[:20], *[RNG.randrange(3000, 3006) for _ in range(120)]],
            [],
            Derailment.REPEAT,
            120,
            20 + 49,
            id="a drone of six codes",
        ),
        pytest.param(ORDINARY[:200], [LOUD] * 50 + [QUIET] * 99, Derailment.SILENCE, 50 + 62, 50 + 24, id="silence"),
    ],
)
def test_derailed_speech_is_told_with_its_last_good_frame(
    codes: list[int], rms: list[float], why: Derailment, frames: int, good: int
) -> None:
    assert told(codes, rms=rms) == (why, frames, good)


@pytest.mark.parametrize(("text_tokens", "most"), [(0, 200), (16, 200), (20, 240), (45, 540)])
def test_speech_far_longer_than_its_text_is_endless(text_tokens: int, most: int) -> None:
    assert told(ORDINARY[:most], text_tokens=text_tokens) == (None, most, most)
    assert told(ORDINARY, text_tokens=text_tokens) == (Derailment.ENDLESS, most + 1, most + 1)


def test_speech_is_not_endless_while_text_may_come() -> None:
    assert told(ORDINARY, text_tokens=5, text_ended=False)[0] is None


@pytest.mark.parametrize(
    ("frames", "text_tokens", "why"),
    [(0, 16, None), (0, 17, Derailment.CUT), (30, 46, None), (30, 47, Derailment.CUT), (90, 30, None)],
)
def test_a_talker_that_ends_before_its_text_is_told(frames: int, text_tokens: int, why: Derailment | None) -> None:
    check = SpeechCheck(LIMITS)
    for code in ORDINARY[:frames]:
        check.add(code, LOUD, text_tokens=text_tokens, text_ended=True)
    assert check.end(text_tokens=text_tokens) is why


@pytest.mark.parametrize(
    ("off", "codes", "rms"),
    [
        ("stall_frames", [5] * 99, []),
        ("stall_frames", cycles(10, 12), []),
        ("repeat_frames", [RNG.randrange(6) for _ in range(400)], []),
        ("silence_frames", ORDINARY[:400], [QUIET] * 400),
        ("endless_frames_per_token", ORDINARY, []),
        ("cut_tokens", [], []),
    ],
)
def test_zero_turns_a_rule_off(off: str, codes: list[int], rms: list[float]) -> None:
    assert told(codes, rms=rms, text_tokens=5)[0] is not None or not codes
    limits = dataclasses.replace(LIMITS, **{off: 0})
    assert told(codes, rms=rms, text_tokens=1000 if off != "endless_frames_per_token" else 5, limits=limits)[0] is None
    assert off != "cut_tokens" or SpeechCheck(limits).end(text_tokens=1000) is None


def test_speech_that_goes_on_is_no_longer_suspect() -> None:
    check = SpeechCheck(LIMITS)
    good: list[int] = []
    for code in [*ORDINARY[:10], *[5] * 20, *ORDINARY[10:20]]:
        check.add(code, LOUD, text_tokens=1000, text_ended=True)
        good.append(check.good)
    assert good == [*range(1, 23), *[22] * 8, *range(31, 41)]


def test_a_check_that_went_back_judges_as_if_the_suspect_frames_had_never_been() -> None:
    check, other = SpeechCheck(LIMITS), SpeechCheck(LIMITS)
    for code in [*ORDINARY[:10], *[5] * 40]:
        check.add(code, LOUD, text_tokens=1000, text_ended=True)
    assert check.good == 22
    check.go_back()
    for code in [*ORDINARY[:10], *[5] * 12]:
        other.add(code, LOUD, text_tokens=1000, text_ended=True)
    assert (check.frames, check.good) == (other.frames, other.good) == (22, 22)
    for frame in range(39):
        whys = [each.add(5, LOUD, text_tokens=1000, text_ended=True) for each in (check, other)]
        assert whys == ([None] * 2 if frame < 38 else [Derailment.STALL] * 2)
        assert check.good == other.good


@pytest.mark.parametrize("delivered", [12, 400])
def test_a_check_goes_on_after_delivered_frames(delivered: int) -> None:
    """The codes of delivered frames count, and none of these frames is suspect."""
    check = SpeechCheck(LIMITS, [*ORDINARY[: delivered - 12], *[5] * 12])
    assert (check.frames, check.good) == (delivered, delivered)
    for frame in range(39):
        why = check.add(5, LOUD, text_tokens=1000, text_ended=True)
        assert (why is not None) == (frame == 38)
    assert (check.frames, check.good) == (delivered + 39, delivered)
    check.go_back()
    assert (check.frames, check.good) == (delivered, delivered)


def test_the_level_is_that_of_all_samples() -> None:
    assert rms_of(np.full(1920, 0.25, np.float32)) == pytest.approx(0.25)
    assert rms_of(np.zeros(1920, np.float32)) == 0
    assert rms_of(np.zeros(0, np.float32)) == 1
