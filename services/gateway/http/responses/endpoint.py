"""POST /v1/responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.types import Receive, Scope, Send

from services.common.errors import AntiphonError
from services.common.http.respond import send_error, send_json
from services.gateway.http.chat.named_files import with_named_files
from services.gateway.http.chat.parse import Reading, read_request
from services.gateway.http.chat.structure.translate import AskedForm, asked_form
from services.gateway.http.presets.presets import with_preset
from services.gateway.http.presets.routes import PARAM, RoutePreset
from services.gateway.http.request import memory_of, timeout_of, trace_of
from services.gateway.http.respond import read_body, require_json, while_connected
from services.gateway.http.responses.answer import Json, ResponseForm, asked_fields
from services.gateway.http.responses.events import ResponseEvents, encoded
from services.gateway.http.responses.history import Asked, History
from services.gateway.http.responses.kept import KeptResponses
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.responses.tools import NAMES as FORM_NAMES
from services.gateway.http.responses.translate import check_calls, pieces_from
from services.gateway.http.streams import StreamForm, name_field, rename_messages, stream_turns
from services.gateway.inline_media import RequestFiles
from services.gateway.limits import RequestLimits, check_text_bytes
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.turn.admission import Admission
from services.gateway.turn.conversation import Message
from services.gateway.turn.events import TurnDone, TurnEvent
from services.gateway.turn.intent import FieldNames, Intent, Principal
from services.gateway.turn.turn import Turn

_NAMES = FieldNames(
    voice="audio.voice",
    modalities="modalities",
    messages="input",
    max_tokens="max_output_tokens",
    thinking="reasoning.effort",
    logprobs="include",
)
READING = Reading(ResponseRequest, pieces_from, check_calls, lambda request: request.text_chars)


@dataclass(frozen=True, slots=True)
class _Answering:
    """A request, the form of its response, which lacks the model, and what is kept beside it; None = nothing is."""

    intent: Intent
    form: ResponseForm
    stream: bool
    items_json: bytes | None


class Responses:
    """The endpoint as an ASGI application."""

    def __init__(
        self,
        admission: Admission,
        limits: RequestLimits,
        memory: GatewayMemory,
        kept: KeptResponses,
        files: RequestFiles,
        preset: RoutePreset,
    ) -> None:
        self._preset = preset
        self._files = files
        self._admission = admission
        self._limits = limits
        self._memory = memory
        self._kept = kept
        self._history = History(kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        with trace_of(scope):
            async with memory_of(scope, self._memory) as memory:
                try:
                    asked = await self._read(principal, scope, receive, memory)
                except AntiphonError as error:
                    raise rename_messages(error, _NAMES.messages) from None
                await while_connected(receive, self._answer(principal, asked, send), f"response {asked.form.id}")

    async def _read(self, principal: Principal, scope: Scope, receive: Receive, memory: RequestMemory) -> _Answering:
        """Return the request, decoded: the body and its base64 are freed."""
        arrived_s, limits, tenant = time.monotonic(), self._limits, principal.tenant
        require_json(scope)
        timeout_s = timeout_of(scope)
        body = await read_body(scope, receive, limits, memory, later_bytes=self._kept.max_bytes)
        request, pieces, inline = await read_request(body, READING, limits.max_media_bytes, limits.max_text_bytes)
        body_bytes, request_id = len(body), str(scope["state"]["request_id"])
        del body
        digits = request_id.removeprefix("req_")
        asked = await _asked_form(request)
        conversation = await self._history.conversation(
            tenant, Asked(request, pieces, inline, body_bytes), digits, memory
        )
        messages: Sequence[Message] = await with_named_files(
            conversation.messages, inline, self._files, tenant, limits.max_text_bytes
        )
        if request.antiphon_preset is not None:
            messages = with_preset(messages, request.antiphon_preset.asked, PARAM)
        elif PARAM not in request.model_fields_set:
            messages = await self._preset.added(messages, principal, request.model)
        check_text_bytes(messages, limits.max_text_bytes, asked.tools)
        form = ResponseForm(
            digits=digits,
            created_unix_s=int(time.time()),
            asked={**asked_fields(request), "store": conversation.items_json is not None},
            tool_names=asked.tool_names,
            logprobs=request.wants_logprobs,
        )
        intent = Intent(
            names=_NAMES,
            arrived_s=arrived_s,
            messages=messages,
            inline=await memory.keep(
                messages,
                await self._files.files(tenant, inline),
                asked.tools,
                other_bytes=len(conversation.items_json or b""),
            ),
            model=request.model,
            sampling=replace(
                request.sampling,
                max_tokens=request.max_output_tokens,
                top_logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
            ),
            tools=asked.tools,
            structure=asked.structure,
            thinks=request.thinks,
            drops_oldest=request.truncation == "auto",
            affinity=request.prompt_cache_key or "",
            timeout_s=timeout_s,
            request_id=request_id,
        )
        return _Answering(intent, form, bool(request.stream), conversation.items_json)

    async def _answer(self, principal: Principal, asked: _Answering, send: Send) -> None:
        async with self._admission.admit(principal, asked.intent) as turn:
            events = ResponseEvents(replace(asked.form, model=turn.model.name), time.time)
            keeping = _Keeping(self._kept, principal.tenant, asked.items_json)
            if asked.stream:
                await stream_turns([turn], _ResponseStream(events, keeping), send, self._limits.keep_alive_s)
            else:
                await _send_whole(turn, events, keeping, send)


@dataclass(frozen=True, slots=True)
class _Keeping:
    """Keeps a response with these items, its input; None = it is not to be kept."""

    kept: KeptResponses
    tenant: str
    items_json: bytes | None

    async def keep(self, response: Json) -> None:
        """The response then says whether it is kept."""
        if self.items_json is not None:
            response["store"] = await self.kept.keep(self.tenant, response, self.items_json)


async def _send_whole(turn: Turn, events: ResponseEvents, keeping: _Keeping, send: Send) -> None:
    turn.answers_whole = True
    last: Json = {}
    try:
        async for event in turn.events:
            last = (events.add(event) or [last])[-1]
    except AntiphonError as error:
        await send_error(send, name_field(error, turn), billed=turn.billed, headers=turn.account.headers)
        return
    response: Json = last["response"]
    await keeping.keep(response)
    await send_json(send, 200, response, turn.account.headers)
    turn.sent_all()


class _ResponseStream(StreamForm):
    """A response is kept before its last event is sent: the client may continue it at once."""

    def __init__(self, events: ResponseEvents, keeping: _Keeping) -> None:
        self._events = events
        self._keeping = keeping

    async def encoded(self, events: Sequence[TurnEvent], choice: int) -> bytes:
        out = [made for event in events for made in self._events.add(event)]
        if any(isinstance(event, TurnDone) for event in events):
            await self._keeping.keep(out[-1]["response"])
        return encoded(out)

    def failed(self, error: AntiphonError) -> bytes:
        return encoded(self._events.fail(error))

    def close(self) -> None:
        pass


async def _asked_form(request: ResponseRequest) -> AskedForm:
    """Return the form of the answer; off the event loop where there are schemas to check."""
    if request.tools or request.response_format:
        return await asyncio.to_thread(asked_form, request, FORM_NAMES)
    return AskedForm()
