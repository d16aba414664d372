"""The state that the runs of one turn share."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from services.common.derailments import Derailment
from services.gateway.turn.amounts import FRAME_MS, Amounts, sound_ms
from services.gateway.turn.answer import Answer
from services.gateway.turn.event_queue import EventQueue
from services.gateway.turn.leases import Leases
from services.gateway.turn.ports import Account, Stages
from services.gateway.turn.prompt import PromptUsage
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.sent import Sent
from services.gateway.turn.timings import TurnTimes


@dataclass(slots=True, eq=False)
class TurnState:
    request: TurnRequest
    stages: Stages
    leases: Leases
    events: EventQueue
    times: TurnTimes
    # Set before anything runs.
    account: Account = field(init=False)
    answer: Answer = field(init=False)
    sent: Sent = field(default_factory=Sent)
    # Those of the conversation that the model does not read, for want of room.
    dropped_messages: int = 0
    # Nothing of it was delivered: it counts as a turn that used nothing.
    is_discarded: bool = False
    # Held while lost features are made again, so that two runs that miss them make them once.
    remaking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.answer = Answer(silent_from=self.request.tool_call_token_id)

    @property
    def attempts(self) -> int:
        return self.leases.attempts

    @property
    def derailment(self) -> Derailment | None:
        return None if self.is_discarded else self.answer.derailment

    @property
    def spoken_again(self) -> int:
        return 0 if self.is_discarded else self.answer.spoken_again

    @property
    def frames_sent(self) -> int:
        return self.sent.codes // self.answer.codebooks if self.answer.codebooks else 0

    def amounts(self) -> Amounts:
        """Return what the turn has used: what its client was sent, and the prompt once anything was."""
        if self.is_discarded:
            return Amounts()
        answer, sent = self.answer, self.sent
        if sent.all_counts:
            return self._used(answer.generated_tokens, answer.reasoning_tokens, answer.frames)
        text_tokens, frames = min(sent.text_tokens, answer.generated_tokens), self.frames_sent
        if not (text_tokens or frames):
            return Amounts()
        return self._used(text_tokens, min(answer.reasoning_tokens, text_tokens), frames)

    def _used(self, text_tokens: int, reasoning_tokens: int, frames: int) -> Amounts:
        """Return what so much of the answer used. The prompt counts once a thinker has read it."""
        answer = self.answer
        prompt = answer.prepared.usage if answer.prompt_read else PromptUsage()
        return Amounts(
            prompt_text_tokens=prompt.text_tokens,
            prompt_audio_tokens=prompt.audio_tokens,
            prompt_image_tokens=prompt.image_tokens,
            prompt_video_tokens=prompt.video_tokens,
            cached_tokens=answer.cached_tokens,
            completion_text_tokens=text_tokens,
            reasoning_tokens=reasoning_tokens,
            completion_audio_tokens=frames,
            audio_in_ms=sound_ms(prompt.audio_tokens),
            audio_out_ms=FRAME_MS * frames,
            media_bytes=answer.prepared.media_bytes,
        )

    def remaining_s(self) -> float:
        """Return the seconds until the deadline; the gateway gives every request one."""
        return max(self.request.deadline_unix_ms / 1000 - time.time(), 0.0)
