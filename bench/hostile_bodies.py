"""Measure what the worst chat bodies cost a gateway until it refuses them.

    python -m bench.hostile_bodies [--json bench/results/hostile_bodies.json]

Reports for each body its size, the error's code, the time to refuse it, the longest block of the event loop meanwhile,
and the memory taken beside the body (the process's peak resident set). Each figure is the least of three runs, to
exclude other work of the machine.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.report import arguments_parser, report
from services.common.errors import AntiphonError
from services.gateway.http.chat.parse import read_chat
from services.gateway.settings import GatewaySettings

_FIELDS = GatewaySettings.model_fields
MAX_BODY_BYTES: int = _FIELDS["max_body_bytes"].default
MAX_MEDIA_BYTES: int = _FIELDS["max_media_bytes"].default
MAX_TEXT_BYTES: int = _FIELDS["max_text_bytes"].default
# The longest body within the limit on text.
SIZE = 3_900_000


def _list(item: str, size: int) -> str:
    return "[" + ",".join(itertools.repeat(item, size // (len(item) + 1))) + "]"


def _object(value: str, size: int, key: str = "k{}") -> str:
    count = size // (len(key) + len(value) + 9)
    return "{" + ",".join(f'"{key.format(i)}":{value}' for i in range(count)) + "}"


def _body(messages: str = '[{"role":"user","content":"hi"}]', **fields: str) -> bytes:
    first = "".join(f'"{name}":{value},' for name, value in fields.items())
    return f'{{{first}"messages":{messages}}}'.encode()


def _user(content: str) -> str:
    return f'[{{"role":"user","content":{content}}}]'


# Each body is wrong, most of them in one place. An emoji makes a parsed string take four bytes a character.
BODIES: dict[str, Callable[[int], bytes]] = {
    "numbers in modalities": lambda n: _body(modalities=_list("1", n)),
    "lists in modalities": lambda n: _body(modalities=_list("[]", n)),
    "one list in modalities": lambda n: _body(modalities=f"[{_list('[]', 60_000)}]"),
    "numbers in messages": lambda n: _body(_list("1", n)),
    "empty messages": lambda n: _body(_list("{}", n)),
    "many good messages": lambda n: _body(_list('{"role":"user","content":"a"}', n)),
    "many wrong parts": lambda n: _body(_user(_list("{}", n))),
    "many good parts": lambda n: _body(_user(_list('{"type":"text","text":"a"}', n))),
    "many frames": lambda n: _body(_user(f'[{{"type":"video","video":{_list("1", n)}}}]')),
    "many stops": lambda n: _body(stop=_list('"s"', n)),
    "wrong stops": lambda n: _body(stop=_list('""', n)),
    "many stop ids": lambda n: _body(stop_token_ids=_list("-1", n)),
    "a large logit_bias": lambda n: _body(logit_bias=_object("1", n, key="{}")),
    "a wrong logit_bias": lambda n: _body(logit_bias=_object('"x"', n)),
    "unknown fields": lambda n: _body()[:-1] + b"," + _object("1", n)[1:].encode(),
    "unknown fields of a message": lambda n: _body('[{"role":"user","content":"a",' + _object("1", n)[1:] + "]"),
    "unknown fields of a part": lambda n: _body(_user('[{"type":"text","text":"a",' + _object("1", n)[1:] + "]")),
    "unknown fields of the talker": lambda n: _body(talker=_object("1", n), modalities='["text","audio"]'),
    "unknown fields within the limit": lambda n: _body()[:-1] + b"," + _object("1", 300_000)[1:].encode(),
    "wrong messages within the limit": lambda n: _body(_list("{}", 100_000)),
    "duplicate keys": lambda n: _body()[:-1] + b"," + b",".join([b'"user":[]'] * (n // 10)) + b',"x":1}',
    "duplicate messages": lambda n: b"{" + b",".join([_body()[1:-1]] * (n // 50)) + b',"x":1}',
    "deep lists": lambda n: _body(metadata="[" * (n // 2) + "]" * (n // 2)),
    "deep objects": lambda n: _body(metadata='{"a":' * (n // 6) + "1" + "}" * (n // 6)),
    "deep and never closed": lambda n: b"[" * n,
    "deep in many": lambda n: _body(metadata=_list("[" * 100 + "]" * 100, n), x="1"),
    "a giant key": lambda n: _body(**{"k" * n: "1"}),
    "a giant key of emoji": lambda n: _body()[:-1] + b',"' + ("a" * n + "😀").encode() + b'":1}',
    "a giant number": lambda n: _body(seed="9" * n),
    "a giant exponent": lambda n: _body(temperature="1e" + "9" * n),
    "many large numbers": lambda n: _body(metadata=_list("9" * 4000, n), x="1"),
    "many fractions": lambda n: _body(metadata=_list("1.5", n), x="1"),
    "a giant model name": lambda n: _body(model='"' + "m" * n + '"'),
    "a giant role": lambda n: _body('[{"role":"' + "r" * n + '","content":"a"}]'),
    "a text with an emoji": lambda n: _body(_user('"' + "a" * n + '😀"'), temperature="9"),
    "a text with an escaped emoji": lambda n: _body(_user('"' + "a" * n + '\\ud83d\\ude00"'), temperature="9"),
    "many texts with an emoji": lambda n: _body(
        _user(_list('{"type":"text","text":"' + "a" * 1000 + '😀"}', n)), x="1"
    ),
    "a text of quotes": lambda n: _body(_user('"' + '\\"' * (n // 2) + '"'), temperature="9"),
    "quotes alone": lambda n: b'{"a":' + b'"' * n,
    "backslashes": lambda n: _body(_user('"' + "\\\\" * (n // 2) + '"'), temperature="9"),
    "spaces": lambda n: b" " * n + b"x",
    "no JSON": lambda n: b"\xff" * n,
    "zeros": lambda n: bytes(n),
    "a long text of letters": lambda n: _body(_user('"' + "a" * 15 * n + '"')),
    "a long text of letters and an emoji": lambda n: _body(_user('"' + "a" * 15 * n + '😀"')),
    "a long number": lambda n: _body(seed="9" * 15 * n),
    "many media and a wrong field": lambda n: _body(_user(_list(_media("A" * 1_000_000), 15 * n)), x="1"),
    "a media that is too large": lambda n: _body(_user(f"[{_media('A' * (MAX_MEDIA_BYTES * 3 // 2))}]")),
}


def _media(data: str) -> str:
    return f'{{"type":"input_audio","input_audio":{{"data":"{data}"}}}}'


async def refusal(body: bytes) -> AntiphonError | None:
    """Return the error of a gateway with default limits for `body`, or None if it accepts the body."""
    try:
        await read_chat(body, MAX_MEDIA_BYTES, MAX_TEXT_BYTES)
    except AntiphonError as error:
        return error
    return None


async def measured(body: bytes) -> dict[str, Any]:
    longest_s, stop = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest_s
        while not stop.is_set():
            before_s = time.perf_counter()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.perf_counter() - before_s)

    gc.collect()
    before_bytes = _resident_bytes("VmRSS")
    _forget_peak()
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    began_s = time.perf_counter()
    error = await refusal(body)
    took_s = time.perf_counter() - began_s
    stop.set()
    await watching
    return {
        "code": error.code if error else None,
        "size_mb": round(len(body) / 1e6, 2),
        "took_ms": round(took_s * 1e3, 1),
        "loop_still_ms": round(longest_s * 1e3, 1),
        "memory_of_body": round(max(_resident_bytes("VmHWM") - before_bytes, 0) / len(body), 2),
    }


async def least(body: bytes) -> dict[str, Any]:
    first, *others = [await measured(body) for _ in range(3)]
    return {key: min([first[key], *(o[key] for o in others)]) if "_" in key else first[key] for key in first}


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


async def main() -> None:
    arguments = arguments_parser(__doc__ or "").parse_args()
    rows = {name: await least(make(SIZE)) for name, make in BODIES.items()}
    report(
        {
            "python": platform.python_version(),
            "worst": {
                key: max(row[key] for row in rows.values()) for key in ("took_ms", "loop_still_ms", "memory_of_body")
            },
            "bodies": rows,
        },
        arguments.json,
    )


if __name__ == "__main__":
    asyncio.run(main())
