"""How a request asks for a preset: by its name, or by an object with its parameters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from services.gateway.http.chat.parts import Strict
from services.gateway.http.presets.presets import PRESETS, AskedPreset, PresetName
from services.gateway.http.transcription.languages import LANGUAGES


class PresetFields(Strict):
    name: PresetName
    # Codes of languages, of the presets that have them.
    language: str | None = None
    to_language: str | None = None

    @model_validator(mode="after")
    def takes_these_parameters(self) -> PresetFields:
        for name in ("language", "to_language"):
            code = getattr(self, name)
            if code is not None and name not in PRESETS[self.name].parameters:
                raise _problem(f"Invalid 'antiphon_preset': '{self.name}' has no '{name}'. Leave it out.")
            if code is not None and code.lower() not in LANGUAGES:
                known = ", ".join(LANGUAGES)
                raise _problem(
                    f"Invalid 'antiphon_preset': the model does not know this '{name}'. Send one of: {known}."
                )
        return self

    @property
    def asked(self) -> AskedPreset:
        return AskedPreset(self.name, self.language, self.to_language or "en")


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{problem}", {"problem": text})


def _preset_object(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


PresetField = Annotated[PresetFields, BeforeValidator(_preset_object, json_schema_input_type=PresetFields | PresetName)]
PRESET_DESCRIPTION = "an extension: a named prompt of GET /v1/presets, or an object with its parameters"
