"""What the Python clients' scripts share. It runs in their environments and needs nothing but Python."""

from __future__ import annotations

import asyncio
import inspect
import io
import math
import sys
import time
import traceback
import wave
from collections.abc import AsyncGenerator, Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

URL, KEY, MODEL, SOUNDS = (*sys.argv[1:], "", "", "", "")[:4]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
OSLO = 'call weather {"city": "Oslo"}\nsay It rains in Oslo.'
REPORT = 'say {"city": "Oslo", "rain": true}'
LONG = [f"w{n}" for n in range(300)]
"""An answer of 30 s."""
SCRIPT = f"say {' '.join(LONG)}\n\nread -2"
"""Instructions: the first spoken turn is answered at length, the second one with what was heard of that answer."""
LIVE_SCRIPT = f"""say {" ".join(LONG)}

say I heard
read -2
say and no more.

call delegate {{"task": "Oslo's weather"}}
say It rains in Oslo."""
"""Of the Live API, where no event tells one answer from the next: the third one is delegated."""
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
"""An image of one pixel, base64."""
SAMPLE_RATE = 24_000


def sound() -> bytes:
    """Return a WAV file of 0.1 s."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(bytes(3_200))
    return file.getvalue()


class Microphone:
    """Records what is said, otherwise silence, 20 ms after 20 ms as they pass: mono, 16 bits, at SAMPLE_RATE."""

    def __init__(self) -> None:
        self._frame_bytes = SAMPLE_RATE // 50 * 2
        self._said = b""
        self._sound = (Path(SOUNDS) / "hello.pcm").read_bytes()

    def say(self) -> None:
        """Say hello."""
        self._said = self._sound

    async def frames(self) -> AsyncGenerator[bytes, None]:
        at = time.monotonic()
        while True:
            frame, self._said = self._said[: self._frame_bytes], self._said[self._frame_bytes :]
            yield frame.ljust(self._frame_bytes, b"\0")
            at += 0.02
            await asyncio.sleep(at - time.monotonic())


def heard_words(audio_end_ms: int, words_before: int = 0) -> str:
    """Return the words of LONG that are taken to be heard until then, after whole answers of so many words.

    A word takes 280 ms, which count as ten words, and in whole answers 100 ms (services/gateway/realtime/spoken.py).
    """
    assert 0 < audio_end_ms < 100 * len(LONG)
    word_ms = Fraction(10 * 280 + words_before * 100, 10 + words_before)
    return " ".join(LONG[: math.ceil(audio_end_ms / word_ms)])


E = TypeVar("E", bound=Exception)


def raised(kind: type[E], call: Callable[[], Any]) -> E:
    """Return the error that the call raises. Raise AssertionError where it raises none of this kind."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def hold(module: Mapping[str, Any]) -> None:
    """Run the conversations of a script, its functions without parameters, in order. Print the name of each.

    Exit with 1 where one fails, after all have run.
    """
    names = [n for n, f in module.items() if inspect.isfunction(f) and f.__module__ == "__main__"]
    failed = False
    for name in names:
        if name.startswith("_") or inspect.signature(module[name]).parameters:
            continue
        try:
            ended = module[name]()
            if inspect.isawaitable(ended):
                asyncio.run(_finished(ended))
        except Exception:
            failed = True
            sys.stderr.write(f"--- {name}\n{traceback.format_exc()}\n")
        else:
            sys.stdout.write(f"{name}\n")
    sys.exit(failed)


async def _finished(ended: Any) -> None:
    await ended
