"""What one speaker's microphone records, from the first sample to the last: it does not depend on the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.conversation.voices import back_channels, sentences, voice, words
from services.gateway.realtime.conversation import SAMPLE_RATE

ANSWER_MS = 5000
"""How long an answer plays."""
_REPLY_MS = 1200
"""After so much silence an answer is sure to be heard, and no longer than this and ANSWER_MS after it is over."""
_REST_MS = 800
_BARGE_AFTER_MS = (300, 1400)
_BACK_AFTER_MS, _BACKS = (200, 1200), 2

Kind = Literal["turn", "word", "barge", "back"]
_EXCHANGES: tuple[tuple[Kind, float], ...] = (("turn", 0.2), ("word", 0.2), ("barge", 0.3), ("back", 0.3))


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sound of the speaker. `turn`, `word` (a turn of one word) and `barge` (a turn that interrupts an answer) want
    an answer, `back` is a sound while one is heard that wants none. Positions are samples of the timeline."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Timeline:
    pcm: bytes
    utterances: Sequence[Utterance]


class _Tape:
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.utterances: list[Utterance] = []
        self.samples = 0

    def rest(self, ms: float) -> None:
        self._add(bytes(2 * round(ms * SAMPLE_RATE / 1000)))

    def say(self, kind: Kind, pcm: bytes) -> None:
        start = self.samples
        self._add(pcm)
        self.utterances.append(Utterance(kind, start, self.samples))

    def _add(self, pcm: bytes) -> None:
        self._parts.append(pcm)
        self.samples += len(pcm) // 2

    def with_noise(self, chance: np.random.Generator, level: float) -> bytes:
        """Return all of it with white noise. `level`: its root mean square of the full scale."""
        clean = np.frombuffer(b"".join(self._parts), "<i2")
        noisy = clean + chance.normal(0, level * 32768, len(clean))
        return np.clip(noisy, -32768, 32767).astype("<i2").tobytes()


def timeline(number: int, seed: int, seconds: float, noise: float, back_channel_ms: int) -> Timeline:
    """Return a speaker's timeline: exchanges that begin within `seconds`. It depends on nothing but the arguments."""
    chance = np.random.default_rng((seed, number))
    tape = _Tape()
    tape.rest(chance.uniform(500, 500 + _REPLY_MS + ANSWER_MS))  # speakers do not begin together
    weights = [weight for _, weight in _EXCHANGES]
    while tape.samples < seconds * SAMPLE_RATE:
        kind, _ = _EXCHANGES[int(chance.choice(len(_EXCHANGES), p=weights))]
        _exchange(tape, kind, chance, back_channel_ms)
    return Timeline(tape.with_noise(chance, noise), tape.utterances)


def _exchange(tape: _Tape, kind: Kind, chance: np.random.Generator, back_channel_ms: int) -> None:
    names = words() if kind == "word" else sentences()
    tape.say("word" if kind == "word" else "turn", voice(str(chance.choice(names))))
    silence_ms = float(_REPLY_MS + ANSWER_MS + _REST_MS)
    if kind == "barge":
        tape.rest(_REPLY_MS + chance.uniform(*_BARGE_AFTER_MS))
        tape.say("barge", voice(str(chance.choice(sentences()))))
    elif kind == "back":
        sounds = back_channels(back_channel_ms)
        tape.rest(_REPLY_MS)
        silence_ms -= _REPLY_MS
        for _ in range(_BACKS):
            before_ms, sound = chance.uniform(*_BACK_AFTER_MS), sounds[int(chance.integers(len(sounds)))]
            tape.rest(before_ms)
            tape.say("back", sound)
            silence_ms -= before_ms + len(sound) * 500 / SAMPLE_RATE
    tape.rest(silence_ms)
