"""What the Python clients' scripts share. It runs in their environments and needs nothing but Python."""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
import traceback
import wave
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

URL, KEY, MODEL = (*sys.argv[1:], "", "", "")[:3]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
OSLO = 'call weather {"city": "Oslo"}\nsay It rains in Oslo.'
REPORT = 'say {"city": "Oslo", "rain": true}'


def sound() -> bytes:
    """Return a WAV file of 0.1 s."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(bytes(3_200))
    return file.getvalue()


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
