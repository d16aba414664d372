"""Audio of clients becomes samples and back, as it comes."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.realtime.audio.formats import AudioFormat, AudioReader, AudioWriter
from services.gateway.realtime.audio.g711 import Law, decoded, encoded
from services.gateway.realtime.conversation import SAMPLE_RATE

LAWS: list[tuple[Law, str]] = [("pcmu", "pcm_mulaw"), ("pcma", "pcm_alaw")]
G711 = [AudioFormat.PCMU, AudioFormat.PCMA]
OTHER_RATES = [AudioFormat.PCM_8K, AudioFormat.PCM_16K, AudioFormat.PCM_48K]


def ffmpeg_decoded(data: bytes, codec: str) -> np.ndarray:
    context: Any = av.CodecContext.create(codec, "r")
    context.sample_rate, context.layout = 8000, "mono"
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in context.decode(av.Packet(data))])


@pytest.mark.parametrize(("law", "codec"), LAWS)
def test_every_byte_stands_for_the_sample_that_ffmpeg_says(law: Law, codec: str) -> None:
    every = bytes(range(256))
    assert decoded(every, law).tolist() == ffmpeg_decoded(every, codec).tolist()


@pytest.mark.parametrize(("law", "codec"), LAWS)
def test_every_sample_becomes_the_nearest_byte(law: Law, codec: str) -> None:
    samples = np.arange(-32768, 32768).astype(np.int16)
    made = decoded(encoded(samples, law), law).astype(int)
    known = np.sort(decoded(bytes(range(256)), law).astype(int))
    nearest = np.abs(samples.astype(int)[:, None] - known[None, :]).min(axis=1)
    assert np.array_equal(np.abs(made - samples), nearest)
    assert encoded(known.astype(np.int16), law)  # each is its own nearest
    assert np.array_equal(decoded(encoded(known.astype(np.int16), law), law), known)


def tone(hz: int, ms: int = 500) -> bytes:
    t = np.arange(SAMPLE_RATE * ms // 1000) / SAMPLE_RATE
    return (np.sin(2 * np.pi * hz * t) * 10_000).astype("<i2").tobytes()


@pytest.mark.parametrize("audio_format", [*G711, *OTHER_RATES])
@pytest.mark.parametrize("hz", [200, 1000, 3000])
def test_a_tone_comes_back(audio_format: AudioFormat, hz: int) -> None:
    sent = tone(hz)
    narrow = AudioWriter(audio_format).write(sent)
    assert len(narrow) == len(sent) * audio_format.rate // SAMPLE_RATE // (1 if audio_format.is_pcm else 2)
    assert AudioReader(audio_format).growth * len(narrow) == len(sent)
    back = np.frombuffer(AudioReader(audio_format).read(bytes(narrow)), "<i2").astype(float)
    assert len(back) == len(sent) // 2
    middle = back[2400:-2400]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    loudest = int(np.argmax(spectrum))
    assert loudest * SAMPLE_RATE / len(middle) == pytest.approx(hz, abs=5)
    around = slice(max(loudest - 5, 0), loudest + 6)
    assert np.sum(spectrum[around] ** 2) > 0.99 * np.sum(spectrum**2)
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("audio_format", AudioFormat)
@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 900), max_size=20))
def test_the_pieces_make_no_difference(audio_format: AudioFormat, sizes: list[int]) -> None:
    sent = tone(440, ms=200)
    writer, reader, at = AudioWriter(audio_format), AudioReader(audio_format), 0
    narrow = b""
    for size in [*sizes, len(sent)]:
        narrow += writer.write(sent[at : at + 2 * size])
        at += 2 * size
    assert np.abs(_decoded(narrow, audio_format) - _decoded(AudioWriter(audio_format).write(sent), audio_format)).max(
        initial=0
    ) <= (1 if audio_format.is_pcm else 600)
    at, back = 0, b""
    for size in [*sizes, len(narrow)]:
        size *= 2 if audio_format.is_pcm else 1
        back += reader.read(narrow[at : at + size])
        at += size
    whole = np.frombuffer(AudioReader(audio_format).read(narrow), "<i2").astype(int)
    assert np.abs(np.frombuffer(back, "<i2").astype(int) - whole).max(initial=0) <= 1


def _decoded(data: bytes | memoryview, audio_format: AudioFormat) -> np.ndarray:
    if audio_format.is_pcm:
        return np.frombuffer(data, "<i2").astype(int)
    return decoded(bytes(data), "pcmu" if audio_format is AudioFormat.PCMU else "pcma").astype(int)
