"""The turns of a run: who asks what over which entrance, and how the turn is to end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.gateway.scripted.story import Story

STORY = Story(words=47, frames=30)
"""48 tokens of text with the end token, and 30 frames of speech."""
TEXT_DRAW, SPEECH_DRAW = 8, 5
"""Tokens and frames of one draw."""
LIMITS = {
    "text": ("answer_tokens_per_minute", 21),
    "day": ("tokens_per_day", 40),
    "speech": ("audio_out_ms_per_minute", 800),
}
"""Of keys whose answers are cut: each is for one turn."""

Way = Literal["stream", "whole", "converse", "speech", "realtime"]
End = Literal["", "cancel", "fail", "resume", "text", "day", "speech"]
"""`stream` and `whole` are chat completions, `speech` is /v1/audio/speech, `realtime` a session of one response.

Ends: "" = by itself; its client cancels; the stage fails; the stage's worker ends the call and another one goes on; at
one of LIMITS."""


@dataclass(eq=False)
class Plan:
    """One turn. `number` is its seed, by which the scripted stages know it."""

    number: int
    way: Way
    speaks: bool = False
    hears: bool = False
    end: End = ""
    # How many tokens, or where it speaks frames, the stage sends before the end.
    after: int = 0
    # Whose key it asks with: "free" has no limits, "roomy" has wide ones, others are for this turn alone.
    key: str = "free"
    # What the stages saw of it.
    turn_id: str = ""
    has_acted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stage(self) -> str:
        """Where the end is scripted."""
        return "talker" if self.speaks else "thinker"


def plans(count: int, seed: int) -> Sequence[Plan]:
    """Return `count` turns of all kinds, mixed."""
    chance = random.Random(seed)
    made = [_plan(number, chance) for number in range(1, count + 1)]
    chance.shuffle(made)
    return made


def _plan(number: int, chance: random.Random) -> Plan:
    """Return a turn. Every twelve have the same ways, and every seven the same ends: together all that there are."""
    ways: tuple[tuple[Way, bool, bool], ...] = (
        ("stream", False, False),
        ("stream", True, False),
        ("stream", True, True),
        ("whole", False, False),
        ("whole", True, True),
        ("converse", False, False),
        ("converse", True, True),
        ("stream", False, True),
        ("speech", True, False),
        ("stream", True, False),
        ("realtime", False, False),
        ("realtime", True, True),
    )
    ends: tuple[End, ...] = ("", "cancel", "", "fail", "text", "resume", "")
    way, speaks, hears = ways[number % len(ways)]
    end = ends[number % len(ends)]
    if way == "speech":  # it has no seed
        end = "speech" if end == "text" else ""
    elif end == "text" and speaks:
        end = chance.choice(("speech", "day"))
    plan = Plan(number, way, speaks, hears, end)
    plan.after = chance.randrange(1, STORY.frames if speaks else STORY.words)
    plan.key = f"cut-{number}" if end in LIMITS else chance.choice(("free", "roomy"))
    return plan
