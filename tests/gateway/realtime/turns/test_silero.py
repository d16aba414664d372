"""The detector knows speech from what is none, however its audio comes."""

from __future__ import annotations

import hashlib
import mmap
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.realtime.audio.resample import Resampler
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.turns.endpointer import HOP_BYTES, HOP_SAMPLES, Endpointer, SpeechStarted, SpeechStopped
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.realtime.turns.silero import model as silero
from services.gateway.realtime.turns.silero.model import SileroModel, SpeechDetector
from tests.gateway.realtime.sounds import cough, hum, ms_of, noise, said, silence


@cache
def model() -> SileroModel:
    return SileroModel()


def test_its_library_cannot_send_telemetry() -> None:
    """From 1.29 on, its builds for Linux can: they keep a session file in the temporary folder and call their maker."""
    libraries = list(Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so"))
    assert libraries
    for library in libraries:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            assert code.find(b"events.data.microsoft.com") == -1


def probabilities(pcm: bytes) -> list[float]:
    return SpeechDetector().hear(model(), pcm)


def turns(pcm: bytes, options: TurnDetection = TurnDetection()) -> list[tuple[int, int]]:  # noqa: B008  # frozen
    """Return where turns begin and end, ms."""
    endpointer, started, found = Endpointer(options), 0, list[tuple[int, int]]()
    for probability in probabilities(pcm):
        match endpointer.feed(probability):
            case SpeechStarted(hop):
                started = hop * 32
            case SpeechStopped(hop):
                found.append((started, hop * 32))
            case _:
                pass
    assert not endpointer.is_speaking
    return found


def test_a_word_is_heard_after_speech_and_a_long_silence() -> None:
    before = said("confbridge-dec-list-vol-out") + silence(7000)
    sound = np.frombuffer(before + said("digits/4") + silence(600), "<i2")
    hiss = np.frombuffer(noise(ms_of(sound.tobytes()) + 1, 0.005), "<i2")[: len(sound)]
    pcm = np.clip(sound.astype(np.int32) + hiss, -32768, 32767).astype("<i2").tobytes()
    (_, (start, end)) = turns(pcm)
    assert ms_of(before) - 64 <= start
    assert end - start > 300 + 500


def test_the_network_is_the_file_that_its_readme_names() -> None:
    folder = Path(silero.__file__).parent
    digest = hashlib.sha256((folder / "silero_vad_16k_sequence.onnx").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["tt-weasels", "hello", "vm-no", "auth-thankyou", "dir-welcome"])
def test_a_recorded_voice_is_one_turn(name: str) -> None:
    """These prompts are said in one breath. Debian's recordings begin and end within some hops of the voice."""
    voice = said(name)
    ((start, end),) = turns(silence(1000) + voice + silence(1500))
    assert 900 <= start <= 1000 + 200
    assert 1000 + ms_of(voice) * 0.6 <= end - 500 <= 1000 + ms_of(voice) + 150


def test_a_voice_is_heard_in_noise() -> None:
    voice = np.frombuffer(silence(1000) + said("tt-weasels") + silence(1500), "<i2")
    background = np.frombuffer(noise(ms_of(voice.tobytes()) + 1, 0.005), "<i2")[: len(voice)]
    ((start, _),) = turns((voice + background).tobytes())
    assert 900 <= start <= 1200


@pytest.mark.parametrize(
    "sound", [silence(3000), noise(3000), noise(3000, 0.2), hum(3000), silence(500) + b"\xff\x7f" * 48 + silence(1500)]
)
def test_what_is_no_voice_is_no_turn(sound: bytes) -> None:
    assert not turns(sound + silence(1000))


def test_a_cough_is_shorter_than_what_interrupts() -> None:
    for seed in range(5):
        voiced = [p for p in probabilities(silence(500) + cough(seed) + silence(500)) if p >= 0.5]
        assert len(voiced) * 32 < 300


def test_longer_silence_joins_what_shorter_silence_parts() -> None:
    both = silence(500) + said("hello") + silence(800) + said("tt-weasels") + silence(2000)
    assert len(turns(both)) == 2
    assert len(turns(both, TurnDetection(silence_duration_ms=1500))) == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5 * HOP_BYTES), min_size=1, max_size=40))
def test_equal_audio_has_equal_probabilities_whatever_the_pieces(sizes: list[int]) -> None:
    pcm = noise(700, 0.05) + hum(500) + cough() + silence(200)
    whole = probabilities(pcm)
    detector, at, heard = SpeechDetector(), 0, list[float]()
    for size in [2 * (size // 2) for size in sizes] + [len(pcm)]:
        piece = pcm[at : at + size]
        at += size
        if detector.hops(len(piece)):
            heard += detector.hear(model(), piece)
        else:
            detector.keep(piece)
    assert heard == whole
    assert len(whole) == len(pcm) // HOP_BYTES


def tone(hz: int) -> np.ndarray:
    t = np.arange(20 * HOP_SAMPLES) / SAMPLE_RATE
    return np.sin(2 * np.pi * hz * t).astype(np.float32)


@pytest.mark.parametrize(("hz", "gain"), [(100, 1), (1000, 1), (4000, 1), (6000, 1), (9500, 0), (11_500, 0)])
def test_the_resampler_passes_what_16_khz_can_hold(hz: int, gain: int) -> None:
    made = Resampler(SAMPLE_RATE, 16_000)(tone(hz))
    assert len(made) == 20 * 512
    assert np.sqrt(2 * np.mean(made[512:] ** 2)) == pytest.approx(gain, abs=0.02)
    if gain:
        spectrum = np.abs(np.fft.rfft(made[512:] * np.hanning(len(made) - 512)))
        assert np.argmax(spectrum) * 16_000 / (len(made) - 512) == pytest.approx(hz, abs=3)


def test_the_resampler_has_no_seams() -> None:
    resampler, samples = Resampler(SAMPLE_RATE, 16_000), tone(1000)
    parts = [resampler(hop) for hop in samples.reshape(-1, HOP_SAMPLES)]
    assert np.allclose(np.concatenate(parts), Resampler(SAMPLE_RATE, 16_000)(samples), atol=1e-6)
