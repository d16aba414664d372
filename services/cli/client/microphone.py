"""Records a question, where the package sounddevice and a microphone are there."""

from __future__ import annotations

import io
import sys
import wave
from types import TracebackType
from typing import Any, Self

from services.cli.client.errors import UsageError
from services.cli.client.screen import Screen
from services.cli.client.sound_device import load_sounddevice
from services.cli.client.speech_file import SAMPLE_BYTES


class Microphone:
    """Records while its block runs: one channel of 16 bits, at the device's own rate. The server resamples."""

    def __init__(self) -> None:
        """Raise UsageError where nothing can be recorded."""
        self._pcm = bytearray()
        sounddevice = load_sounddevice(_cannot_record)
        try:
            self._rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
            self._stream = sounddevice.RawInputStream(
                samplerate=self._rate, channels=1, dtype="int16", callback=self._take
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:  # ValueError: there is no such device
            raise _cannot_record(f"the microphone does not open: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _take(self, data: Any, _frames: int, _time: Any, _status: Any) -> None:
        """Take what was recorded, in a thread of the device's."""
        self._pcm += bytes(data)

    def wav(self) -> bytes:
        """Return what was recorded, as a WAV file. Raise UsageError where that is nothing."""
        if not self._pcm:
            raise UsageError("Nothing was recorded. Speak, and then press Enter.")
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(SAMPLE_BYTES)
            writer.setframerate(self._rate)
            writer.writeframes(bytes(self._pcm))
        return file.getvalue()


def record(screen: Screen) -> bytes:
    """Record until Enter is pressed, and return a WAV file. Raise UsageError where nothing can be recorded."""
    if not sys.stdin.isatty():
        raise _cannot_record("Enter ends a recording, and standard input is no terminal")
    with Microphone() as microphone:
        screen.remark("Speak, and press Enter at the end.")
        sys.stdin.readline()
    return microphone.wav()


def _cannot_record(why: str) -> UsageError:
    return UsageError(f"No sound can be recorded here: {why}. Send a file instead: --audio question.wav")
