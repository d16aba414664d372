"""The times of one answer's events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Timeline:
    """Events in seconds since the request was sent. The clock starts when the object is created."""

    began_s: float = field(default_factory=time.perf_counter)
    tokens: list[float] = field(default_factory=list[float])
    frames: list[float] = field(default_factory=list[float])

    def add(self, *, tokens: int = 0, frames: int = 0) -> None:
        now_s = time.perf_counter() - self.began_s
        self.tokens += [now_s] * tokens
        self.frames += [now_s] * frames


@dataclass(frozen=True)
class Figures:
    """Medians over answers in ms, total rates per second, and the CPU time of all processes."""

    first_text_ms: float
    first_audio_ms: float
    tokens_per_s: float
    frames_per_s: float
    cpu_ms_per_answer: float

    @classmethod
    def of(cls, timelines: list[Timeline], wall_s: float, cpu_s: float) -> Figures:
        return cls(
            first_text_ms=1000 * median(t.tokens[0] for t in timelines),
            first_audio_ms=1000 * median(t.frames[0] for t in timelines if t.frames),
            tokens_per_s=sum(len(t.tokens) for t in timelines) / wall_s,
            frames_per_s=sum(len(t.frames) for t in timelines) / wall_s,
            cpu_ms_per_answer=1000 * cpu_s / len(timelines),
        )
