"""Spoken answers in the history that a client names by their id alone: their text is put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.common.errors import BadInput, Unavailable
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import named_answer
from services.gateway.kept.answers import KeptAnswers
from services.gateway.limits import check_text_bytes
from services.gateway.turn.conversation import Message, TextPart


@dataclass(frozen=True, slots=True)
class _Named:
    """The message at `index` is the answer with this id."""

    index: int
    id: str


async def with_past_answers(
    messages: Sequence[Message], chat: ChatRequest, answers: KeptAnswers, tenant: str, max_text_bytes: int
) -> Sequence[Message]:
    """Return the messages, with the text of each answer that is named by its id.

    Raise BadInput where it is not kept, TooLarge where all text is too large, Unavailable.
    """
    named = [
        _Named(index, id) for index, message in enumerate(chat.messages) if (id := named_answer(message)) is not None
    ]
    if not named:
        return messages
    try:
        texts = await answers.texts(tenant, (past.id for past in named), max_text_bytes)
    except Unavailable as error:
        path = f"messages[{named[0].index}].audio"
        raise Unavailable(
            f"The answer of '{path}.id' can't be read at the moment. Retry shortly, or send its text as"
            f" '{path}.transcript'.",
            code="answers_unavailable",
            retry_after_s=error.retry_after_s,
        ) from None
    filled = list(messages)
    for past in named:
        text = texts.get(past.id)
        if text is None:
            check_text_bytes(filled, max_text_bytes)  # the reading stops where it is too large
            raise _not_kept(f"messages[{past.index}]", answers.are_kept)
        message = filled[past.index]
        filled[past.index] = replace(message, parts=[TextPart(f"messages[{past.index}].content", text)])
    check_text_bytes(filled, max_text_bytes)
    return filled


def _not_kept(path: str, are_kept: bool) -> BadInput:
    """Return the same error whatever the id is: unknown, expired, or another's."""
    problem = (
        "no answer with this id is kept. Answers are kept until their 'expires_at'"
        if are_kept
        else "this server keeps no answers"
    )
    return BadInput(
        f"Invalid '{path}.audio.id': {problem}. Send the answer's text as '{path}.audio.transcript' or"
        f" '{path}.content'.",
        param=f"{path}.audio.id",
        code="audio_not_found",
    )
