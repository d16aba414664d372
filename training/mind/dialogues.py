"""Dialogues by a seed: turns of typed words, speech, pictures, films and recordings, and the answers to be learned."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from training.mind import questions
from training.mind.questions import Asked, typed
from training.world.facts import Scene
from training.world.sentences import is_held_out, may_be_held_out, scene_answer


@dataclass(frozen=True)
class Media:
    """A medium in a turn. kind: "speech", "sound", "picture" or "film"; `key` is how its source finds it again."""

    kind: str
    key: str
    scene: Scene = field(default_factory=Scene)


class Source(Protocol):
    """Where media come from: a bank of ready ones, or drawn anew."""

    def speech(self, text: str, rng: random.Random) -> Media | None:
        """Speech with these words; None where there is none."""
        ...

    def picture(self, rng: random.Random) -> Media: ...

    def recording(self, rng: random.Random) -> Media: ...

    def film(self, rng: random.Random, *, has_sound: bool) -> Media: ...


@dataclass(frozen=True)
class Turn:
    """One turn of the user: parts in their order, and the answer to it.

    cut: what the conversation keeps of an answer that the user interrupted; "" where all of it was said.
    """

    parts: tuple[str | Media, ...]
    answer: str
    cut: str = ""


@dataclass(frozen=True)
class Dialogue:
    """The last turn is of `kind`. `thought`: what Thinking thinks before its last answer."""

    turns: tuple[Turn, ...]
    kind: str
    thought: str
    system: str = ""

    @property
    def media(self) -> list[Media]:
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Media)]


class Impossible(Exception):
    """The source has no speech for what was drawn; another draw may do."""


SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Please answer in English.",
    "You hear and see a small world.",
    "Be kind.",
)
SPOKEN_SHARE = 0.5


def draw_dialogue(source: Source, rng: random.Random, *, held_out: bool = False) -> Dialogue:
    """Draw a dialogue. In training no answer is held out. In evaluation the last one is, if its kind has such ones."""
    while True:
        try:
            drawn = rng.choice(_KINDS)(source, rng)
        except Impossible:
            continue
        withheld = [is_held_out(turn.answer) for turn in drawn.turns]
        is_never = not may_be_held_out(drawn.turns[-1].answer)
        fits = (withheld[-1] or is_never) and not any(withheld[:-1]) if held_out else not any(withheld)
        if fits:
            return _with_system(drawn, rng)


def draw_caption(source: Source, rng: random.Random) -> Dialogue:
    """One recording or speech alone, and a description of it: what a Captioner does."""
    while True:
        if rng.random() < 0.6:
            medium = source.recording(rng)
            answer, kind = scene_answer(medium.scene), "caption of a sound"
        else:
            said = rng.choice((questions.ask_sum, questions.ask_number, questions.ask_greeting))(rng).text
            spoken = source.speech(said, rng)
            if spoken is None:
                continue
            medium, answer, kind = spoken, "I hear speech.", "caption of speech"
        if not is_held_out(answer):
            return Dialogue((Turn((medium,), answer),), kind, "")


def _put(asked: Asked, source: Source, rng: random.Random, spoken: float = SPOKEN_SHARE) -> str | Media:
    """Say or type a question."""
    if rng.random() >= spoken:
        return typed(asked.text, rng)
    medium = source.speech(asked.text, rng)
    if medium is None:
        raise Impossible
    return medium


def _alone(ask: Callable[[random.Random], Asked], spoken: float) -> Callable[[Source, random.Random], Dialogue]:
    def draw(source: Source, rng: random.Random) -> Dialogue:
        asked = ask(rng)
        return _dialogue(Turn((_put(asked, source, rng, spoken),), asked.answer), asked)

    return draw


def _about(pick: Callable[[Source, random.Random], Media]) -> Callable[[Source, random.Random], Dialogue]:
    def draw(source: Source, rng: random.Random) -> Dialogue:
        medium = pick(source, rng)
        may_speak = not (medium.kind == "film" and medium.scene.sounds)  # there all sounds count as films' own
        asked = questions.ask_about(medium.scene, rng)
        question = _put(asked, source, rng, SPOKEN_SHARE if may_speak else 0.0)
        parts = (medium, question) if rng.random() < 0.75 or not may_speak else (question, medium)
        return _dialogue(Turn(parts, asked.answer), asked)

    return draw


def _sound_alone(source: Source, rng: random.Random) -> Dialogue:
    medium = source.recording(rng)
    asked = questions.ask_scene(medium.scene, rng)
    return _dialogue(Turn((medium,), asked.answer), asked)


def _picture_and_sound(source: Source, rng: random.Random) -> Dialogue:
    picture, sound = source.picture(rng), source.recording(rng)
    both = Scene(picture.scene.groups, sound.scene.sounds)
    asked = questions.ask_scene(both, rng)
    parts = [picture, sound]
    rng.shuffle(parts)
    question = "what do you see and hear?"
    asked = Asked(question, asked.answer, asked.thought, "picture and sound")
    return _dialogue(Turn((*parts, _put(asked, source, rng, 0.3)), asked.answer), asked)


def _follow_up(source: Source, rng: random.Random) -> Dialogue:
    """Two or three turns: each about the same picture or recording, or by itself, or about what was said before."""
    turns: list[Turn] = []
    said: list[str] = []
    scene: Scene | None = None
    asked = questions.ask_greeting(rng)
    count = rng.choice((2, 2, 3))
    for index in range(count):
        is_last = index == count - 1
        roll = rng.random()
        if said and (roll < 0.45 if is_last else roll < 0.1):
            asked = questions.ask_memory(said, rng)
            parts: tuple[str | Media, ...] = (_put(asked, source, rng),)
        elif scene is not None and roll < 0.8:
            asked = questions.ask_about(scene, rng)
            parts = (_put(asked, source, rng),)
        elif scene is None and roll < 0.55:
            medium = source.picture(rng) if rng.random() < 0.7 else source.recording(rng)
            scene = medium.scene
            asked = questions.ask_about(scene, rng)
            parts = (medium, _put(asked, source, rng))
        else:
            asked = rng.choice((questions.ask_sum, questions.ask_number, questions.ask_greeting))(rng)
            parts = (_put(asked, source, rng),)
        said.append(asked.text)
        turns.append(Turn(parts, asked.answer, "" if is_last else _cut(asked.answer, rng)))
    kind = asked.kind if asked.kind == "memory" else f"{asked.kind}, later turn"
    return Dialogue(tuple(turns), kind, asked.thought)


def _cut(answer: str, rng: random.Random) -> str:
    """Cut an answer short between its words, now and then: who speaks over it hears no more of it."""
    words = answer.split()
    return " ".join(words[: rng.randrange(1, len(words))]) if len(words) > 1 and rng.random() < 0.15 else ""


def _dialogue(turn: Turn, asked: Asked) -> Dialogue:
    is_spoken = any(isinstance(part, Media) and part.kind == "speech" for part in turn.parts)
    return Dialogue((turn,), f"{asked.kind}, spoken" if is_spoken else asked.kind, asked.thought)


def _with_system(drawn: Dialogue, rng: random.Random) -> Dialogue:
    if rng.random() > 0.12:
        return drawn
    return Dialogue(drawn.turns, drawn.kind, drawn.thought, rng.choice(SYSTEMS))


_KINDS: tuple[Callable[[Source, random.Random], Dialogue], ...] = (
    *[_alone(questions.ask_sum, 0.55)] * 5,
    *[_alone(questions.ask_number, 0.7)] * 2,
    _alone(questions.ask_greeting, 0.6),
    _alone(questions.ask_unknown, 0.4),
    _alone(questions.ask_without_scene, 0.4),
    *[_about(lambda source, rng: source.picture(rng))] * 12,
    *[_about(lambda source, rng: source.recording(rng))] * 4,
    _sound_alone,
    _about(lambda source, rng: source.film(rng, has_sound=False)),
    _about(lambda source, rng: source.film(rng, has_sound=True)),
    _picture_and_sound,
    *[_follow_up] * 6,
)
