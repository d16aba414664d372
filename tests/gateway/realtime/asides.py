"""A story whose thinker is also asked beside the conversation: whether the user has finished, or is to be listened to,
and what they said."""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.v1 import preprocess_pb2, thinker_pb2
from tests.gateway.realtime.talking import LongStory
from tests.gateway.scripted.story import SaidStory, Story

JUDGED, TRANSCRIBED, WEIGHED = 51, 52, 53
_TASKS = {"Listen to how": JUDGED, "Transcribe": TRANSCRIBED, "You are speaking": WEIGHED}
TRANSCRIPT = ("hello ", "there")

Prompt = preprocess_pb2.PrepareStart | thinker_pb2.GenerateRequest


def kind_of(start: Prompt) -> int | None:
    """Return what a prompt asks beside the conversation; None = it asks for the response."""
    last = start.messages[-1].parts[-1].text
    return next((token for task, token in _TASKS.items() if last.startswith(task)), None)


@dataclass(frozen=True, slots=True)
class Asides(LongStory):
    """`judged`: what the thinker says about whether the user has finished; `weighed`: about whether a brief sound is to
    interrupt."""

    judged: str = "yes"
    weighed: str = "no"
    # Of each message.
    tokens_a_message: int = 0

    def prompt(self, start: Prompt) -> tuple[list[int], int]:
        ids, items = super(Asides, self).prompt(start)
        kind = kind_of(start)
        return [*ids, *[8] * (self.tokens_a_message * len(start.messages)), *([kind] if kind else [])], items

    def answering(self, prompt: list[int]) -> Story:
        match prompt[-1]:
            case 51:
                return SaidStory(said=(self.judged,))
            case 52:
                return SaidStory(said=TRANSCRIPT)
            case 53:
                return SaidStory(said=(self.weighed,))
            case _:
                return self
