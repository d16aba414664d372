"""Turns the samples of a spoken answer into its format, packet by packet.

An encoder takes mono 16-bit samples in any portions. It belongs to the answer that a client gets, not to the worker
that speaks: when another worker goes on with the speech, the same encoder goes on with it.
"""

from __future__ import annotations

import io
import struct
from typing import ClassVar, Protocol
from weakref import WeakSet

import av
from av.audio.stream import AudioStream

from services.gateway.audio.formats import CODECS, Codec

_SAMPLE_BYTES = 2


class Encoder(Protocol):
    def add(self, pcm: bytes) -> bytes:
        """Return what is ready after these samples. It may be empty."""
        ...

    def finish(self) -> bytes:
        """Return the rest. Nothing may be added after it."""
        ...

    def close(self) -> None:
        """Free what the encoder holds, finished or not. It may be called twice."""
        ...


def encoder_for(audio_format: str, sample_rate: int, *, streamed: bool) -> Encoder:
    """Return a new encoder. `audio_format` is one of formats.FORMATS, `sample_rate` is in Hz.

    A streamed `wav` has no header, as `pcm16` has none.
    """
    if codec := CODECS.get(audio_format):
        return CodecEncoder(codec, sample_rate, streamed=streamed)
    if audio_format == "wav" and not streamed:
        return WavEncoder(sample_rate)
    return PcmEncoder()


class PcmEncoder:
    """The samples as they are: signed, little-endian."""

    def add(self, pcm: bytes) -> bytes:
        return pcm

    def finish(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class WavEncoder:
    """A WAV file, all of it at the end: its header has the length."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._pcm = bytearray()

    def add(self, pcm: bytes) -> bytes:
        self._pcm += pcm
        return b""

    def finish(self) -> bytes:
        return wav_header(len(self._pcm), self._sample_rate) + self._pcm

    def close(self) -> None:
        pass


def wav_header(pcm_bytes: int, sample_rate: int) -> bytes:
    """Return the header of a WAV file of mono 16-bit samples."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + pcm_bytes, b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16,
        b"data", pcm_bytes,
    )  # fmt: skip


def endless_wav_header(sample_rate: int) -> bytes:
    """Return the header of a WAV file whose length is not known yet: players read such a file to its end."""
    header = bytearray(wav_header(0, sample_rate))
    header[4:8] = header[-4:] = b"\xff\xff\xff\xff"
    return bytes(header)


class CodecEncoder:
    """One of FFmpeg's encoders and its container. It keeps the bytes so far only of a whole file."""

    # Those that hold memory of FFmpeg's: not closed yet.
    open: ClassVar[WeakSet[CodecEncoder]] = WeakSet()

    def __init__(self, codec: Codec, sample_rate: int, *, streamed: bool) -> None:
        self._sample_rate = sample_rate
        self._samples = 0
        self._sink = _Stream() if streamed else _File()
        options = dict(codec.container_options)
        if streamed:
            # Without flush_packets a packet stays in FFmpeg's buffer until others have filled it.
            options |= {**codec.when_streamed, "flush_packets": "1"}
        self._container = av.open(self._sink, "w", format=codec.container, options=options)
        stream = self._container.add_stream(codec.encoder, rate=sample_rate, layout="mono", options=dict(codec.options))
        assert isinstance(stream, AudioStream)  # noqa: S101  # tells the checker what CODECS holds
        self._stream = stream
        self.open.add(self)

    def add(self, pcm: bytes) -> bytes:
        if pcm:
            frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // _SAMPLE_BYTES)
            frame.sample_rate, frame.pts = self._sample_rate, self._samples
            frame.planes[0].update(pcm)
            self._samples += frame.samples
            self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self.close()
        return self._sink.take_all()

    def close(self) -> None:
        self._container.close()
        self.open.discard(self)


class _Stream:
    """Takes bytes and gives them on at once. It cannot seek, so a container never goes back."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data

    take_all = take


class _File(io.BytesIO):
    """Keeps all bytes to the end: a container goes back to write lengths."""

    def take(self) -> bytes:
        return b""

    def take_all(self) -> bytes:
        return self.getvalue()
