"""What the model and the application tell each other beside the conversation: tasks that the model delegates, and
context that the application appends."""

from __future__ import annotations

from services.common.errors import BadInput
from services.gateway.http.chat.structure.translate import FormNames
from services.gateway.http.responses.tools import FunctionTool
from services.gateway.realtime.conversation import (
    CallOutputContent,
    Conversation,
    Item,
    ItemStatus,
    TextContent,
)
from services.gateway.realtime.tools import checked_tools

DELEGATE = checked_tools(
    [
        FunctionTool.model_validate(
            {
                "type": "function",
                "function": {
                    "name": "delegate",
                    "description": "Hand a task to the application that you speak for: whatever you can't know or do"
                    " yourself. First say in a few words that you see to it. The result comes later.",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "task": {"type": "string", "description": "what to do, and all that is needed to do it"}
                        },
                        "required": ["task"],
                        "additionalProperties": False,
                    },
                    "strict": True,
                },
            }
        )
    ],
    "auto",
    parallel_tool_calls=False,
    names=FormNames(parameters="parameters"),
)
"""The function that the model calls to delegate. A delegation's id is that of the call."""
_SILENT = "For your information. Do not say it unless it is asked for:\n"
_TO_SAY = "Tell the user now, in your own words:\n"


def check_delegation(conversation: Conversation, delegation_id: str | None) -> None:
    """Raise BadInput where the model has delegated no such task."""
    if delegation_id is None:
        return
    for item in conversation:
        if item.call is not None and item.call.call_id == delegation_id and item.status is ItemStatus.COMPLETED:
            return
    raise BadInput(
        f"Invalid 'delegation_id': there is no delegation '{delegation_id[:100]}'. Send an id of"
        " session.delegation.created, or null.",
        param="delegation_id",
        code="invalid_delegation_id",
    )


def thinking(content: str) -> Item:
    """Return the item of what the model is to know and not to say."""
    return Item("system", [TextContent(_SILENT + content)])


def commentary(conversation: Conversation, content: str, delegation_id: str | None) -> Item:
    """Return the item of what the model is to say: the result of a task, where it has none yet."""
    if delegation_id is not None and not _has_result(conversation, delegation_id):
        return Item("tool", [CallOutputContent(delegation_id, content)])
    return Item("system", [TextContent(_TO_SAY + content)])


def _has_result(conversation: Conversation, call_id: str) -> bool:
    return any(
        isinstance(content, CallOutputContent) and content.call_id == call_id
        for item in conversation
        for content in item.contents
    )
