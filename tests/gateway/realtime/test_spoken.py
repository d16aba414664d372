"""How much of an answer's text belongs to what was heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.realtime.spoken import USUAL_TOKEN_S, Spoken, usual_token_s
from services.gateway.turn.events import Speech, Text


def spoken(packets: list[tuple[int, int]], *, words: int = 6, token_s: float = 0.05) -> Spoken:
    """Return an answer of six words, a token each. A packet: (milliseconds, tokens that the talker had read)."""
    made = Spoken(24_000, token_s=token_s)
    for n in range(words):
        made.add_text(Text([n], f"w{n} "))
    for ms, read in packets:
        made.add_speech(Speech(0, (), made.samples, bytes(48 * ms), read))
    return made


def test_the_text_ends_where_the_talker_had_read_to() -> None:
    answer = spoken([(100, 1), (100, 2), (100, 4)])
    answer.truncate(150)
    assert (answer.text, answer.sent_ms) == ("w0 w1 ", 150)
    answer.truncate(100)
    assert (answer.text, answer.sent_ms) == ("w0 ", 100)
    answer.truncate(0)
    assert (answer.text, answer.sent_ms) == ("", 0)


def test_what_the_talker_has_read_it_has_not_said_yet() -> None:
    answer = spoken([(80, min(n, 6)) for n in range(1, 10)], token_s=0.24)
    assert answer.sent_text == "w0 w1 w2 "
    answer.interrupt(unheard_s=0.3)
    assert answer.heard_text == "w0 w1 "
    answer.truncate(240)
    assert answer.text == "w0 "


def test_tokens_that_come_together_are_spread_over_their_words() -> None:
    """An engine that is fast, or has much to do, gives several at a time."""
    answer = Spoken(24_000, token_s=0.1)
    answer.add_text(Text([1, 2], "I see"))
    answer.add_text(Text([3, 4, 5, 6, 9], " two red circles.", is_last=True))
    for read in range(1, 10):
        answer.add_speech(Speech(0, (), answer.samples, bytes(48 * 100), read))
    told = {"I": 100, "I see": 200, "I see two": 300, "I see two red": 400, "I see two red circles.": 600}
    assert {answer.text_before(0.9 - ms / 1000): ms for ms in told.values()} == told
    assert answer.text_before(0.4) == "I see two red"  # a word of two tokens is there once it was said
    assert answer.tokens == 6


def test_the_text_until_now_is_that_of_what_was_played_and_changes_nothing() -> None:
    answer = spoken([(80, min(n, 6)) for n in range(1, 10)], token_s=0.24)
    assert [answer.text_before(unheard_s) for unheard_s in (0, 0.3, 60)] == ["w0 w1 w2 ", "w0 w1 ", ""]
    assert answer.heard_text == answer.text
    answer.interrupt(unheard_s=0.3)
    assert answer.text_before(0) == answer.heard_text == "w0 w1 "


def test_whole_answers_of_a_voice_tell_how_long_a_token_takes() -> None:
    answers = [spoken([(100, 6)] * 30, token_s=0.28) for _ in range(3)]
    slow, other, cut = answers
    slow.is_whole = other.is_whole = True
    slow.voice, other.voice, cut.voice = "ethan", "chelsie", "ethan"
    # Six tokens in 3 s, and ten as they usually are.
    assert usual_token_s(answers, "ethan") == pytest.approx((3 + 10 * USUAL_TOKEN_S) / 16)
    assert usual_token_s(answers, "aiden") == USUAL_TOKEN_S
    learned = usual_token_s([slow] * 100, "ethan")
    assert learned == pytest.approx(0.5, rel=0.01)


def test_the_last_token_is_never_spoken() -> None:
    answer = spoken([(100, 7)] * 6)
    answer.add_text(Text([9], is_last=True))
    answer.is_whole = True
    assert answer.tokens == 6
    answer.truncate(500)
    assert answer.text == "w0 w1 w2 w3 w4 "


def test_the_share_of_the_samples_bounds_the_text_of_a_whole_speech() -> None:
    answer = spoken([(100, 6)] * 6)
    answer.is_whole = True
    answer.truncate(250)
    assert answer.text == "w0 w1 w2 "


def test_a_later_truncation_of_a_whole_speech_has_its_share_too() -> None:
    answer = spoken([(100, 6)] * 6)
    answer.is_whole = True
    answer.truncate(450)
    assert answer.text == "w0 w1 w2 w3 w4 "
    answer.truncate(250)
    assert answer.text == "w0 w1 w2 "


def test_whoever_heard_all_keeps_all_that_was_said() -> None:
    answer = spoken([(100, 2), (100, 3)])
    answer.truncate(200)
    assert (answer.heard_text, answer.sent_ms) == ("w0 w1 w2 ", 200)
    answer.is_whole = True
    answer.truncate(200)
    assert (answer.heard_text, answer.sent_ms) == ("w0 w1 w2 w3 w4 w5 ", 200)


def test_an_interrupted_answer_is_read_as_far_as_it_was_heard() -> None:
    answer = spoken([(100, 1), (100, 2), (100, 4)])
    assert answer.heard_text == answer.text
    answer.interrupt(unheard_s=0.15)
    assert (answer.heard_text, answer.text) == ("w0 w1 ", "w0 w1 w2 w3 w4 w5 ")
    answer.interrupt(unheard_s=0)
    assert answer.heard_text == "w0 w1 w2 w3 "
    answer.interrupt(unheard_s=1)
    assert answer.heard_text == ""


def test_the_clients_word_replaces_the_clocks() -> None:
    answer = spoken([(100, 1), (100, 2), (100, 4)])
    answer.interrupt(unheard_s=0.25)
    answer.truncate(180)
    assert (answer.heard_text, answer.sent_ms) == ("w0 w1 ", 180)
    answer = spoken([(100, 1), (100, 2), (100, 4)])
    answer.interrupt(unheard_s=0.25)
    answer.truncate(300)
    assert answer.heard_text == "w0 w1 w2 w3 "


def test_a_whole_answer_that_is_interrupted_while_it_plays_ends_by_its_share() -> None:
    answer = spoken([(100, 6)] * 6)
    answer.is_whole = True
    answer.interrupt(unheard_s=0.35)
    assert answer.heard_text == "w0 w1 w2 "


@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(0, 2)), max_size=8), st.lists(st.integers(0, 6000), max_size=4)
)
def test_truncation_only_ever_shortens(steps: list[tuple[int, int]], ends: list[int]) -> None:
    read, packets = 0, list[tuple[int, int]]()
    for ms, more in steps:
        read = min(read + more, 6)
        packets.append((ms, read))
    answer = spoken(packets)
    whole = answer.text
    for end in sorted(ends, reverse=True):
        before, sent = answer.text, answer.sent_ms
        answer.truncate(min(end, sent))
        assert answer.sent_ms == min(end, sent)
        assert before.startswith(answer.text)
        assert whole.startswith(answer.text)
