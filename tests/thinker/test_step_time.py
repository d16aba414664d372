"""The bound of an engine's next step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from services.thinker.engine.step_time import StepTime, patches


def prompt(tokens: int, **media: int) -> dict[str, object]:
    places = {modality: [SimpleNamespace(length=length)] for modality, length in media.items()}
    return {"prompt_token_ids": [0] * tokens, "mm_placeholders": places}


@pytest.fixture
def times() -> StepTime:
    times = StepTime(max_batched_tokens=400)
    times.measure(100, 1.0)
    return times


def test_an_idle_engine_may_take_what_was_measured(times: StepTime) -> None:
    assert times.longest_s == 2.0
    with times.sequence(prompt(7)):
        assert times.longest_s == 2.0


def test_a_longer_prompt_may_take_the_square_of_its_length(times: StepTime) -> None:
    with times.sequence(prompt(300)) as sequence:
        assert times.longest_s == pytest.approx(2.0 * 3 * 3)
        sequence.tokens += 100  # its answer: preempted, it would be computed again
        assert times.longest_s == pytest.approx(2.0 * 4 * 4)


def test_a_step_computes_no_more_tokens_than_fit_into_it(times: StepTime) -> None:
    with times.sequence(prompt(200)), times.sequence(prompt(300)):
        assert times.longest_s == pytest.approx(2.0 * 4 * 3)
    with times.between_steps():
        pass
    with times.sequence(prompt(1000)):  # in chunks of 400, the last one with a context of 1000
        assert times.longest_s == pytest.approx(2.0 * 4 * 10)


def test_a_request_that_ended_counts_until_no_step_has_it(times: StepTime) -> None:
    with times.sequence(prompt(300)):
        pass
    with times.between_steps():  # it may have begun before the request ended
        with times.sequence(prompt(200)):
            pass
        assert times.longest_s == pytest.approx(2.0 * 4 * 3)
    assert times.longest_s == pytest.approx(2.0 * 2 * 2)
    with times.between_steps():
        pass
    assert times.longest_s == 2.0


def test_a_cancelled_question_forgets_nothing(times: StepTime) -> None:
    with times.sequence(prompt(300)):
        pass
    with pytest.raises(KeyboardInterrupt), times.between_steps():
        raise KeyboardInterrupt
    assert times.longest_s == pytest.approx(2.0 * 3 * 3)


def test_a_picture_counts_its_patches(times: StepTime) -> None:
    assert patches({"prompt_token_ids": [0] * 50}) == 0
    assert patches(prompt(50, image=10, audio=20, video=5)) == 4 * 15
    with times.sequence(prompt(200, image=150)):
        assert times.longest_s == pytest.approx(2.0 * (2 + 6) * (2 + 6))
    with times.sequence(prompt(600, image=500)):  # a step computes 400 tokens, and encodes as many
        assert times.longest_s == pytest.approx(2.0 * (4 + 16) * (6 + 20))
