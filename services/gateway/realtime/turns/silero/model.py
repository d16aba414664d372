"""Runs Silero VAD: how probable speech is, hop by hop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from services.gateway.realtime.audio.resample import Resampler, Samples
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.turns.endpointer import HOP_BYTES, HOP_MS, HOP_SAMPLES

_MODEL_HZ = 16_000
_CONTEXT = 64
_STATE_SHAPE = (1, 1, 128)
# The state wears off in noise: a word after ten seconds of it may go unheard. So it begins anew in silence.
_SILENT, _FRESH_HOPS = 0.1, 3000 // HOP_MS
_FILE = Path(__file__).with_name("silero_vad_16k_sequence.onnx")


class SileroModel:
    """The network. Threads may share it."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # a few hundred kilobytes, and each thread would keep its own
        self._session = onnxruntime.InferenceSession(_FILE.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(self, frame: Samples, hidden: Samples, cell: Samples) -> tuple[float, Samples, Samples]:
        """Return the probability of speech, and the state for the next hop. `frame`: [1, context and 512 samples]."""
        outputs: Any = self._session.run(("speech_probs", "hn", "cn"), {"input": frame, "h": hidden, "c": cell})
        probability, hidden, cell = outputs
        return float(probability.reshape(-1)[0]), hidden, cell


class SpeechDetector:
    """The state of one session. Use it from one thread at a time."""

    def __init__(self) -> None:
        self._rest = b""
        self._resampler = Resampler(SAMPLE_RATE, _MODEL_HZ)
        self._context: Samples = np.zeros(_CONTEXT, np.float32)
        # Of the LSTM, and hops of silence that it has heard since it was new or since the last speech.
        self._hidden, self._cell = _new_state()
        self._silent_hops = 0

    def hops(self, more_bytes: int) -> int:
        """Return how many whole hops there are with so many bytes more."""
        return (len(self._rest) + more_bytes) // HOP_BYTES

    def keep(self, pcm: bytes | bytearray | memoryview) -> None:
        """Take samples that make no whole hop yet."""
        self._rest += pcm

    def hear(self, model: SileroModel, pcm: bytes | bytearray | memoryview) -> list[float]:
        """Return the probability of speech of each whole hop: 24 kHz, mono, 16 bits. Equal samples have equal
        probabilities, whatever the pieces in which they come: each hop is computed alone."""
        heard = self._rest + pcm
        whole = len(heard) // HOP_BYTES * HOP_BYTES
        self._rest = heard[whole:]
        samples = np.frombuffer(heard, "<i2", whole // 2).astype(np.float32) / np.float32(32768)
        return [self._hop(model, hop) for hop in samples.reshape(-1, HOP_SAMPLES)]

    def _hop(self, model: SileroModel, samples: Samples) -> float:
        frame = np.concatenate((self._context, self._resampler(samples)))
        self._context = frame[-_CONTEXT:]
        probability, self._hidden, self._cell = model.run(frame[np.newaxis], self._hidden, self._cell)
        self._silent_hops = self._silent_hops + 1 if probability < _SILENT else 0
        if self._silent_hops == _FRESH_HOPS:
            (self._hidden, self._cell), self._silent_hops = _new_state(), 0
        return probability


def _new_state() -> tuple[Samples, Samples]:
    return np.zeros(_STATE_SHAPE, np.float32), np.zeros(_STATE_SHAPE, np.float32)
