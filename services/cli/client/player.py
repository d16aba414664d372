"""Plays speech while it arrives, where the package sounddevice and a sound device are there."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from services.cli.client.errors import UsageError
from services.cli.client.sound_device import load_sounddevice
from services.cli.client.speech_file import SAMPLE_BYTES, SAMPLE_RATE

_SAMPLES = {"samplerate": SAMPLE_RATE, "channels": 1, "dtype": "int16"}


class Player:
    """Takes samples of 16 bits and plays them. Leaving the block waits for the last one; an error stops at once."""

    format = "pcm16"

    def __init__(self) -> None:
        """Raise UsageError where nothing can be played."""
        self._pcm = bytearray()
        self._lock = threading.Lock()
        self._whole = False
        self._played = threading.Event()
        self._sounddevice = load_sounddevice(_cannot_play)
        try:
            self._stream = self._sounddevice.RawOutputStream(
                **_SAMPLES, callback=self._fill, finished_callback=self._played.set
            )
            self._stream.start()
        except self._sounddevice.PortAudioError as error:
            raise _cannot_play(f"the sound device does not open: {error}") from None

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> None:
        """Take more samples. Returns at once."""
        with self._lock:
            self._pcm += data

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._whole = True
                self._played.wait()
        finally:
            self._stream.close()

    def _fill(self, out: Any, frames: int, _time: Any, _status: Any) -> None:
        """Fill the device's buffer, in a thread of its own; silence stands in for what is not there yet."""
        wanted = frames * SAMPLE_BYTES
        with self._lock:
            ends = self._whole and len(self._pcm) <= wanted
            data = bytes(self._pcm[:wanted])
            del self._pcm[:wanted]
        out[:] = data.ljust(wanted, b"\0")
        if ends:
            raise self._sounddevice.CallbackStop


def check_player() -> None:
    """Raise UsageError where nothing can be played."""
    sounddevice = load_sounddevice(_cannot_play)
    try:
        sounddevice.check_output_settings(**_SAMPLES)
    except sounddevice.PortAudioError as error:
        raise _cannot_play(f"there is no sound device for it: {error}") from None


def _cannot_play(why: str) -> UsageError:
    return UsageError(f"No sound can be played here: {why}. Save the speech instead: -o answer.wav")
