"""The conversation of a response request: what is kept of it, and what the request adds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from services.common.errors import BadInput, NotFound, TooLarge
from services.gateway.http.responses.answer import Json
from services.gateway.http.responses.items import (
    CallOutput,
    Item,
    ItemReference,
    PastAnswer,
    PastCall,
    PastReasoning,
)
from services.gateway.http.responses.kept import KeptResponses, in_thread
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.responses.translate import Pieces, Referred, messages_in, piece_of, pieces_of
from services.gateway.inline_media import InlineMedia
from services.gateway.limits import MAX_ALL_PARTS, MAX_MESSAGES
from services.gateway.memory import RequestMemory
from services.gateway.turn.conversation import Message, TextPart, join_calls

_PREVIOUS = "previous_response_id"
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])
# An item of an output: its kind, what its response's id has, too, and its place. See ResponseForm.item_id.
_ITEM_ID = re.compile(r"(?:msg|fc|rs)_([0-9a-f]{32})[0-9a-f]{4}")
# Responses that are read at a time.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request said, as it was read: `body_bytes` of JSON."""

    request: ResponseRequest
    pieces: Pieces
    inline: InlineMedia
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the model reads, and the items of it for the next response; None = they are not kept."""

    messages: list[Message]
    items_json: bytes | None


class History:
    """Finds what requests continue or refer to. What is found counts in the request's memory."""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    async def conversation(self, tenant: str, asked: Asked, digits: str, memory: RequestMemory) -> Conversation:
        """Return the request's conversation. `digits`: of its response's id.

        Raise NotFound where something is not kept, BadInput or TooLarge where the conversation is too long.
        """
        loading = _Loading(asked.body_bytes, self._kept.max_bytes, memory)
        request, before = asked.request, list[Json]()
        if request.previous_response_id is not None:
            previous = await self._kept.items(tenant, request.previous_response_id, param=_PREVIOUS)
            await loading.add(previous.size_bytes, _PREVIOUS)
            before = previous.items
        referred = await self._referred(tenant, asked.pieces, loading)
        size_bytes = asked.body_bytes + loading.size_bytes
        max_bytes = self._kept.max_bytes
        # A body of escapes may take half as much, written anew; a larger one is not written to find out.
        keeps = self._kept.keeps and request.is_kept and asked.body_bytes <= 2 * max_bytes
        return await in_thread(
            size_bytes,
            lambda: _conversation(asked, digits, before, referred, keeps=keeps, max_bytes=max_bytes),
        )

    async def _referred(self, tenant: str, pieces: Pieces, loading: _Loading) -> dict[str, Json]:
        """Return the items that the input refers to, by id."""
        places = {piece.id: piece.path for piece in pieces if isinstance(piece, Referred)}
        of_responses: dict[str, str] = {}
        for id, path in places.items():
            known = _ITEM_ID.fullmatch(id)
            if known is None:
                raise _no_item(id, path)
            of_responses.setdefault(f"resp_{known[1]}", path)
        ids, found = list(of_responses), dict[str, Json]()
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            for id, encoded in zip(some, await self._kept.outputs(tenant, some), strict=True):
                if encoded is None:
                    continue
                await loading.add(len(encoded), of_responses[id])
                found |= {item["id"]: item for item in from_json(encoded) if item["id"] in places}
        for id, path in places.items():
            if id not in found:
                raise _no_item(id, path)
        return found


class _Loading:
    """Counts what is found, in the request's memory, beside its body."""

    def __init__(self, body_bytes: int, max_bytes: int, memory: RequestMemory) -> None:
        self._body_bytes = body_bytes
        self._max_bytes = max_bytes
        self._memory = memory
        self.size_bytes = 0

    async def add(self, size_bytes: int, param: str) -> None:
        self.size_bytes += size_bytes
        if self.size_bytes > self._max_bytes:
            raise TooLarge(
                f"The responses that this request continues or refers to are larger than {self._max_bytes} bytes. "
                "Send what the model is to read as 'input'.",
                param=param,
            )
        most_bytes = self._body_bytes + self._max_bytes
        await self._memory.grow_body(self._body_bytes + self.size_bytes, most_bytes, is_whole=True)


def _conversation(
    asked: Asked, digits: str, before: list[Json], referred: dict[str, Json], *, keeps: bool, max_bytes: int
) -> Conversation:
    request, inline = asked.request, asked.inline
    known = dict(zip(referred, _ITEMS.validate_python([*referred.values()]), strict=True))
    pieces = pieces_of(_ITEMS.validate_python(before), _PREVIOUS, inline)
    for piece in asked.pieces:
        one = piece_of(known[piece.id], piece.path, inline) if isinstance(piece, Referred) else piece
        pieces += [] if one is None else [one]
    messages = join_calls(messages_in(pieces))
    if request.instructions:
        messages.insert(0, Message("system", [TextPart("instructions", request.instructions)]))
    if not messages:  # a chain of thought is no message
        problem = "Invalid 'input': there is nothing to answer. Send a text or a list of items."
        raise BadInput(problem, param="input")
    _check_length(messages)
    if not keeps:
        return Conversation(messages, None)
    items = json.dumps([*before, *_kept_items(request, digits, referred)], ensure_ascii=False).encode()
    return Conversation(messages, items if len(items) <= max_bytes else None)


def _check_length(messages: Sequence[Message]) -> None:
    parts = sum(len(message.parts) for message in messages)
    if len(messages) > MAX_MESSAGES or parts > MAX_ALL_PARTS:
        raise BadInput(
            f"The conversation has {len(messages)} messages with {parts} parts. At most {MAX_MESSAGES} and"
            f" {MAX_ALL_PARTS} are allowed. Begin a new one, without '{_PREVIOUS}'.",
            param=_PREVIOUS,
        )


def _kept_items(request: ResponseRequest, digits: str, referred: dict[str, Json]) -> list[Json]:
    """Return the input as the API lists it: whole items, each with an id."""
    if isinstance(request.input, str):
        content = [{"type": "input_text", "text": request.input}]
        return [_message("user", content, f"msg_{digits}i0000")]
    return [_item_object(item, f"{digits}i{index:04x}", referred) for index, item in enumerate(request.input or ())]


def _message(role: str, content: list[Json], id: str) -> Json:
    return {"type": "message", "id": id, "status": "completed", "role": role, "content": content}


def _item_object(item: Item, digits: str, referred: dict[str, Json]) -> Json:
    match item:
        case ItemReference():
            return referred[item.id]
        case PastCall():
            call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments or "{}"}
            return {"type": "function_call", "id": item.id or f"fc_{digits}", "status": "completed", **call}
        case CallOutput():
            output = item.output if isinstance(item.output, str) else [_part_object(part) for part in item.output]
            of_call = {"call_id": item.call_id, "output": output}
            return {"type": "function_call_output", "id": item.id or f"fco_{digits}", "status": "completed", **of_call}
        case PastReasoning():
            return {"type": "reasoning", "id": item.id or f"rs_{digits}", "summary": []}
        case _:
            content = item.content
            is_answer = isinstance(item, PastAnswer)
            if isinstance(content, str):
                parts = [_answer_text(content) if is_answer else {"type": "input_text", "text": content}]
            else:
                parts = [_part_object(part, is_answer=is_answer) for part in content]
            return _message(item.role, parts, item.id or f"msg_{digits}")


def _part_object(part: Any, *, is_answer: bool = False) -> Json:
    described: Json = part.model_dump(exclude_none=True)
    if is_answer and "text" in described:
        return _answer_text(described["text"])
    return {"detail": "auto", **described} if described["type"] == "input_image" else described


def _answer_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}


def _no_item(id: str, path: str) -> NotFound:
    return NotFound(
        f"No item '{id[:100]}' is kept. Send the item itself, or keep its response with 'store': true.",
        param=path,
        code="item_not_found",
    )
