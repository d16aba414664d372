"""The named prompt that a ConverseStart asks for."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from antiphon.v1 import gateway_pb2
from services.common.errors import BadInput
from services.common.http.errors import bad_input_from
from services.gateway.http.presets.presets import with_preset
from services.gateway.http.presets.schema import PresetFields
from services.gateway.turn.conversation import Message

_PRESET = "preset"


def with_asked_preset(messages: Sequence[Message], start: gateway_pb2.ConverseStart) -> Sequence[Message]:
    """Return the conversation with the preset, where one is asked for. Raise BadInput where there is none of its name,
    or it has no place."""
    if not start.HasField(_PRESET):
        return messages
    asked = {field.name: value for field, value in start.preset.ListFields()}
    try:
        preset = PresetFields.model_validate(asked).asked
    except ValidationError as error:
        wrong = bad_input_from(error, asked)
        message = wrong.message.replace("'antiphon_preset'", f"'{_PRESET}'")
        raise BadInput(message, param=f"{_PRESET}.{wrong.param}" if wrong.param else _PRESET, code=wrong.code) from None
    return with_preset(messages, preset, _PRESET)
