"""/v1/live/sessions: OpenAI's Live API (GPT-Live), over a WebSocket."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput
from services.gateway.realtime.live.connection import LiveConnection
from services.gateway.realtime.openai.endpoint import one_name, query_of
from services.gateway.realtime.sessions import Sessions
from services.gateway.realtime.socket import SessionSocket
from services.gateway.turn.intent import Principal

# What clients put a key and versions behind among the subprotocols.
_NOT_SPOKEN = "openai-"


class LiveSessions:
    """The endpoint as an ASGI application for WebSockets. What it raises refuses the upgrade."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query, state = query_of(scope), scope["state"]
        if "model" in query:
            raise BadInput("Invalid 'model': send it in session.start, and not in the URL.", param="model")
        principal: Principal = state["principal"]
        session_id = one_name(query, "session_id")
        if session_id is not None:
            await self._sessions.find(principal, session_id)  # it is read again when the client starts
        socket = SessionSocket(receive, send, self._sessions.limits, state["end_unread"])
        subprotocols = (name for name in scope["subprotocols"] if not name.startswith(_NOT_SPOKEN))
        await LiveConnection(socket, self._sessions, principal, session_id).run(next(subprotocols, None))
