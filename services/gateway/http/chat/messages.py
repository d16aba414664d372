"""The messages of a chat request.

They and their parts may have any other field beside those that are read: clients send back what servers and libraries
added to an answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from services.gateway.http.chat.neutral import only
from services.gateway.http.chat.parts import AssistantPart, Lenient, Nothing, TextPart, UserPart
from services.gateway.http.chat.tools.schema import MAX_CALLS, PastToolCall
from services.gateway.limits import MAX_PARTS


def _is_text(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


# A string or a list. The discriminator makes an error speak of the one that was given.
Either = Discriminator(_is_text)
Texts = Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("list")]
UserParts = Annotated[list[UserPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("list")]
AssistantParts = Annotated[list[AssistantPart], Field(fail_fast=True, max_length=MAX_PARTS), Tag("list")]
PlainText = Annotated[str, Tag("text")]


class SystemMessage(Lenient):
    role: Literal["system", "developer"]
    content: Annotated[PlainText | Texts, Either]


class UserMessage(Lenient):
    role: Literal["user"]
    content: Annotated[PlainText | UserParts, Either]


class PastAudio(Lenient):
    """The `audio` of an answer that is sent back as history. The model reads its transcript, or what the gateway keeps
    under its id."""

    id: Any = None
    transcript: str | None = None
    # There at the end of the speech, in an answer that is complete.
    expires_at: Any = None


class AssistantMessage(Lenient):
    """An answer sent back as history, in any form that we or a client's library give it.

    The model reads its content, transcript or refusal. The chain of thought is not part of the history.
    """

    role: Literal["assistant"]
    content: Annotated[PlainText | AssistantParts, Either] | None = None
    audio: PastAudio | None = None
    tool_calls: Annotated[list[PastToolCall], Field(fail_fast=True, max_length=MAX_CALLS)] | None = None
    function_call: Nothing = None
    refusal: str | None = None
    images: Annotated[Any, only([])] = None


class ToolMessage(Lenient):
    """The result of a call."""

    role: Literal["tool"]
    content: Annotated[PlainText | UserParts, Either]
    tool_call_id: Annotated[str, Field(max_length=256)] = Field(
        default="", description="may be left out, as Qwen-Agent does: the model is shown results in their order"
    )


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
