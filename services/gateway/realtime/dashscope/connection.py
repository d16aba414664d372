"""One session of DashScope's realtime API: OpenAI's, translated."""

from __future__ import annotations

from collections.abc import Iterable

from services.common.errors import BadInput
from services.gateway.inline_media import EncodedMedia, decode_all
from services.gateway.realtime.audio.formats import PCM_FORMATS
from services.gateway.realtime.dashscope import schema
from services.gateway.realtime.dashscope.translate import INPUT_RATE, event_from
from services.gateway.realtime.dashscope.write import events_of, session_finished
from services.gateway.realtime.input_frames import check_frame_bytes
from services.gateway.realtime.openai.connection import Json, RealtimeConnection
from services.gateway.realtime.session_end import SessionEnd

# What a client may still send behind session.finish.
_LATE = (schema.ResponseCancel, schema.SessionFinish)
# Its microphone and its camera may run on: nothing hears or sees that, and no error tells of it, which the SDK would
# take for the end.
_IGNORED = (schema.AudioAppend, schema.ImageAppend)


class DashScopeConnection(RealtimeConnection):
    input_format = PCM_FORMATS[INPUT_RATE]

    async def do(self, raw: Json) -> None:
        event = schema.parse_event(raw)
        if self.session.leaving.is_finishing:
            if isinstance(event, _IGNORED):
                return
            if not isinstance(event, _LATE):
                raise BadInput("The session is finishing. Open another one.", code="session_finishing")
        match event:
            case schema.ImageAppend():
                await self.session.append_frame(await _jpeg_from(event.image))
            case schema.SessionFinish():
                await self.session.finish()
            case schema.SessionUpdate() | schema.ResponseCreate():
                await self.do_event(event_from(event))
            case _:
                await self.do_event(event)

    def shown(self, events: Iterable[Json]) -> Iterable[Json]:
        return events_of(events)

    async def take_leave(self, reason: SessionEnd) -> None:
        if reason is SessionEnd.REQUESTED:
            await self.send(session_finished())
        await super().take_leave(reason)


async def _jpeg_from(encoded: str) -> bytes:
    """Raise BadInput or TooLarge."""
    check_frame_bytes(len(encoded) // 4 * 3 - 2)
    (data,) = await decode_all([EncodedMedia("image", encoded)])
    return bytes(data)
