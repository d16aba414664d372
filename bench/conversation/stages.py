"""Scripted stages that answer at a model's pace, and know whether a speaker has finished, or means to interrupt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from antiphon.v1 import common_pb2
from bench.conversation.timeline import ANSWER_MS
from services.gateway.realtime.conversation import SAMPLE_RATE
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.asides import JUDGED, WEIGHED, Prompt, kind_of
from tests.gateway.scripted.story import SaidStory, Story
from tests.gateway.scripted.worker import ScriptedPreprocess, ScriptedTalker, ScriptedThinker

_FRAME_MS = 200
_FRAMES, _WORDS = ANSWER_MS // _FRAME_MS, 10
_SLOTS = 1024
_YES, _NO = 61, 62
PACES_S = {"preprocess": 0.02, "thinker": 0.007, "talker": 0.03}
"""Before each of a stage's answers, tokens and frames."""


@dataclass(frozen=True, slots=True)
class AnswerStory(Story):
    """Each answer is `ANSWER_MS` of speech. `has_finished(instructions)`: whether the speaker of the session with these
    instructions has said all that they want to say. `wants_turn(instructions)`: whether their last sound was no
    listener's."""

    has_finished: Callable[[str], bool] = field(default=bool)
    wants_turn: Callable[[str], bool] = field(default=bool)

    def _samples(self, frame: int) -> bytes:
        return frame.to_bytes(2, "little") * (_FRAME_MS * SAMPLE_RATE // 1000)

    def prompt(self, start: Prompt) -> tuple[list[int], int]:
        ids, items = super(AnswerStory, self).prompt(start)
        says = {JUDGED: self.has_finished, WEIGHED: self.wants_turn}.get(kind_of(start) or 0)
        if says is not None:
            ids.append(_YES if says(start.messages[0].parts[0].text) else _NO)
        return ids, items

    def answering(self, prompt: list[int]) -> Story:
        judged = {_YES: "yes", _NO: "no"}.get(prompt[-1])
        return SaidStory(said=(judged,)) if judged is not None else self


@asynccontextmanager
async def answering_stages(
    redis_url: str, has_finished: Callable[[str], bool], wants_turn: Callable[[str], bool]
) -> AsyncGenerator[None]:
    """Run a worker of each stage inside the block."""
    card = common_pb2.ModelCard(structures_answers=True)
    card.MergeFrom(INSTRUCT)
    story = AnswerStory(words=_WORDS, frames=_FRAMES, has_finished=has_finished, wants_turn=wants_turn)
    async with AsyncExitStack() as stack:
        kinds: tuple[Any, ...] = (ScriptedPreprocess, ScriptedThinker, ScriptedTalker)
        for kind in kinds:
            worker = kind(redis_url, card, story, _SLOTS)
            worker.script.pace_s = PACES_S[kind.stage]
            await stack.enter_async_context(worker)
        yield
