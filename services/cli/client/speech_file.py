"""Files of speech that appear once they are whole."""

from __future__ import annotations

import wave
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from services.cli.client.errors import UsageError

SAMPLE_RATE = 24_000
SAMPLE_BYTES = 2
FORMATS = {
    ".wav": "wav",
    ".pcm": "pcm16",
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".flac": "flac",
    ".aac": "aac",
}
"""The end of a file's name → the format that the chat API calls it by."""


def file_format(path: Path) -> str:
    """Return the format of a file's name. Raise UsageError where it is none that servers speak."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: speech is written to a file that ends with {', '.join(FORMATS)}.") from None


class SpeechFile:
    """Takes the bytes of a streamed speech. Leaving the block in good order puts the file in its place.

    Until then they are in a file beside it, so that an answer that breaks off leaves an older file as it was.
    """

    def __init__(self, path: Path) -> None:
        """Raise UsageError where the name says no format, or the file cannot be written."""
        kind = file_format(path)
        # A stream has no header, for its length is not known yet: the header of a WAV file is written here.
        self.format = "pcm16" if kind == "wav" else kind
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._wave: wave.Wave_write | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self._part.open("wb")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
        if kind == "wav":
            self._wave = wave.open(self._file, "wb")  # noqa: SIM115  # __exit__ closes it
            self._wave.setnchannels(1)
            self._wave.setsampwidth(SAMPLE_BYTES)
            self._wave.setframerate(SAMPLE_RATE)

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> None:
        """Take more of the speech, in `format`."""
        if self._wave is None:
            self._file.write(data)
        else:
            self._wave.writeframesraw(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wave is not None:
            self._wave.close()
        self._file.close()
        if error is None:
            self._part.replace(self._path)
        else:
            self._part.unlink()


def numbered(path: Path, turn: int) -> Path:
    """Return the file of a conversation's turn, counted from 1: answer.wav, answer-2.wav, …"""
    return path if turn == 1 else path.with_stem(f"{path.stem}-{turn}")
