"""Speech at another pace and the same pitch: FFmpeg's atempo, which overlaps short windows of the sound."""

from __future__ import annotations

from fractions import Fraction

import av
from av.filter import Graph

SLOWEST, FASTEST = 0.25, 4.0
_SAMPLE_BYTES = 2
# atempo gives nothing before it has as many samples as its last frame makes: frames are small, 20 ms.
_BLOCK_BYTES = 480 * _SAMPLE_BYTES
# atempo's own lower bound; two of them make a slower one.
_SLOWEST_FILTER = 0.5
# Longer than what the filters hold back at any pace.
_FLUSH_S = 0.5


class Tempo:
    """Takes mono 16-bit samples in any portions and gives back those of the same sound, 1 / speed as many.

    It looks up to 0.12 s ahead.
    """

    def __init__(self, speed: float, sample_rate: int) -> None:
        self._speed, self._sample_rate = speed, sample_rate
        self._taken = self._pushed = self._given = 0
        self._rest = b""
        self._graph = Graph()
        self._source = self._graph.add_abuffer(
            format="s16", sample_rate=sample_rate, layout="mono", time_base=Fraction(1, sample_rate)
        )
        last = self._source
        factors = [speed] if speed >= _SLOWEST_FILTER else [_SLOWEST_FILTER, speed / _SLOWEST_FILTER]
        for factor in factors:
            tempo = self._graph.add("atempo", f"{factor:.6f}")
            last.link_to(tempo)
            last = tempo
        self._sink = self._graph.add("abuffersink")
        last.link_to(self._sink)
        self._graph.configure()

    def add(self, pcm: bytes) -> bytes:
        """Return what is ready after these samples. It may be empty."""
        self._taken += len(pcm) // _SAMPLE_BYTES
        return self._changed(pcm)

    def finish(self) -> bytes:
        """Return the rest, to the sample that ends the sound. Nothing may be added after it."""
        left = max(round(self._taken / self._speed) - self._given, 0)
        silence = bytes(_SAMPLE_BYTES * round(_FLUSH_S * self._sample_rate * max(1.0, self._speed)))
        return self._changed(silence)[: _SAMPLE_BYTES * left]

    def _changed(self, pcm: bytes) -> bytes:
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % _BLOCK_BYTES
        self._rest = pcm[whole:]
        out = bytearray()
        for at in range(0, whole, _BLOCK_BYTES):
            self._push(pcm[at : at + _BLOCK_BYTES])
            self._pull(out)
        self._given += len(out) // _SAMPLE_BYTES
        return bytes(out)

    def _push(self, pcm: bytes) -> None:
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // _SAMPLE_BYTES)
        frame.sample_rate, frame.pts, frame.time_base = self._sample_rate, self._pushed, Fraction(1, self._sample_rate)
        frame.planes[0].update(pcm)
        self._pushed += frame.samples
        self._source.push(frame)

    def _pull(self, out: bytearray) -> None:
        while True:
            try:
                frame = self._sink.pull()
            except (BlockingIOError, EOFError):
                return
            assert isinstance(frame, av.AudioFrame)  # noqa: S101  # tells the checker what the graph holds
            out += frame.to_ndarray().tobytes()
