"""What each conversation of a run loses, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.stages import STAGES
from tests.gateway.realtime.talking import LongStory

STORY = LongStory(words=30, frames=30)
"""Of each answer: 3 s, a word for each frame of speech."""
HELD_AT = 26
"""The answer that loses its gateway is not whole before that: its talker waits at this frame."""
FIRST, CUT, LAST = range(3)
"""The answers of a conversation: the first loses a worker, the second its gateway, and the last one nothing."""
_PER_CONVERSATION = 3


@dataclass(eq=False)
class Plan:
    """One conversation."""

    number: int
    # The stage that loses the worker of the first answer, and after how many tokens or frames.
    stage: str
    after: int
    # How many frames of the second answer its client has when its gateway may die.
    heard: int
    lost_worker: asyncio.Event = field(default_factory=asyncio.Event)
    lost_gateway: asyncio.Event = field(default_factory=asyncio.Event)
    is_in_mid_answer: asyncio.Event = field(default_factory=asyncio.Event)
    # What the model read of the conversation last: (role, text), media left out.
    read: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def instructions(self) -> str:
        """By which the stages know it."""
        return f"conversation {self.number}"

    def seed(self, answer: int) -> int:
        """Return the seed of one of its answers, by which the stages know it."""
        return _PER_CONVERSATION * self.number + answer


class Plans:
    def __init__(self, plans: Sequence[Plan]) -> None:
        self._by_number: Mapping[int, Plan] = {plan.number: plan for plan in plans}
        self._by_instructions: Mapping[str, Plan] = {plan.instructions: plan for plan in plans}

    def of_seed(self, seed: int) -> tuple[Plan, int]:
        """Return the conversation, and which answer of it this is."""
        number, answer = divmod(seed, _PER_CONVERSATION)
        return self._by_number[number], answer

    def of_instructions(self, instructions: str) -> Plan:
        return self._by_instructions[instructions]


def plans(count: int, seed: int) -> Sequence[Plan]:
    """Return `count` conversations: one after the other loses another stage."""
    chance = random.Random(seed)
    return [
        Plan(number, STAGES[number % len(STAGES)], chance.randrange(1, STORY.words - 5), chance.randrange(8, 21))
        for number in range(count)
    ]
