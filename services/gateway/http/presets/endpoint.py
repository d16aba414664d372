"""GET /v1/presets: the named prompts that a request can ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from starlette.types import Receive, Scope, Send

from services.common.http.respond import send_bytes
from services.gateway.http.presets.presets import PRESETS, AskedPreset, Preset, PresetName
from services.gateway.http.presets.routes import Route, RoutePresets
from services.gateway.http.reply import Reply


class PresetReply(Reply):
    id: PresetName
    object: Literal["preset"] = "preset"
    kind: Literal["system", "task"] = Field(
        description="system: it is the system message; task: it is asked of the media in the last message"
    )
    description: str
    text: str = Field(description="what the model reads, with the parameters' defaults")
    parameters: list[str] = Field(description="fields of antiphon_preset beside its name")
    routes: list[Route] = Field(description="ask for it where a request has no antiphon_preset")


class PresetsReply(Reply):
    object: Literal["list"] = "list"
    data: list[PresetReply]


class ListPresets:
    """The endpoint as an ASGI application."""

    def __init__(self, of_routes: RoutePresets) -> None:
        data = [_reply(preset, of_routes) for preset in PRESETS.values()]
        self._body = PresetsReply(data=data).model_dump_json().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_bytes(send, 200, self._body, "application/json")


def _reply(preset: Preset, of_routes: RoutePresets) -> PresetReply:
    return PresetReply(
        id=preset.name,
        kind=preset.kind,
        description=preset.about,
        text=preset.text(AskedPreset(preset.name)),
        parameters=list(preset.parameters),
        routes=[route for route, asked in of_routes.items() if asked.name == preset.name],
    )
