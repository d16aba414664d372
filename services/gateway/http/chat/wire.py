"""What the wire forms of chat differ in: how a request is read and its answer written. OpenAI's form is here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Scope

from services.common.errors import AntiphonError
from services.common.http.errors import error_body, error_object
from services.gateway.http.chat.completion import CompletionChunks, CompletionForm
from services.gateway.http.chat.outline import Body
from services.gateway.http.chat.parse import ParsedChat, read_chat
from services.gateway.http.chat.structure.translate import FormNames
from services.gateway.http.chat.usage import UsageTally
from services.gateway.http.operation import COMPATIBLE
from services.gateway.http.streams import sse
from services.gateway.kept.until import KeptUntil
from services.gateway.limits import RequestLimits
from services.gateway.turn.events import TurnEvent
from services.gateway.turn.intent import FieldNames


@dataclass(frozen=True, slots=True)
class ReadChat:
    """A request in any form, as OpenAI's form has it."""

    parsed: ParsedChat
    stream: bool
    # The usage is the last event of the stream.
    usage_chunk: bool = False
    # Events have what is new, and not all so far.
    incremental: bool = True
    text_in_content: bool = False
    # The answer is a text, without a message around it.
    text_alone: bool = False


class ChoiceWriter(Protocol):
    """Writes one choice as events of a stream. `close` it at the end."""

    # Of a spoken answer: whether its id was told.
    has_begun: bool

    @property
    def transcript(self) -> str:
        """What a spoken answer said so far."""
        ...

    def encoded(self, event: TurnEvent) -> bytes:
        """Return the server-sent events of an event; it may have none."""
        ...

    def end_text(self) -> bytes:
        """Return the events of text that was held back: it might have begun a call of a tool."""
        ...

    def close(self) -> None: ...


class StreamWriter(ABC):
    """Writes a streamed answer."""

    choices: Sequence[ChoiceWriter]
    end: bytes

    @abstractmethod
    def failed(self, error: AntiphonError) -> bytes:
        """Return the last event: an error after the stream began."""


class ChatWire(ABC):
    names: FieldNames
    form_names: FormNames

    @abstractmethod
    async def read(self, scope: Scope, body: Body, limits: RequestLimits) -> ReadChat:
        """Parse the body. Raise BadInput or TooLarge that names the field as the client wrote it."""

    @abstractmethod
    def field(self, name: str) -> str:
        """Return what this form calls a field of OpenAI's."""

    @abstractmethod
    def answer_id(self, request_id: str) -> str: ...

    @abstractmethod
    def stream(self, form: CompletionForm, until: Callable[[], KeptUntil]) -> StreamWriter:
        """`until`: until when a spoken answer is kept; asked at its end."""

    @abstractmethod
    def whole(self, form: CompletionForm, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer, given OpenAI's object of it."""

    @abstractmethod
    def error_body(self, error: AntiphonError, answer_id: str) -> bytes: ...


class OpenAiWire(ChatWire):
    names = FieldNames(voice="audio.voice", modalities="modalities")
    form_names = FormNames()

    async def read(self, scope: Scope, body: Body, limits: RequestLimits) -> ReadChat:
        parsed = await read_chat(body, limits.max_media_bytes, limits.max_text_bytes)
        chat = parsed.chat
        return ReadChat(
            parsed,
            stream=bool(chat.stream),
            usage_chunk=bool(chat.stream_options and chat.stream_options.include_usage),
            text_in_content=str(scope["path"]).startswith(COMPATIBLE),
        )

    def field(self, name: str) -> str:
        return name

    def answer_id(self, request_id: str) -> str:
        return "chatcmpl-" + request_id.removeprefix("req_")

    def stream(self, form: CompletionForm, until: Callable[[], KeptUntil]) -> StreamWriter:
        return _CompletionStream(form, until)

    def whole(self, form: CompletionForm, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        return completion

    def error_body(self, error: AntiphonError, answer_id: str) -> bytes:
        return error_body(error)


class _CompletionStream(StreamWriter):
    end = b"data: [DONE]\n\n"

    def __init__(self, form: CompletionForm, until: Callable[[], KeptUntil]) -> None:
        tally = UsageTally(form.choices)
        self.choices = [CompletionChunks(form, until, index=index, tally=tally) for index in range(form.choices)]

    def failed(self, error: AntiphonError) -> bytes:
        return sse(error_object(error))
