"""Speech equals text, as Whisper hears it: in each voice, streamed, under load, and after its talker is lost."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import pytest_asyncio

from services.local.demo.media import drawn_picture
from tests.e2e.asking import Heard, client_of
from tests.e2e.workers import all_ready, stopped
from tests.fixtures.stack import Stack
from tests.fixtures.wait import wait_until
from tests.semantic.ear import pitch_hz
from tests.semantic.talking import VOICES, ask, check_heard, typed

pytestmark = pytest.mark.asyncio(loop_scope="module")
SUMS = ("what is seven times six?", "what is nine minus three?")
OTHERS = (
    *("tell me six plus four.", "what is two times eight?", "five plus one?"),
    *("eight minus seven equals?", "what is three times three?", "four plus nine is what?"),
)


def seen() -> dict[str, Any]:
    return {"role": "user", "content": [drawn_picture().part, {"type": "text", "text": "what do you see?"}]}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def by_voice(small_world: Stack) -> dict[str, list[Heard]]:
    """The same questions in each voice, one after the other."""
    async with client_of(small_world) as client:
        return {
            voice: [await ask(client, small_world, voice, typed(question)).whole() for question in SUMS]
            for voice in VOICES
        }


async def test_each_voice_says_its_text(by_voice: dict[str, list[Heard]]) -> None:
    for answer, *others in zip(*by_voice.values(), strict=True):
        assert {other.text for other in others} == {answer.text}
    await check_heard([answer for answers in by_voice.values() for answer in answers])


async def test_each_voice_has_a_pitch_of_its_own(by_voice: dict[str, list[Heard]]) -> None:
    """A woman, a deep man and a lighter man."""
    woman, deep, lighter = (pitch_hz([answer.pcm for answer in by_voice[voice]]) for voice in VOICES)
    assert 1.1 * deep < lighter
    assert 1.2 * lighter < woman


async def test_six_answers_at_once_are_each_heard_as_their_own_text(small_world: Stack) -> None:
    async with client_of(small_world) as client:
        asked = [
            ask(client, small_world, voice, typed(question)) for voice, question in zip(2 * VOICES, OTHERS, strict=True)
        ]
        answers = [await one.whole() for one in asked]
    assert len({answer.text for answer in answers}) == len(OTHERS)
    await check_heard(answers)


async def test_an_answer_is_heard_whole_where_its_talker_was_killed(small_world: Stack) -> None:
    await all_ready(small_world)
    talker = small_world.pids["talker"]
    async with client_of(small_world) as client:
        asked = ask(client, small_world, "chelsie", seen())
        await wait_until(lambda: asked.heard.pcm)
        with stopped(talker):
            assert not asked.is_over
            os.kill(talker, signal.SIGKILL)
        answer = await asked.whole()
    assert small_world.pids["talker"] != talker
    await check_heard([answer])
