"""POST /api/v1/services/aigc/{multimodal,text}-generation/generation: chat in DashScope's native form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.types import Scope

from services.common.errors import AntiphonError
from services.common.http.respond import header
from services.gateway.http.chat.completion import CompletionForm
from services.gateway.http.chat.outline import Body
from services.gateway.http.chat.parse import ParsedChat, read_request
from services.gateway.http.chat.structure.translate import FormNames
from services.gateway.http.chat.wire import ChatWire, ReadChat, StreamWriter
from services.gateway.http.dashscope.errors import flat_body
from services.gateway.http.dashscope.translate import MESSAGES, READING, TEXT_READING, NativeChat, field
from services.gateway.http.dashscope.write import NativeStream, Shape, native_answer
from services.gateway.inline_media import InlineMedia
from services.gateway.kept.until import KeptUntil
from services.gateway.limits import RequestLimits, check_text_bytes
from services.gateway.turn.intent import FieldNames

STREAM_HEADER = b"x-dashscope-sse"
"""`enable` = the answer is streamed."""


class NativeWire(ChatWire):
    names = FieldNames(
        voice=field("audio.voice"),
        modalities=field("modalities"),
        messages=MESSAGES,
        max_tokens=field("max_tokens"),
        thinking=field("enable_thinking"),
        tools=field("tools"),
        logprobs=field("logprobs"),
    )
    form_names = FormNames(
        tools=field("tools"),
        response_format=field("response_format"),
        schema=field("response_format.json_schema.schema"),
    )

    async def read(self, scope: Scope, body: Body, limits: RequestLimits) -> ReadChat:
        read = await read_request(body, READING, limits.max_media_bytes, limits.max_text_bytes)
        return self._read(scope, read[1], read[2], limits)

    def _read(self, scope: Scope, made: NativeChat, inline: InlineMedia, limits: RequestLimits) -> ReadChat:
        check_text_bytes(made.messages, limits.max_text_bytes)
        return ReadChat(
            ParsedChat(made.chat, list(made.messages), inline),
            stream=(header(scope, STREAM_HEADER) or b"").strip().lower() == b"enable",
            incremental=made.incremental,
            text_in_content=True,
            text_alone=made.text_alone,
        )

    def field(self, name: str) -> str:
        return field(name)

    def answer_id(self, request_id: str) -> str:
        return request_id

    def stream(self, form: CompletionForm, until: Callable[[], KeptUntil]) -> StreamWriter:
        return NativeStream(form, until, self._shape(form))

    def whole(self, form: CompletionForm, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        return native_answer(form, completion, self._shape(form))

    def _shape(self, form: CompletionForm) -> Shape:
        return Shape.PARTS

    def error_body(self, error: AntiphonError, answer_id: str) -> bytes:
        return flat_body(error, answer_id)


class TextWire(NativeWire):
    """That of text-generation: its input may be a prompt, and the content of its answers is a text."""

    names = replace(NativeWire.names, messages="input")

    async def read(self, scope: Scope, body: Body, limits: RequestLimits) -> ReadChat:
        read = await read_request(body, TEXT_READING, limits.max_media_bytes, limits.max_text_bytes)
        return self._read(scope, read[1], read[2], limits)

    def _shape(self, form: CompletionForm) -> Shape:
        return Shape.TEXT if form.text_alone else Shape.MESSAGE
