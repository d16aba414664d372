"""The client events of OpenAI's Live API (GPT-Live).

As in the Realtime API, fields that ask for what is not served pass at values that ask for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from services.common.http.errors import bad_input_from
from services.gateway.http.chat.parts import Lenient, Strict
from services.gateway.http.chat.schema import Voice
from services.gateway.limits import MAX_NAME_CHARS
from services.gateway.realtime.openai.schema import unserved

# The API's, for what a session begins with.
MAX_INPUT = 128
# The API's bound is 500 tokens; here it is one of characters.
MAX_CONTEXT_CHARS = 8192

EventId = Annotated[str, Field(max_length=512)]


# The session


class PcmFormat(Strict):
    type: Literal["audio/pcm"]
    rate: Literal[16000, 24000] | None = None


class G711Format(Strict):
    type: Literal["audio/pcmu", "audio/pcma"]
    rate: Literal[8000] | None = None


class Output(Strict):
    voice: Voice | None = None


class Audio(Strict):
    format: Annotated[PcmFormat | G711Format, Field(discriminator="type")] | None = None
    output: Output | None = None


class ClientDelegation(Strict):
    """The application does what the model delegates. It is the only one that is served."""

    type: Literal["client"]
    acknowledgement_delay_ms: Annotated[Any, unserved()] = None


class InputText(Lenient):
    type: Literal["input_text"] = "input_text"
    text: str


class OutputText(Lenient):
    type: Literal["output_text", "text"] = "text"
    text: str


class _PastMessage(Lenient):
    type: Literal["message"] = "message"


class HeardMessage(_PastMessage):
    role: Literal["developer", "user"]
    content: Annotated[list[InputText], Field(min_length=1, max_length=1)]


class SaidMessage(_PastMessage):
    role: Literal["assistant"]
    content: Annotated[list[OutputText], Field(min_length=1, max_length=1)]


PastMessage = Annotated[HeardMessage | SaidMessage, Field(discriminator="role")]


class SessionConfig(Strict):
    # Left out where a session goes on, or a client secret names it.
    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    instructions: str | None = None
    audio: Audio | None = None
    delegation: ClientDelegation | None = None
    input: Annotated[list[PastMessage], Field(fail_fast=True, max_length=MAX_INPUT)] | None = None
    # Some clients send who their user is. Nothing is done with it.
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    store: Annotated[Any, unserved(False)] = None
    triggers: Annotated[Any, unserved([])] = None
    client: Annotated[Any, unserved()] = None


class SessionChange(Strict):
    delegation: ClientDelegation | None = None
    triggers: Annotated[Any, unserved([])] = None


# Events


class _Event(Strict):
    event_id: EventId | None = None


class SessionStart(_Event):
    type: Literal["session.start"]
    session: SessionConfig


class SessionUpdate(_Event):
    type: Literal["session.update"]
    session: SessionChange


class AudioAppend(_Event):
    type: Literal["session.input_audio.append"]
    audio: str


class Mute(_Event):
    type: Literal["session.input_audio.mute"]


class Unmute(_Event):
    type: Literal["session.input_audio.unmute"]


class _ContextAppend(_Event):
    content: Annotated[str, Field(min_length=1, max_length=MAX_CONTEXT_CHARS)]
    delegation_id: Annotated[str, Field(max_length=256)] | None = None


class InstructionsAppend(_ContextAppend):
    type: Literal["session.instructions.append"]


class ThinkingAppend(_ContextAppend):
    type: Literal["session.thinking.append"]


class CommentaryAppend(_ContextAppend):
    type: Literal["session.commentary.append"]


class SessionClose(_Event):
    type: Literal["session.close"]


ContextAppend = InstructionsAppend | ThinkingAppend | CommentaryAppend
ClientEvent = Annotated[
    SessionStart | SessionUpdate | AudioAppend | Mute | Unmute | ContextAppend | SessionClose,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)


def parse_event(raw: dict[str, Any]) -> ClientEvent:
    """Raise BadInput that names the field as the client wrote it."""
    try:
        return _EVENT.validate_python(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
