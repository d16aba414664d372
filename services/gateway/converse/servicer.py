"""Gateway.Converse: a turn over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import grpc.aio

from antiphon.v1 import gateway_pb2, gateway_pb2_grpc
from services.common.errors import Unauthenticated
from services.common.key_scopes import Scope
from services.gateway.auth import ApiKeys
from services.gateway.control.refused_keys import RefusedKeys
from services.gateway.converse.intent import intent_from, messages_from, named_fields
from services.gateway.converse.preset import with_asked_preset
from services.gateway.converse.read import read_request
from services.gateway.converse.tools import form_of
from services.gateway.converse.write import Responses
from services.gateway.http.chat.structure.translate import AskedForm
from services.gateway.http.presets.routes import RoutePreset
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import Principal
from services.gateway.turn.playback import SpeechMeter

CONVERSE = "/antiphon.v1.Gateway/Converse"


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """`refused`: what notes the keys that are refused; None = nothing does."""

    def __init__(
        self,
        admission: Admission,
        keys: ApiKeys,
        limits: RequestLimits,
        memory: GatewayMemory,
        preset: RoutePreset,
        refused: RefusedKeys | None = None,
    ) -> None:
        self._preset = preset
        self._memory = memory
        self._admission = admission
        self._keys = keys
        self._limits = limits
        self._refused = refused

    async def Converse(
        self,
        request_iterator: AsyncIterator[gateway_pb2.ConverseRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[gateway_pb2.ConverseResponse]:
        arrived_s = time.monotonic()
        principal = self._principal_of(context)
        principal.check_scope(Scope.CHAT)
        with named_fields():
            async with self._memory.request(principal.tenant) as memory:
                start, files = await read_request(request_iterator, self._limits, memory)
                asked = await asyncio.to_thread(form_of, start) if _is_formed(start) else AskedForm()
                messages = with_asked_preset(messages_from(start), start)
                if not start.HasField("preset"):
                    messages = await self._preset.added(messages, principal, start.model or None)
                inline = await memory.keep(messages, files, asked.tools)
                del files
                intent = intent_from(start, asked, messages, inline, arrived_s, context.time_remaining() or None)
                async with self._admission.admit(principal, intent) as turn:
                    meter = SpeechMeter(turn.model.sample_rate)
                    responses = Responses(asked.tool_names)
                    async for event in turn.events:
                        meter.note(event)
                        for response in responses.of(event):
                            yield response
                        turn.sent((event,))

    def _principal_of(self, context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
        shown = _authorization(context)
        try:
            return self._keys.principal_of(shown)
        except Unauthenticated as error:
            if self._refused is not None:
                self._refused.note(shown, error, path=CONVERSE, remote=_address(context.peer()))
            raise


def _is_formed(start: gateway_pb2.ConverseStart) -> bool:
    return bool(start.tools or start.HasField("structure") or start.tool_choice or start.tool_name)


def _address(peer: str) -> str:
    """Return the client's address of what gRPC has: "ipv4:192.0.2.1:4711", or "ipv6:%5B2001:db8::1%5D:4711"."""
    return unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, bytes) else value.encode()
    return None
