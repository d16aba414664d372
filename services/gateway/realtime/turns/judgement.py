"""What the model that answers the user hears in what they say: whether it is all, and whether it is to interrupt."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from services.common.errors import AntiphonError
from services.gateway.realtime.asking import Asking
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.memory import SessionMemory
from services.gateway.realtime.prompt import messages_of
from services.gateway.realtime.response import ResponseOptions
from services.gateway.turn.conversation import Message, TextPart
from services.gateway.turn.events import Usage
from services.gateway.turn.intent import Sampling
from services.gateway.turn.model import ModelKind
from services.gateway.turn.structure import Choices, Structure

_PATH = "turn_detection"
_IS_FINISHED = (
    "Listen to how the last recording ends. Has the user finished what they want to say, so that it is your turn to"
    " speak? Answer no if they stopped in the middle of a sentence, are thinking, or will go on. Answer yes or no."
)
_IS_MEANT = (
    "You are speaking: of your answer you see what the user has heard until now. The last recording is a sound of the"
    " user meanwhile. Do they want you to stop and listen to them? Answer yes if they say stop, wait or no, answer a"
    " question of yours, ask something, or begin to speak. Answer no if they only show that they listen (mhm, uh-huh,"
    " yeah, okay), or cough, laugh or make a noise. Answer yes or no."
)
_YES, _NO = "yes", "no"
_MINUTE_S = 60.0
MOST_UNPAID = 40
"""Questions ahead of the next answer or transcript that is paid for, five turns of the most pauses: a client that never
asks for one has no more of them for nothing."""

logger = logging.getLogger(__name__)


class Judge:
    """Asks the model for one session. The client pays for no judgement, so there are at most `per_minute` in any
    minute, and MOST_UNPAID ahead of what it pays for. `clock` returns monotonic seconds."""

    def __init__(
        self, asking: Asking, memory: SessionMemory, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._asking = asking
        self._memory = memory
        self._per_minute = per_minute
        self._unpaid = 0
        self._clock = clock
        # When each question of the last minute was asked.
        self._asked_s: deque[float] = deque()

    async def is_finished(self, items: Sequence[Item], options: ResponseOptions) -> bool | None:
        """Return whether the last item is all that the user says; None = nobody knows, too much was asked, or there is
        no room for a copy of the item. `items`: the conversation as the user has heard it until now, and the copy."""
        return await self._ask(_IS_FINISHED, items, options)

    async def is_meant(self, items: Sequence[Item], options: ResponseOptions) -> bool | None:
        """Return whether the last item, a sound over an answer, is to interrupt it; None and `items` as above."""
        return await self._ask(_IS_MEANT, items, options)

    def answered(self, usage: Usage | None) -> None:
        """Note what the client has paid for an answer or a transcript; None = nothing."""
        if usage is not None and usage.completion_text_tokens:
            self._unpaid = 0

    async def _ask(self, question: str, items: Sequence[Item], options: ResponseOptions) -> bool | None:
        if not self._may_ask():
            return None
        try:
            with self._memory.beside(items[-1].size_bytes):
                return await _judged(self._asking, question, items, options)
        except AntiphonError:
            return None
        except Exception:
            logger.exception("nothing was judged")
            return None

    def _may_ask(self) -> bool:
        now_s = self._clock()
        while self._asked_s and self._asked_s[0] <= now_s - _MINUTE_S:
            self._asked_s.popleft()
        if len(self._asked_s) >= self._per_minute or self._unpaid >= MOST_UNPAID:
            return False
        self._unpaid += 1
        self._asked_s.append(now_s)
        return True


async def _judged(asking: Asking, question: str, items: Sequence[Item], options: ResponseOptions) -> bool | None:
    """Ask the model. The prompt begins as that of the response does, tools included, so that its cache serves both. A
    model that thinks is not asked: it takes too long. Raise an AntiphonError."""
    model = asking.model
    if model.kind is ModelKind.THINKING:
        return None
    messages, inline = messages_of(items, options.instructions, options.system_preset)
    messages.append(Message("user", [TextPart(_PATH, question)]))
    structure = Structure(_PATH, Choices((_YES, _NO))) if model.structures_answers else None
    sampling = Sampling(temperature=0.0, max_tokens=4)
    tools = options.tools.form.tools
    answer, _ = await asking.text(messages, inline, sampling, structure, tools=tools, is_free=True)
    said = answer.strip().lower()
    if said.startswith(_YES):
        return True
    return False if said.startswith(_NO) else None
