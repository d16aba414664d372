"""What the demo asks: of the small world, several conversations; of any other model, one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.local.checkpoint import Kind
from services.local.demo.media import (
    Medium,
    drawn_film,
    drawn_picture,
    made_siren,
    photograph,
    recording,
    said_by_a_person,
    spoken,
)


@dataclass(frozen=True)
class Question:
    """One turn of the user: media, then text. Each may be missing. truth: the right answer, where it is known."""

    media: tuple[Medium, ...] = ()
    text: str = ""
    truth: str = ""

    @property
    def message(self) -> dict[str, Any]:
        text = [{"type": "text", "text": self.text}] if self.text else []
        return {"role": "user", "content": [*(medium.part for medium in self.media), *text]}

    @property
    def has_film(self) -> bool:
        return any(medium.kind == "video" for medium in self.media)

    def lines(self) -> list[str]:
        """Say what goes in."""
        does = {"image": "It sees   ", "audio": "It hears  ", "video": "It watches "}
        told = [does[medium.kind] + medium.description for medium in self.media]
        return [*told, *([f"It reads  {self.text}"] if self.text else [])]


Conversation = Sequence[Question]


def small_world(kind: Kind, cache_dir: Path) -> list[Conversation]:
    """Return what the trained checkpoint of a kind can answer."""
    if kind is Kind.CAPTIONER:
        return [[Question((made_siren(),), truth="I hear a siren.")]]
    seen = "I see two red circles and a blue star."
    asked = spoken("what is seven times six?", "question.wav")
    number = said_by_a_person(("digits/70",), "seventy", cache_dir, "number.wav")
    return [
        [Question((drawn_picture(),), "What do you see?", seen)],
        [Question((asked,), truth="Seven times six is forty two.")],
        [
            Question((number,), truth="You said seventy."),
            Question(text="What did I say before?", truth="You said seventy."),
        ],
        [
            Question(
                (drawn_film(),),
                "What do you see and hear?",
                "I see a red circle that moves right and I hear a siren.",
            )
        ],
    ]


def any_world(*, hears_only: bool, cache_dir: Path) -> list[Conversation]:
    """Return a question about real media. Raise DemoFailedError."""
    heard = recording(cache_dir)
    if hears_only:
        return [[Question((heard,))]]
    return [[Question((photograph(), heard), "What can you see and hear? Answer in one short sentence.")]]
