"""/v1/realtime/calls: OpenAI's Realtime API over WebRTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput, TooLarge
from services.common.http.respond import header, send_bytes, send_start
from services.gateway.http.chat.parts import Strict
from services.gateway.http.form import read_form
from services.gateway.http.json_body import parse_json
from services.gateway.http.respond import read_body
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.realtime.openai.endpoint import one_name, query_of, settings_of
from services.gateway.realtime.openai.schema import SessionOptions
from services.gateway.realtime.webrtc.limits import WebRtcLimits
from services.gateway.realtime.webrtc.offer import MAX_OFFER_BYTES, Offer, offer_from
from services.gateway.turn.intent import Principal

SDP = "application/sdp"
OFFER_FIELD = "sdp"
_MAX_BODY_BYTES = 256 * 1024


class RealtimeCalls(Protocol):
    """What `Calls` does for its endpoints."""

    limits: WebRtcLimits

    async def start(
        self, principal: Principal, model: str | None, offer: Offer, given: Sequence[SessionOptions]
    ) -> tuple[str, str]: ...

    def hang_up(self, principal: Principal, call_id: str) -> None: ...


class CallFields(BaseModel, frozen=True):
    """What comes beside the offer in a form."""

    session: str | None = Field(default=None, description="JSON, what the session begins with: as of a session.update")


class _GivenSession(Strict):
    session: SessionOptions


class CreateCall:
    """The endpoint as an ASGI application. The offer is the body, or a field of a form."""

    def __init__(self, calls: RealtimeCalls, limits: RequestLimits, memory: GatewayMemory) -> None:
        self._calls = calls
        self._limits = replace(
            limits,
            max_body_bytes=min(limits.max_body_bytes, _MAX_BODY_BYTES),
            max_media_bytes=min(limits.max_media_bytes, MAX_OFFER_BYTES),
        )
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        model = one_name(query_of(scope), "model")
        settings = settings_of(principal)
        given = [SessionOptions.model_validate_json(settings)] if settings else []
        async with self._memory.request(principal.tenant) as memory:
            if _kind(scope) == SDP.encode():
                sdp = await read_body(scope, receive, self._limits, memory)
            else:
                sdp, session = await self._read_form(scope, receive, memory)
                given += [session] if session is not None else []
                if session is not None and session.model is not None:
                    if model not in (None, session.model):
                        raise BadInput("Invalid 'model': the query and the session name different ones.", param="model")
                    model = session.model
            if len(sdp) > MAX_OFFER_BYTES:
                raise TooLarge(f"Invalid 'sdp': the offer is larger than {MAX_OFFER_BYTES} bytes.", param=OFFER_FIELD)
            offer = offer_from(sdp.decode("utf-8", "replace"), self._calls.limits.networks)
        call_id, answer = await self._calls.start(principal, model, offer, given)
        await send_bytes(send, 201, answer.encode(), SDP, {"location": f"/v1/realtime/calls/{call_id}"})

    async def _read_form(
        self, scope: Scope, receive: Receive, memory: RequestMemory
    ) -> tuple[bytearray, SessionOptions | None]:
        form = await read_form(scope, receive, self._limits, memory, file_field=OFFER_FIELD)
        for name, values in form.fields.items():
            if name != "session":
                raise BadInput(f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter")
            if len(values) > 1:
                raise BadInput("Invalid 'session': it is there twice. Send one.", param="session")
        if form.file is None:
            raise BadInput("Missing required parameter: 'sdp'.", param=OFFER_FIELD, code="missing_required_parameter")
        text = form.fields.get("session", [""])[0]
        if not text:
            return form.file, None
        return form.file, parse_json(b'{"session":' + text.encode() + b"}", _GivenSession).session


class HangUpCall:
    """The endpoint as an ASGI application: ends a call of the key's project."""

    def __init__(self, calls: RealtimeCalls) -> None:
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._calls.hang_up(scope["state"]["principal"], scope["path_params"]["id"])
        await send_start(send, 200, {"content-length": "0"})
        await send({"type": "http.response.body"})


def _kind(scope: Scope) -> bytes:
    return (header(scope, b"content-type") or b"").split(b";")[0].strip().lower()
