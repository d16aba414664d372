"""What who asks may use of what is served. A key learns nothing of the rest: not even whether it exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.common.errors import Forbidden
from services.gateway.turn.intent import Intent
from services.gateway.turn.model import Model


@dataclass(frozen=True, slots=True)
class Allowed:
    """None = all that are served. Voices are in lower case."""

    models: frozenset[str] | None = None
    voices: frozenset[str] | None = None

    def of_model(self, name: str) -> Allowed:
        """Return what is left of it where only this model may be used."""
        return replace(self, models=frozenset({name}) if self.models is None else self.models & {name})

    def check_model(self, name: str, *, shown: str = "") -> None:
        """Raise Forbidden where the model is none of these, whether it is served or not. `shown`: what the client calls
        it, where that is another name."""
        if self.models is not None and name not in self.models:
            raise Forbidden(
                f"This API key may not use the model '{(shown or name)[:200]}'. It may use: {_listed(self.models)}.",
                param="model",
                code="model_not_allowed",
            )

    def check_voice(self, intent: Intent, model: Model, *, shown: str = "") -> None:
        """Raise Forbidden where the answer's voice is none of these, whether the model has it or not. `shown`: what the
        client calls it."""
        if intent.speech is None or self.voices is None:
            return
        voice = (intent.speech.voice or model.default_voice).lower()
        if voice not in self.voices:
            raise Forbidden(
                f"This API key may not use the voice '{(shown or voice)[:100]}'. It may use: {_listed(self.voices)}.",
                param=intent.names.voice,
                code="voice_not_allowed",
            )

    def models_of(self, served: Mapping[str, Model]) -> Mapping[str, Model]:
        """Return those of the models that may be used."""
        if self.models is None:
            return served
        return {name: model for name, model in served.items() if name in self.models}

    def voices_of(self, model: Model) -> Model:
        """Return the model with those of its voices that may be used. Without its default voice, it has none."""
        if self.voices is None:
            return model
        voices = tuple(voice for voice in model.voices if voice in self.voices)
        return replace(model, voices=voices, default_voice=model.default_voice if model.default_voice in voices else "")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
