"""The text of a turn whose answer is given: its tokens go to the talker as a thinker's would.

The talker takes the text as token ids, and hidden states only for media of the user's turns. So speech of a given text
needs no thinker, unless the prompt holds media.
"""

from __future__ import annotations

from services.common.errors import Unavailable
from services.gateway.turn.events import FinishReason, Text
from services.gateway.turn.state import TurnState
from services.gateway.turn.worker_calls import TextDone


async def recite(state: TurnState) -> TextDone:
    """Give the turn the answer that the intent says, whole."""
    answer = state.answer
    token_ids = answer.prepared.said_token_ids
    if not token_ids:
        # A preprocess worker of an earlier version does not know given answers.
        raise Unavailable(
            "The workers of this model are being replaced. Send the request again.", code="no_worker", retry_after_s=5
        )
    answer.is_given = True
    answer.thinker_granted.set()
    state.times.given()
    answer.add_tokens(token_ids, is_last=True)
    await state.events.put(Text(token_ids, content_delta=state.request.intent.said, is_last=True))
    return TextDone(FinishReason.STOP)
