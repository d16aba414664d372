"""/api-ws/v1/realtime: DashScope's realtime API, over a WebSocket."""

from __future__ import annotations

from starlette.types import Scope

from services.gateway.realtime.dashscope.connection import DashScopeConnection
from services.gateway.realtime.dashscope.translate import FIELD_NAMES, TURN_DETECTION
from services.gateway.realtime.openai.connection import RealtimeConnection
from services.gateway.realtime.openai.endpoint import Realtime


class DashScopeRealtime(Realtime):
    names = FIELD_NAMES
    turn_detection = TURN_DETECTION

    def connection_of(self, scope: Scope) -> type[RealtimeConnection]:
        return DashScopeConnection
