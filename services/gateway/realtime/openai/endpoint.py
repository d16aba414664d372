"""/v1/realtime: OpenAI's Realtime API, over a WebSocket."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput
from services.common.http.respond import header
from services.gateway.limits import MAX_NAME_CHARS
from services.gateway.realtime.openai import beta
from services.gateway.realtime.openai.beta_connection import BetaConnection
from services.gateway.realtime.openai.connection import RealtimeConnection
from services.gateway.realtime.openai.options import FIELD_NAMES
from services.gateway.realtime.openai.schema import SessionOptions
from services.gateway.realtime.sessions import Sessions
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.turn.intent import Principal

SUBPROTOCOL = "realtime"


class UpgradeRequired(BadInput):
    status = 426
    default_code = "upgrade_required"


class NoUpgrade:
    """Answers requests that ask for no upgrade. Raises UpgradeRequired."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise UpgradeRequired("Open a WebSocket at this URL: send the headers of an upgrade.")


class Realtime:
    """The endpoint as an ASGI application for WebSockets. What it raises refuses the upgrade."""

    names = FIELD_NAMES
    turn_detection = TurnDetection()
    """Of a session that nothing else was given to."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = query_of(scope)
        model, session_id = one_name(query, "model"), one_name(query, "session_id")
        state, limits = scope["state"], self._sessions.limits
        principal: Principal = state["principal"]
        connection = self.connection_of(scope)(receive, send, limits, state["end_unread"])
        kept = await self._sessions.find(principal, session_id, model) if session_id is not None else None
        model, settings = (kept.model, kept.settings) if kept is not None else (model, settings_of(principal))
        given = [SessionOptions.model_validate_json(settings)] if settings else []
        opening = self._sessions.open(principal, model, self.names, connection.emit, self.turn_detection, kept)
        async with opening as opened:
            await connection.begin(opened, *given)
            await connection.run(SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None)

    def connection_of(self, scope: Scope) -> type[RealtimeConnection]:
        """Return the class of the connections whose dialect the client speaks."""
        return BetaConnection if _is_beta(scope) else RealtimeConnection


def settings_of(principal: Principal) -> str:
    """Return what a client secret has sessions begin with; "" = nothing."""
    return principal.secret.session if principal.secret is not None else ""


def _is_beta(scope: Scope) -> bool:
    """Whether the client asks for the API as it was in its beta."""
    asked = (header(scope, b"openai-beta") or b"").split(b",")
    return b"realtime=v1" in map(bytes.strip, asked) or beta.SUBPROTOCOL in scope["subprotocols"]


def query_of(scope: Scope) -> dict[str, list[str]]:
    try:
        return parse_qs(scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise BadInput("The URL's query is invalid.", code="invalid_query") from None


def one_name(query: dict[str, list[str]], name: str) -> str | None:
    """Return the name of a model or a session in the query; None = there is none."""
    names = query.get(name, [])
    if len(names) > 1 or any(not 0 < len(one) <= MAX_NAME_CHARS for one in names):
        raise BadInput(f"Invalid '{name}': give one.", param=name)
    return names[0] if names else None
