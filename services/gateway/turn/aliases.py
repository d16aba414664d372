"""Names of other servers' models and voices, and what they stand for here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.gateway.turn.intent import Intent
from services.gateway.turn.model import Model, ModelKind

# Before a kind of model in the place of a name: the only model of this kind that who asks may use.
_KIND = "kind:"


@dataclass(frozen=True, slots=True)
class Aliases:
    """Alias, in lower case → the model's name or `kind:captioner`; → the voice. A model's own voice is no alias."""

    models: Mapping[str, str] = field(default_factory=dict[str, str])
    voices: Mapping[str, str] = field(default_factory=dict[str, str])

    def model(self, name: str) -> str:
        """Return what a name stands for: itself where it is no alias."""
        return self.models.get(name.lower(), name)

    def voice(self, name: str, model: Model) -> str:
        """Return the model's voice that a name stands for: the name itself where there is none."""
        return name if name.lower() in model.voices else self.voices.get(name.lower(), name)

    def applied(self, intent: Intent, model: Model) -> Intent:
        """Return the intent with the model's own voice."""
        if intent.speech is None or not intent.speech.voice:
            return intent
        return replace(intent, speech=replace(intent.speech, voice=self.voice(intent.speech.voice, model)))


def kind_of(target: str) -> ModelKind | None:
    """Return the kind of model that an alias stands for; None = it stands for a name. Raise ValueError where there is
    no such kind."""
    if not target.startswith(_KIND):
        return None
    try:
        return ModelKind(target.removeprefix(_KIND))
    except ValueError:
        kinds = ", ".join(_KIND + kind.value for kind in ModelKind)
        raise ValueError(f"{target[:100]!r} is no kind of model: give {kinds}, or a name") from None
