"""Whether the user has said all that they want to say, by the model that answers them."""

from __future__ import annotations

from collections.abc import Iterable

from services.common.errors import AntiphonError
from services.gateway.realtime.asking import Asking
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.prompt import messages_of
from services.gateway.realtime.response import ResponseOptions
from services.gateway.turn.conversation import Message, TextPart
from services.gateway.turn.intent import Sampling
from services.gateway.turn.model import ModelKind
from services.gateway.turn.structure import Choices, Structure

_PATH = "turn_detection"
_QUESTION = (
    "Listen to how the last recording ends. Has the user finished what they want to say, so that it is your turn to"
    " speak? Answer no if they stopped in the middle of a sentence, are thinking, or will go on. Answer yes or no."
)
_YES, _NO = "yes", "no"


async def is_finished(asking: Asking, items: Iterable[Item], options: ResponseOptions) -> bool | None:
    """Return whether the last item is all that the user says; None = nobody knows.

    The prompt begins as that of the response does, tools included, so that its cache serves both. A model that thinks
    is not asked: it takes too long.
    """
    model = asking.model
    if model.kind is ModelKind.THINKING:
        return None
    messages, inline = messages_of(items, options.instructions, options.system_preset)
    messages.append(Message("user", [TextPart(_PATH, _QUESTION)]))
    structure = Structure(_PATH, Choices((_YES, _NO))) if model.structures_answers else None
    sampling = Sampling(temperature=0.0, max_tokens=4)
    try:
        tools = options.tools.form.tools
        answer, _ = await asking.text(messages, inline, sampling, structure, tools=tools, is_free=True)
    except AntiphonError:
        return None
    said = answer.strip().lower()
    if said.startswith(_YES):
        return True
    return False if said.startswith(_NO) else None
