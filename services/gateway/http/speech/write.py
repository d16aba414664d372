"""The speech of a turn as a file that is sent as it is made, bare or in events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from services.common.errors import AntiphonError
from services.gateway.audio.encoders import Encoder, encoder_for, endless_wav_header
from services.gateway.audio.encoding import Encoding
from services.gateway.audio.formats import CODECS, AudioFormat
from services.gateway.audio.tempo import Tempo
from services.gateway.http.chat.base64_chunks import GROUP_BYTES, Base64Chunker
from services.gateway.http.chat.usage import antiphon_fields, is_cut
from services.gateway.http.streams import StreamForm, sse
from services.gateway.http.transcription.write import tokens_usage
from services.gateway.turn.events import Speech, SpeechStarted, TurnDone, TurnEvent

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm16": "audio/pcm",
}


class _SpokenForm(StreamForm):
    def __init__(self, audio_format: AudioFormat, speed: float, encoding: Encoding) -> None:
        self._format = audio_format
        self._speed = speed
        self._encoding = encoding
        self._tempo: Tempo | None = None
        self._encoder: Encoder | None = None

    async def encoded(self, events: Sequence[TurnEvent], choice: int) -> bytes:
        def encode() -> bytes:
            return b"".join(map(self._part, events))

        takes_time = self._format in CODECS or self._speed != 1
        if takes_time and any(isinstance(e, SpeechStarted | Speech | TurnDone) for e in events):
            return await self._encoding.run(encode)
        return encode()

    def _part(self, event: TurnEvent) -> bytes:
        match event:
            case SpeechStarted():
                self._tempo = Tempo(self._speed, event.sample_rate) if self._speed != 1 else None
                self._encoder = encoder_for(self._format, event.sample_rate, streamed=True)
                is_wav = self._format == "wav"
                return self._written(endless_wav_header(event.sample_rate)) if is_wav else b""
            case Speech():
                return self._written(self._file_of(event.pcm))
            case TurnDone():
                return self._done(self._rest(), event)
            case _:
                return b""

    def _file_of(self, pcm: bytes) -> bytes:
        if self._tempo is not None:
            pcm = self._tempo.add(pcm)
        return self._encoder.add(pcm) if self._encoder is not None else b""

    def _rest(self) -> bytes:
        if self._encoder is None:
            return b""
        last = self._encoder.add(self._tempo.finish()) if self._tempo is not None else b""
        return last + self._encoder.finish()

    @abstractmethod
    def _written(self, data: bytes) -> bytes:
        """Return the next bytes of the file as a part of the body."""

    @abstractmethod
    def _done(self, data: bytes, done: TurnDone) -> bytes:
        """Return its last bytes as the end of the body."""

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()


class SpeechFile(_SpokenForm):
    """The file's bytes. Nothing in them can tell of an error, so that the connection breaks."""

    keep_alive = b""

    def __init__(self, audio_format: AudioFormat, speed: float, encoding: Encoding) -> None:
        super().__init__(audio_format, speed, encoding)
        self.headers = {"content-type": MEDIA_TYPES[audio_format], "x-accel-buffering": "no"}

    def failed(self, error: AntiphonError) -> None:
        return None

    def _written(self, data: bytes) -> bytes:
        return data

    def _done(self, data: bytes, done: TurnDone) -> bytes:
        return data


class SpeechEvents(_SpokenForm):
    """`speech.audio.delta` with base64 that can be concatenated, then `speech.audio.done`, which has a `finish_reason`
    where a limit cut the speech, and says where speech was ended or spoken again that no longer followed its text."""

    def __init__(self, audio_format: AudioFormat, speed: float, encoding: Encoding) -> None:
        super().__init__(audio_format, speed, encoding)
        self._base64 = Base64Chunker(GROUP_BYTES)

    def _written(self, data: bytes) -> bytes:
        return _delta(self._base64.add(data))

    def _done(self, data: bytes, done: TurnDone) -> bytes:
        ended: dict[str, Any] = {"type": "speech.audio.done", "usage": tokens_usage(done.usage)}
        if is_cut(done):
            ended["finish_reason"] = "length"
        ended |= antiphon_fields(done)
        return _delta(self._base64.add(data) + self._base64.finish()) + sse(ended)


def _delta(data: bytes) -> bytes:
    return b'data: {"type":"speech.audio.delta","audio":"%b"}\n\n' % data if data else b""
