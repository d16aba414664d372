"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opentelemetry import context as otel_context
from starlette.types import Receive, Scope, Send

from antiphon.v1 import common_pb2
from services.common.errors import AntiphonError, BadInput
from services.common.telemetry.tracing import context_from_headers
from services.gateway.auth import Tenant
from services.gateway.directory import ModelDirectory
from services.gateway.http.chat.completion import CompletionChunks, CompletionForm, WholeCompletion
from services.gateway.http.chat.parse import read_chat
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import sampling_from, speech_from
from services.gateway.http.errors import error_object
from services.gateway.http.respond import (
    header,
    read_body,
    require_json,
    send_error,
    send_json,
    send_start,
    while_connected,
)
from services.gateway.limits import RequestLimits
from services.gateway.turn.catalogue import Catalogue, check_turn, needed_stages
from services.gateway.turn.events import EventQueue, TurnEvent
from services.gateway.turn.playback import SpeechMeter
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.turn import Turn
from services.gateway.turn.turns import Turns

TIMEOUT_HEADER = b"x-request-timeout-ms"
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request, and the form of its answer."""

    request: TurnRequest
    card: common_pb2.ModelCard
    form: CompletionForm
    stream: bool


class ChatCompletions:
    """The endpoint as an ASGI application."""

    def __init__(self, turns: Turns, directory: ModelDirectory, catalogue: Catalogue, limits: RequestLimits) -> None:
        self._turns = turns
        self._directory = directory
        self._catalogue = catalogue
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = {
            key.decode("latin-1"): value.decode("latin-1")
            for key, value in scope["headers"]
            if key in (b"traceparent", b"tracestate")
        }
        token = otel_context.attach(context_from_headers(caller))
        try:
            asked = await self._read(scope, receive)
            await while_connected(receive, self._answer(asked, send), f"chat {asked.form.id}")
        finally:
            otel_context.detach(token)

    async def _read(self, scope: Scope, receive: Receive) -> _Asked:
        """Return the request, checked against its model's card. No work is done yet, and its base64 is freed."""
        arrived_s, limits = time.monotonic(), self._limits
        require_json(scope)
        timeout_s = _timeout_s(scope, limits.request_timeout_s)
        body = await read_body(scope, receive, limits.max_body_bytes, limits.body_timeout_s)
        parsed = await read_chat(body, limits.max_media_bytes, limits.max_text_bytes)
        del body
        chat, messages = parsed.chat, parsed.messages
        model = self._catalogue.find(await self._directory.models(), chat.model)
        speech = speech_from(chat)
        _check_thinking(chat, model.card)
        check_turn(
            model,
            messages,
            speech,
            chat.token_limit,
            use_audio_in_video=chat.wants_audio_in_video,
            voice_param="audio.voice",
            modalities_param="modalities",
        )
        request_id = str(scope["state"]["request_id"])
        tenant: Tenant = scope["state"]["tenant"]
        request = TurnRequest(
            context=common_pb2.RequestContext(
                request_id=request_id,
                tenant=tenant.name,
                deadline_unix_ms=round((time.time() + timeout_s) * 1000),
                affinity=chat.prompt_cache_key or "",
            ),
            tenant_label=tenant.label,
            model=model.card.name,
            messages=messages,
            inline=await parsed.inline.decode(),
            use_audio_in_video=chat.wants_audio_in_video,
            sampling=sampling_from(chat),
            speech=speech,
            arrived_s=arrived_s,
            is_hurried=timeout_s < limits.request_timeout_s,
            asleep=model.asleep & needed_stages(speech=speech is not None),
        )
        form = CompletionForm(
            id="chatcmpl-" + request_id.removeprefix("req_"),
            created_unix_s=int(time.time()),
            model=model.card.name,
            speech=speech is not None,
            audio_format=chat.audio.format if chat.audio else "wav",
            token_ids=bool(chat.return_token_ids),
            usage_chunk=bool(chat.stream_options and chat.stream_options.include_usage),
        )
        return _Asked(request, model.card, form, bool(chat.stream))

    async def _answer(self, asked: _Asked, send: Send) -> None:
        async with self._turns.begin(asked.request, asked.card) as turn:
            if asked.stream:
                await self._stream(turn, asked.form, send)
            else:
                await _send_whole(turn, asked.form, send)

    async def _stream(self, turn: Turn, form: CompletionForm, send: Send) -> None:
        """Send the events as they come.

        The status is sent with the first event, so that an earlier error has a status of its own, or with the first
        keep-alive comment, so that neither client nor proxy closes the connection. A later error is the last event.
        """
        chunks = CompletionChunks(form, time.time)
        meter = SpeechMeter(turn.card.sample_rate)
        began = False
        try:
            async for event in _with_keep_alive(turn.events, self._limits.keep_alive_s):
                if not began:
                    began = True
                    await send_start(send, 200, _STREAM_HEADERS)
                if event is None:
                    await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
                    continue
                meter.note(event)
                await _send_event(send, *(chunks.chunks(event)))
        except AntiphonError as error:
            if not began:
                await send_error(send, error, billed=turn.billed)
                return
            await _send_event(send, error_object(error))
        else:
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _send_whole(turn: Turn, form: CompletionForm, send: Send) -> None:
    answer = WholeCompletion(form, time.time)
    try:
        async for event in turn.events:
            answer.add(event)
    except AntiphonError as error:
        await send_error(send, error, billed=turn.billed)
        return
    await send_json(send, 200, answer.completion(turn.card.sample_rate))


async def _with_keep_alive(events: EventQueue, every_s: float) -> AsyncIterator[TurnEvent | None]:
    """Yield the events, and None whenever none came for `every_s`."""
    while True:
        try:
            async with asyncio.timeout(every_s):
                event = await anext(events)
        except TimeoutError:
            yield None
        except StopAsyncIteration:
            return
        else:
            yield event


async def _send_event(send: Send, *objects: dict[str, object]) -> None:
    if objects:
        lines = "".join(f"data: {json.dumps(item, ensure_ascii=False, separators=(',', ':'))}\n\n" for item in objects)
        await send({"type": "http.response.body", "body": lines.encode(), "more_body": True})


def _timeout_s(scope: Scope, most_s: float) -> float:
    """Return the client's timeout from its header, at most the operator's."""
    asked = header(scope, TIMEOUT_HEADER)
    if asked is None:
        return most_s
    if not asked.isdigit() or len(asked) > 12 or int(asked) == 0:
        name = TIMEOUT_HEADER.decode()
        raise BadInput(f"Invalid '{name}': it must be a whole number of milliseconds, at least 1.", param=name)
    return min(int(asked) / 1000, most_s)


def _check_thinking(chat: ChatRequest, card: common_pb2.ModelCard) -> None:
    thinks = card.kind == common_pb2.MODEL_KIND_THINKING
    if chat.enable_thinking is not None and chat.enable_thinking != thinks:
        always = "always" if thinks else "never"
        raise BadInput(
            f"Invalid 'enable_thinking': the model '{card.name}' {always} thinks. Leave the field out.",
            param="enable_thinking",
        )
