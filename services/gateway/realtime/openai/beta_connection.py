"""One session of the Realtime API as it was in its beta."""

from __future__ import annotations

from collections.abc import Iterable

from services.gateway.realtime.openai import beta
from services.gateway.realtime.openai.connection import Json, RealtimeConnection


class BetaConnection(RealtimeConnection):
    async def greet(self) -> None:
        await super().greet()
        await self.send(beta.conversation_created(self.session.conversation.id))

    async def do(self, raw: Json) -> None:
        await super().do(beta.event_from(raw))

    def shown(self, events: Iterable[Json]) -> Iterable[Json]:
        return beta.events_of(events)
