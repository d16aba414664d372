"""The formats of a client's audio, to and from the session's own: 24 kHz, mono, 16 bits signed, little-endian."""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from services.gateway.realtime.audio.g711 import Law, decoded, encoded
from services.gateway.realtime.audio.resample import Resampler, Samples
from services.gateway.realtime.conversation import SAMPLE_RATE

_G711_HZ = 8000


class AudioFormat(Enum):
    PCM = "pcm"
    """The session's own."""
    PCM_8K = "pcm8k"
    PCM_16K = "pcm16k"
    PCM_48K = "pcm48k"
    """The session's own at another rate."""
    PCMU = "pcmu"
    """G.711, mu-law."""
    PCMA = "pcma"
    """G.711, A-law."""

    @property
    def is_pcm(self) -> bool:
        return self not in _LAWS

    @property
    def rate(self) -> int:
        """Samples a second."""
        return _RATES.get(self, _G711_HZ)


_LAWS: dict[AudioFormat, Law] = {AudioFormat.PCMU: "pcmu", AudioFormat.PCMA: "pcma"}
_RATES = {
    AudioFormat.PCM: SAMPLE_RATE,
    AudioFormat.PCM_8K: 8000,
    AudioFormat.PCM_16K: 16_000,
    AudioFormat.PCM_48K: 48_000,
}
PCM_FORMATS = {rate: audio_format for audio_format, rate in _RATES.items()}
"""By their rate."""


class AudioReader:
    """Makes samples of a client's audio, as it comes."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self._resampled = _Resampled(audio_format.rate, SAMPLE_RATE)

    @property
    def growth(self) -> float:
        """Bytes of samples for each byte of the client's."""
        return (1 if self.format.is_pcm else 2) * SAMPLE_RATE / self.format.rate

    def read(self, data: bytes | bytearray) -> bytes | bytearray:
        """Return what the data makes; up to a sample waits for the next ones. `data`: whole samples."""
        if self.format is AudioFormat.PCM:
            return data
        law = _LAWS.get(self.format)
        samples = np.frombuffer(data, "<i2") if law is None else decoded(data, law)
        return self._resampled(samples).astype("<i2").tobytes()


class AudioWriter:
    """Makes a client's audio of samples, as they come."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._resampled = _Resampled(SAMPLE_RATE, audio_format.rate)

    def write(self, pcm: bytes | memoryview) -> bytes | memoryview:
        """Return what these samples make; up to two of them wait for the next ones."""
        if self._format is AudioFormat.PCM:
            return pcm
        samples = self._resampled(np.frombuffer(pcm, "<i2"))
        law = _LAWS.get(self._format)
        return samples.astype("<i2").tobytes() if law is None else encoded(samples, law)


class _Resampled:
    """Resamples any number of samples: those that are no whole group wait for the next ones."""

    def __init__(self, source_hz: int, target_hz: int) -> None:
        self._resampler = Resampler(source_hz, target_hz)
        self._rest = np.empty(0, np.int16)

    def __call__(self, samples: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        known = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        whole = len(known) // self._resampler.group * self._resampler.group
        self._rest = known[whole:].copy()
        return _clipped(self._resampler(known[:whole].astype(np.float32)))


def _clipped(samples: Samples) -> npt.NDArray[np.int16]:
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)
