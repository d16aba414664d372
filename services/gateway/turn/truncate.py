"""Drops the oldest turns of a conversation that is longer than the model takes, where the request allows it.

    system   user assistant │ user assistant tool assistant │ user
    stays    └─ the first ──┴──── may go, too ──────────────┴─ stays

A turn begins with a message of the user and goes whole, so that no answer and no result of a tool stays without what it
answers. System messages stay, and the last turn does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from services.common.errors import ContextTooLong
from services.gateway.turn.checks import check_length
from services.gateway.turn.conversation import Message
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest

_MOST_ROOM = 1024
"""Tokens that an answer finds, where the request sets no limit: at most a quarter of what the model takes."""


async def fit(
    request: TurnRequest, prepare: Callable[[TurnRequest], Awaitable[Prepared]]
) -> tuple[TurnRequest, Prepared]:
    """Return the request with as many of its messages as fit, and their prompt.

    `prepare` makes a request's prompt. Each try halves what may go, so that n turns take about log2(n) of them. Raise
    ContextTooLong, with the numbers, where not even the last turn fits, and what `prepare` raises.
    """
    messages = request.intent.messages
    cuts = [0, *_cuts(messages)]
    low, high, at = 0, len(cuts), 0
    best: tuple[TurnRequest, Prepared] | None = None
    while low < high:
        shorter = _with(request, _without_oldest(messages, cuts[at]))
        try:
            prepared = await prepare(shorter)
            _check(shorter, prepared, may_drop_more=at < len(cuts) - 1)
        except ContextTooLong:
            if at == len(cuts) - 1:
                raise
            low = at + 1
        else:
            best, high = (shorter, prepared), at
        at = (low + high) // 2
    if best is None:  # the last turn is tried last, and then it fits or raises
        raise AssertionError("no cut was tried")
    return best


def _check(request: TurnRequest, prepared: Prepared, *, may_drop_more: bool) -> None:
    model, max_tokens = request.model, request.intent.sampling.max_tokens
    if max_tokens is None and may_drop_more:
        max_tokens = min(_MOST_ROOM, model.max_model_len // 4)
    check_length(request.intent.names, model, len(prepared.token_ids), max_tokens)


def _cuts(messages: Sequence[Message]) -> list[int]:
    """Return where turns begin, but for the first."""
    return [index for index, message in enumerate(messages) if message.role == "user"][1:]


def _without_oldest(messages: Sequence[Message], cut: int) -> list[Message]:
    return [message for index, message in enumerate(messages) if index >= cut or message.role == "system"]


def _with(request: TurnRequest, messages: Sequence[Message]) -> TurnRequest:
    return replace(request, intent=replace(request.intent, messages=messages))
