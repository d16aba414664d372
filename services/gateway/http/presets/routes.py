"""Presets that the operator has a route ask for, where a request says nothing of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from services.gateway.http.presets.presets import AskedPreset, has_place, with_preset
from services.gateway.turn.admission import Admission
from services.gateway.turn.conversation import Message
from services.gateway.turn.intent import Principal
from services.gateway.turn.model import ModelKind

Route = Literal["chat", "responses", "dashscope", "converse", "realtime"]
RoutePresets = Mapping[Route, AskedPreset]
PARAM = "antiphon_preset"


class RoutePreset:
    """That of one route; None = it asks for none."""

    def __init__(self, admission: Admission, asked: AskedPreset | None) -> None:
        self._admission = admission
        self._asked = asked

    async def added(self, messages: Sequence[Message], principal: Principal, model: str | None) -> Sequence[Message]:
        """Return the conversation with the preset. It stays as it is where the preset has no place in it, and where the
        model is a Captioner, which reads no text. Raise what Admission.find raises."""
        if self._asked is None or not has_place(messages, self._asked):
            return messages
        found = await self._admission.find(principal, model)
        return messages if found.kind is ModelKind.CAPTIONER else with_preset(messages, self._asked, PARAM)
