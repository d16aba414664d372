"""What the model heard is in its answer, and in the answer of the next turn."""

from __future__ import annotations

import pytest

from services.local.hearing import plain
from tests.e2e.asking import Heard, client_of
from tests.fixtures.stack import Stack
from tests.semantic.talking import ask, check_heard, said_aloud, typed

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_what_was_heard_is_in_the_answer_and_in_that_of_the_next_turn(small_world: Stack) -> None:
    answers: list[Heard] = []
    async with client_of(small_world) as client:
        for said in ("hello", "two plus three"):
            question = said_aloud(said)
            answers.append(answer := await ask(client, small_world, "chelsie", question).whole())
            assert said in plain(answer.text)
            turns = (question, {"role": "assistant", "content": answer.text}, typed("what did i say before?"))
            answers.append(answer := await ask(client, small_world, "chelsie", *turns).whole())
            assert plain(answer.text).startswith(f"you said {said}")
    await check_heard(answers)
