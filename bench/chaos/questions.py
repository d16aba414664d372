"""The mix of the load: text, speech and media, over HTTP and gRPC, streamed and whole, greedy and seeded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tests.parity.cases import HELLO, SYSTEM, Case, assistant, user
from tests.parity.media import Film, Picture, Sound


@dataclass(frozen=True)
class Question:
    """A case, and how it is asked. Converse, the gRPC call, always streams. `ignore_eos`: over HTTP only, the text goes
    on to its `max_tokens`."""

    case: Case
    over: Literal["http", "grpc"]
    streamed: bool = True
    ignore_eos: bool = False

    @property
    def name(self) -> str:
        return f"{self.case.name}, {self.over}, {'streamed' if self.streamed else 'whole'}"


SOUND, LONG_SOUND = Sound(1.7), Sound(6.1, 330.0, 1)
PICTURE, WIDE_PICTURE = Picture(), Picture(448, 224, 3)
FILM = Film(frames=8, seed=3)
TALKING_FILM = Film(frames=8, seed=9, sound=Sound(4.0, 260.0, 8))
GO_ON = (SYSTEM, HELLO, assistant("Hello, world. One, two, three."), user("Go on."))

# Long enough to be cut in the middle, short enough that many end between two losses.
_TEXT = Case("text", (SYSTEM, HELLO), voice="", max_tokens=400)
_SPEECH = Case("speech", (SYSTEM, user("List all the planets.")), max_tokens=160, max_frames=100, talker_seed=5)
_SEEDED = Case("", (SYSTEM, HELLO), temperature=1.0, top_k=40, top_p=0.95, seed=11)
_SEEDED_TEXT = replace(_SEEDED, name="seeded text", voice="", max_tokens=400)
_SEEDED_SPEECH = replace(_SEEDED, name="seeded speech", voice="Chelsie", max_tokens=120, max_frames=80, talker_seed=7)
_GREEDY_SPEECH = replace(_SPEECH, name="greedy speech", voice="Aiden", talker_sampled=False, max_frames=60)

QUESTIONS = (
    Question(_TEXT, "http"),
    Question(replace(_TEXT, name="text of a conversation", turns=GO_ON, max_tokens=250), "grpc"),
    Question(_SEEDED_TEXT, "http"),
    Question(_SEEDED_TEXT, "http", streamed=False),
    Question(replace(_SEEDED_TEXT, seed=12, temperature=0.7), "grpc"),
    Question(_SPEECH, "http"),
    Question(_SPEECH, "http", streamed=False),
    Question(_SEEDED_SPEECH, "grpc"),
    Question(_SEEDED_SPEECH, "http"),
    Question(_GREEDY_SPEECH, "grpc"),
    Question(replace(_TEXT, name="picture", turns=(SYSTEM, user(PICTURE, "Describe it."))), "http"),
    Question(replace(_SPEECH, name="sound", turns=(SYSTEM, user(SOUND, "What do you hear?"))), "http"),
    Question(replace(_SPEECH, name="long sound", turns=(SYSTEM, user(LONG_SOUND, "And?"))), "grpc"),
    Question(
        replace(_SEEDED_SPEECH, name="picture and sound", turns=(user(WIDE_PICTURE, SOUND, "Compare them."),)),
        "http",
        streamed=False,
    ),
    Question(replace(_SEEDED_TEXT, name="film", turns=(SYSTEM, user(FILM, "What happens?")), max_tokens=250), "http"),
    Question(
        replace(
            _SPEECH, name="talking film", turns=(SYSTEM, user(TALKING_FILM, "What is said?")), use_audio_in_video=True
        ),
        "grpc",
    ),
)
