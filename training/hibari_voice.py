"""One small neural voice (hibari, Apache-2.0) made into many: its network gives spectra and pitch, which can be changed
before they become sound.

It also gives how long each phoneme lasts. Words can so be stretched to whole frames of the codec: then a word has much
the same codes wherever it stands, and a tiny talker can learn them.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DURATIONS = "/Clip_output_0"
"""The graph's tensor of frames per phoneme."""

PHONEMES = 256
"""More than hibari's alphabet has."""

SPACE = 16
"""The phoneme between words: each space of a text is at least one label long."""

HOP_S = 0.0125
"""The network's step."""


@dataclass(frozen=True)
class Timbre:
    """How a voice differs from the network's own.

    pitch: factor of its F0. range: factor of its ups and downs, in semitones. tract: factor of its formants; below 1 a
    longer throat. breath: gain of its noise in dB.
    """

    pitch: float = 1.0
    range: float = 1.0
    tract: float = 1.0
    breath: float = 0.0


@functools.cache
def _voice() -> Any:
    """Return hibari, of which the network also gives its durations. The package is needed in training alone."""
    import onnx  # pyright: ignore[reportMissingImports]
    from hibari import Hibari  # pyright: ignore[reportMissingImports]
    from hibari.voices import voice_path  # pyright: ignore[reportMissingImports]

    model = onnx.load(voice_path("heart"))
    model.graph.output.append(onnx.ValueInfoProto(name=_DURATIONS))
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        Path(file.name).write_bytes(model.SerializeToString())
        return Hibari(model=file.name)


class Spoken(NamedTuple):
    """sound: float32 [samples] at 24 kHz. phonemes: which one is heard at each 12.5 ms, 0 for none, below PHONEMES."""

    sound: NDArray[np.float32]
    phonemes: NDArray[np.int64]


def synthesize(text: str, timbre: Timbre, *, speed: float = 1.0, seed: int = 0, frame_s: float | None = None) -> Spoken:
    """Return speech without the silence around it.

    With frame_s each word but the last is stretched or pressed to the nearest multiple of it, at least one.
    """
    from hibari import dsp  # pyright: ignore[reportMissingImports]

    voice = _voice()
    phonemes = " ".join(voice.phonemize(text))
    ids = voice.ids(phonemes)
    feed = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
    *parts, durations = voice.sess.run(None, feed)
    *spectra, f0 = (part[0] for part in parts)
    # Durations count 25 ms, spectra and F0 12.5 ms.
    ends = np.cumsum(durations).astype(int) * (len(f0) // int(durations.sum()))
    # The first id and the last are the silence around the sentence.
    begin, end = int(ends[0]), int(ends[-2])
    spaces = [i for i, id_ in enumerate(ids) if id_ == SPACE]
    times = _frame_times([begin, *(int(ends[i]) for i in spaces), end], frame_s / HOP_S if frame_s else None)
    nearest = np.clip(np.rint(times).astype(int), 0, len(f0) - 1)
    lh, theta, ln, lr, phi = (
        _scale_tract(_at(part, times, smooth=i in (0, 2, 3)), timbre.tract) for i, part in enumerate(spectra)
    )
    noise = np.float32(timbre.breath / 20 * np.log(10))
    pitch = _pitch(f0[nearest], timbre)
    sound = dsp.synth(lh, theta, ln + noise, lr, phi, pitch, np.random.default_rng(seed))
    return Spoken(sound, np.asarray(ids)[np.searchsorted(ends, nearest, side="right").clip(0, len(ids) - 1)])


def _frame_times(bounds: Sequence[int], frame: float | None) -> NDArray[np.float64]:
    """Return the network's frame that is to be heard at each 12.5 ms, for words between these bounds."""
    if frame is None:
        return np.arange(bounds[0], bounds[-1], dtype=np.float64)
    heard = [0.0]
    for begin, end in pairwise(bounds[:-1]):
        heard.append(heard[-1] + max(1, round((end - begin) / frame)) * frame)
    heard.append(heard[-1] + bounds[-1] - bounds[-2])
    return np.interp(np.arange(int(heard[-1])), heard, bounds)


def _at(part: NDArray[np.float32], times: NDArray[np.float64], *, smooth: bool) -> NDArray[np.float32]:
    """Return [bins, len(times)] of [bins, frames]; smooth: between two frames their mixture, else the nearer one."""
    last = part.shape[1] - 1
    if not smooth:
        return part[:, np.clip(np.rint(times).astype(int), 0, last)]
    low = np.clip(np.floor(times).astype(int), 0, last)
    share = (times - low).astype(np.float32)
    mixed = part[:, low] * (1 - share) + part[:, np.minimum(low + 1, last)] * share
    return mixed.astype(np.float32)


def _scale_tract(part: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Move what stands at a frequency to `factor` times it."""
    if factor == 1:
        return part
    bins = np.clip(np.rint(np.arange(len(part)) / factor).astype(int), 0, len(part) - 1)
    return part[bins]


def _pitch(f0: NDArray[np.float32], timbre: Timbre) -> NDArray[np.float32]:
    voiced = f0 > 40
    if not voiced.any():
        return f0
    middle = float(np.median(f0[voiced]))
    moved = middle * timbre.pitch * (np.maximum(f0, 1) / middle) ** timbre.range
    return np.where(voiced, moved, 0).astype(np.float32)
