"""Speech at another pace: its length is exact, its pitch stays, and portions change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from services.gateway.audio.tempo import Tempo

RATE = 24_000
HERTZ = 220.0


def tone(seconds: float) -> bytes:
    t = np.arange(round(seconds * RATE)) / RATE
    loudness = np.clip(np.sin(2 * np.pi * 1.3 * t) + 0.3, 0, None)
    return (8000 * np.sin(2 * np.pi * HERTZ * t) * loudness).astype("<i2").tobytes()


def changed(pcm: bytes, speed: float, portion: int = 3840) -> bytes:
    tempo = Tempo(speed, RATE)
    parts = [tempo.add(pcm[at : at + portion]) for at in range(0, len(pcm), portion)]
    return b"".join((*parts, tempo.finish()))


@pytest.mark.parametrize("speed", [0.25, 0.3, 0.5, 0.8, 1.25, 2.0, 4.0])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.0569, 1.0, 4.0])
def test_the_length_is_exact(speed: float, seconds: float) -> None:
    pcm = tone(seconds)
    assert len(changed(pcm, speed)) // 2 == round(len(pcm) // 2 / speed)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.25, 2.0, 4.0])
def test_the_pitch_and_the_course_of_the_loudness_stay(speed: float) -> None:
    pcm = tone(4.0)
    samples = np.frombuffer(changed(pcm, speed), "<i2").astype(float)
    pitch = np.argmax(np.abs(np.fft.rfft(samples))) * RATE / len(samples)
    assert abs(pitch - HERTZ) < 3

    def loudness(sound: np.ndarray) -> np.ndarray:
        return np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(sound, 40)])

    wanted = loudness(np.frombuffer(pcm, "<i2").astype(float))
    assert np.corrcoef(loudness(samples), wanted)[0, 1] > 0.95


def test_portions_change_nothing() -> None:
    pcm = tone(1.0)
    assert changed(pcm, 1.5, 3840) == changed(pcm, 1.5, 2730) == changed(pcm, 1.5, 10**6)


def test_speech_comes_before_it_is_whole() -> None:
    tempo, pcm = Tempo(1.5, RATE), tone(1.0)
    assert len(tempo.add(pcm[: len(pcm) // 2])) > 0
