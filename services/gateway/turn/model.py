"""A model that is served: its card, and the stages that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from services.common.stages import PREPROCESS, TALKER, THINKER


class ModelKind(Enum):
    INSTRUCT = "instruct"
    """Text and speech out."""
    THINKING = "thinking"
    """Text out, which begins with a chain of thought."""
    CAPTIONER = "captioner"
    """Text out; takes one audio and no text."""


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    # None = its workers do not say.
    kind: ModelKind | None
    # The longest prompt plus answer, thinker tokens.
    max_model_len: int
    # Lower-case names.
    voices: tuple[str, ...] = ()
    default_voice: str = ""
    # Of the speech, Hz.
    sample_rate: int = 0
    created_unix_s: int = 0
    # Modality → most media items a prompt; None = no limit.
    max_items: Mapping[str, int] | None = None
    # Those of services/common/input_limits.py by name; None = its workers do not say.
    input_limits: Mapping[str, float] | None = None
    # Its thinkers take a short text as messages.
    renders_messages: bool = False
    # Its thinkers give answers a structure, and log probabilities.
    structures_answers: bool = False
    # The token that begins a call of a tool; None = the model calls none.
    tool_call_token_id: int | None = None
    # Stages with a live worker, and those without one that are started on demand.
    stages: frozenset[str] = frozenset()
    asleep: frozenset[str] = frozenset()
    # Stages whose last worker was lost a moment ago: requests wait for the next one.
    expected: frozenset[str] = frozenset()

    @property
    def speaks(self) -> bool:
        return self.kind is ModelKind.INSTRUCT and bool(self.voices)

    @property
    def is_whole(self) -> bool:
        """Whether each stage of this kind of model has a live worker, or will have one soon."""
        return not self.missing_stages(speech=self.speaks)

    def missing_stages(self, *, speech: bool, said: bool = False) -> frozenset[str]:
        """Return the needed stages that have no live worker, cannot be started on demand and are not expected."""
        return needed_stages(speech=speech, said=said) - self.stages - self.asleep - self.expected


def needed_stages(*, speech: bool, said: bool = False) -> frozenset[str]:
    """Return the stages of a turn. `said`: its answer is given, so that no thinker is needed."""
    makers = {TALKER} if said else {THINKER, TALKER} if speech else {THINKER}
    return frozenset({PREPROCESS, *makers})
