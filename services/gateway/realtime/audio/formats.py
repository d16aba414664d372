"""The formats of a client's audio, to and from the session's own: 24 kHz, mono, 16 bits signed, little-endian."""

from __future__ import annotations

from enum import Enum

import numpy as np

from services.gateway.realtime.audio.g711 import Law, decoded, encoded
from services.gateway.realtime.audio.resample import Resampler, Samples
from services.gateway.realtime.conversation import SAMPLE_RATE

_G711_HZ = 8000


class AudioFormat(Enum):
    PCM = "pcm"
    """The session's own."""
    PCMU = "pcmu"
    """G.711, mu-law."""
    PCMA = "pcma"
    """G.711, A-law."""


_LAWS: dict[AudioFormat, Law] = {AudioFormat.PCMU: "pcmu", AudioFormat.PCMA: "pcma"}


class AudioReader:
    """Makes samples of a client's audio, as it comes."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self._resampler = Resampler(_G711_HZ, SAMPLE_RATE)

    @property
    def growth(self) -> int:
        """Bytes of samples for each byte of the client's."""
        return 1 if self.format is AudioFormat.PCM else 2 * SAMPLE_RATE // _G711_HZ

    def read(self, data: bytes | bytearray) -> bytes | bytearray:
        law = _LAWS.get(self.format)
        if law is None:
            return data
        return _pcm(self._resampler(decoded(data, law).astype(np.float32)))


class AudioWriter:
    """Makes a client's audio of samples, as they come."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._law: Law | None = _LAWS.get(audio_format)
        self._resampler = Resampler(SAMPLE_RATE, _G711_HZ)
        self._rest = b""

    def write(self, pcm: bytes | memoryview) -> bytes | memoryview:
        """Return what these samples make; up to two of them wait for the next ones."""
        law = self._law
        if law is None:
            return pcm
        known = self._rest + pcm
        whole = len(known) // (2 * self._resampler.group) * self._resampler.group
        self._rest = known[2 * whole :]
        samples = np.frombuffer(known, "<i2", whole).astype(np.float32)
        return encoded(_clipped(self._resampler(samples)), law)


def _clipped(samples: Samples) -> np.ndarray:
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def _pcm(samples: Samples) -> bytes:
    return _clipped(samples).astype("<i2").tobytes()
