"""POST /v1/realtime/client_secrets: short-lived secrets, so that browsers need no API key."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput
from services.common.http.respond import header, send_bytes
from services.common.key_scopes import Scope as KeyScope
from services.gateway import metrics
from services.gateway.auth import ApiKeys
from services.gateway.http.chat.parts import Strict
from services.gateway.http.json_body import parse_json
from services.gateway.http.reply import Reply, maybe
from services.gateway.http.respond import read_body, require_json
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory
from services.gateway.realtime.audio.formats import AudioFormat
from services.gateway.realtime.conversation import new_id
from services.gateway.realtime.openai.options import (
    changed,
    changed_input_format,
    changed_turn_detection,
    described_session,
)
from services.gateway.realtime.openai.schema import SessionOptions
from services.gateway.realtime.response import ResponseOptions
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import ClientSecret, FieldNames, Intent, Principal

SHORTEST_S, DEFAULT_S, LONGEST_S = 10, 600, 7200
# Larger ones would wait for room in memory, and make no secret.
_MAX_BODY_BYTES = 64 * 1024 - 1
_NAMES = FieldNames(
    voice="session.audio.output.voice",
    modalities="session.output_modalities",
    messages="session",
    max_tokens="session.max_output_tokens",
)

logger = logging.getLogger(__name__)


class SecretExpiresAfter(Strict):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=SHORTEST_S, le=LONGEST_S)] = DEFAULT_S


class ClientSecretRequest(Strict):
    expires_after: SecretExpiresAfter | None = None
    session: SessionOptions | None = None
    # An extension.
    scope: Annotated[
        Literal["realtime", "chat", "speech", "transcription"] | None,
        Field(description="what the secret may be used for; realtime by default"),
    ] = None


class ClientSecretReply(Reply):
    value: str = Field(description="to be shown in the key's place: ek_…")
    expires_at: int = Field(description="seconds since the epoch")
    session: dict[str, Any] = maybe("what its sessions begin with; absent where the scope is another one")


class ClientSecrets:
    """The endpoint as an ASGI application. What a secret is for is in the secret: nothing is stored."""

    def __init__(self, keys: ApiKeys, admission: Admission, limits: RequestLimits, memory: GatewayMemory) -> None:
        self._keys = keys
        self._admission = admission
        self._limits = replace(limits, max_body_bytes=min(limits.max_body_bytes, _MAX_BODY_BYTES))
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        require_json(scope)
        async with self._memory.request(principal.tenant) as memory:
            asked = parse_json(await read_body(scope, receive, self._limits, memory), ClientSecretRequest)
        session = asked.session or SessionOptions()
        key_scope = KeyScope(asked.scope or KeyScope.REALTIME)
        lasts_s = (asked.expires_after or SecretExpiresAfter()).seconds
        value, secret = self._keys.make_secret(
            header(scope, b"authorization"),
            ClientSecret(key_scope, int(time.time()) + lasts_s, session.model or "", _settings(session, key_scope)),
        )
        reply = ClientSecretReply(value=value, expires_at=secret.expires_unix_s)
        if key_scope is KeyScope.REALTIME:
            options = await self._checked_options(principal, session)
            reply.session = described_session(
                new_id("sess"),
                session.model,
                options,
                changed_turn_detection(TurnDetection(), session),
                changed_input_format(AudioFormat.PCM, session),
            )
        elif secret.session:
            raise BadInput(
                f"Invalid 'session': a secret for {key_scope} opens no session. Send the model alone.", param="session"
            )
        elif session.model is not None:
            await self._admission.find(principal, session.model)
        metrics.CLIENT_SECRETS.labels(key_scope).inc()
        logger.info(
            "a client secret of %s for %s, for %d s",
            principal.key_id or f"tenant {principal.tenant}",
            key_scope,
            secret.expires_unix_s - time.time(),
        )
        body = reply.model_dump_json(exclude_unset=True).encode()
        await send_bytes(send, 200, body, "application/json", {"cache-control": "no-store"})

    async def _checked_options(self, principal: Principal, given: SessionOptions) -> ResponseOptions:
        """Return what a session begins with. Raise what the model can't serve, where it is known."""
        if given.model is None:
            return changed(ResponseOptions(), given)
        model = await self._admission.find(principal, given.model)
        options = changed(ResponseOptions(speaks=model.speaks), given)
        speech = options.speech if options.speaks else None
        intent = Intent(_NAMES, time.monotonic(), (), sampling=options.sampling, speech=speech)
        self._admission.check(principal, intent, model)
        return options


def _settings(session: SessionOptions, scope: KeyScope) -> str:
    """Return what the client gave but for the model, as JSON; "" = nothing. To a session, null says something: that its
    turns are manual."""
    opens_none = scope is not KeyScope.REALTIME
    given = session.model_dump_json(exclude_unset=True, exclude_none=opens_none, exclude={"type", "model"})
    return given if given != "{}" else ""
