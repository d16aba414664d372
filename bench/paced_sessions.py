"""Realtime sessions that are all spoken to, before one gateway on one core: how late their audio is, what they take.

    python -m bench.paced_sessions [--sessions 100,250,500] [--seconds 30] [--json bench/results/paced_sessions.json]

A real gateway process, kept to one core where there are several, a Redis, and scripted stages in another process. The
talker speaks --speed times as fast as it is played, --frames-a-message frames of 80 ms a message, so that the gateway
holds the speech back and paces it. Each session asks in text, with manual turns, and asks again once it was answered:
no voice is detected. Sessions begin at 25 a second; figures are of the time in which all speak.

A packet is due when the talker has sent it and a client that plays at once has no more than the lead to play. How much
later it arrived is its lateness, by the clock of this machine (p99 < 20 ms is the aim). `dry`: packets that such a
client had to wait for. Lateness is only as good as the machine is idle: its load average, and how late the talker and
this process themselves were, stand beside it. Memory is what the gateway has grown by: with sessions that are open,
and while all are spoken to.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from bench.gateway.side import HERE, Side, running
from bench.gateway.stages import FRAMES_PER_S, SAMPLES_PER_FRAME, SENT_AT
from bench.machine import machine
from bench.memory_gateway import allow_open_files, resident_bytes
from bench.report import arguments_parser, report

AIM_MS = 20.0
LEAD_S = 1.0
STARTS_PER_S = 25.0
_ANSWER_FRAMES = 250
"""20 s of speech."""
_BYTES_PER_S = 2 * SAMPLES_PER_FRAME * FRAMES_PER_S
_AUDIO, _DELTA, _DONE = '{"type":"response.output_audio.delta"', '"delta":"', '{"type":"response.done"'
_STAMP_CHARS = -(-SENT_AT.size // 3) * 4
_TICK_S = 0.005


@dataclass
class Packets:
    """What came of all sessions: when, how late the packet was, and how late its talker was, seconds."""

    arrived_s: list[float] = field(default_factory=list[float])
    late_s: list[float] = field(default_factory=list[float])
    talker_late_s: list[float] = field(default_factory=list[float])
    dry: list[bool] = field(default_factory=list[bool])

    def within(self, since_s: float, until_s: float) -> list[int]:
        return [i for i, at in enumerate(self.arrived_s) if since_s <= at < until_s]


class Answer:
    """One answer as its client gets it: it plays from the first packet on."""

    def __init__(self, packets: Packets, lead_s: float) -> None:
        self._packets = packets
        self._lead_s = lead_s
        self._plays_until_s: float | None = None

    def note(self, encoded: str, now_s: float) -> None:
        """Note a packet. `encoded`: its samples, base64; its talker's stamp is in front of them."""
        sent_s, talker_due_s = SENT_AT.unpack(base64.b64decode(encoded[:_STAMP_CHARS])[: SENT_AT.size])
        until_s = self._plays_until_s
        due_s = sent_s if until_s is None else max(sent_s, until_s - self._lead_s)
        found = self._packets
        found.arrived_s.append(now_s)
        found.late_s.append(now_s - due_s)
        found.talker_late_s.append(sent_s - talker_due_s)
        found.dry.append(until_s is not None and now_s > until_s)
        length_s = len(encoded) // 4 * 3 / _BYTES_PER_S
        self._plays_until_s = max(until_s if until_s is not None else now_s, now_s) + length_s


class Listener:
    """A session that asks again and again until it is told to stop."""

    def __init__(self, side: Side, packets: Packets, lead_s: float) -> None:
        self._side = side
        self._packets = packets
        self._lead_s = lead_s
        self._socket: ClientConnection

    async def open(self) -> None:
        url = f"ws://127.0.0.1:{self._side.port}/v1/realtime"
        headers = {"authorization": f"Bearer {self._side.key}"}
        self._socket = await connect(url, additional_headers=headers, compression=None, max_size=None)
        await self._send(
            "session.update",
            session={
                "type": "realtime",
                "audio": {"input": {"turn_detection": None}},
                "max_output_tokens": _ANSWER_FRAMES // 4,
                "talker": {"max_frames": _ANSWER_FRAMES},
            },
        )
        while json.loads(await self._socket.recv())["type"] != "session.updated":
            pass

    async def listen(self) -> None:
        """Ask and listen, without an end."""
        part = {"type": "input_text", "text": "Tell a long story."}
        await self._send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})
        while True:
            await self._send("response.create")
            answer = Answer(self._packets, self._lead_s)
            while not (event := str(await self._socket.recv())).startswith(_DONE):
                if event.startswith(_AUDIO):
                    at = event.index(_DELTA) + len(_DELTA)
                    answer.note(event[at : event.index('"', at)], time.monotonic())
                elif event.startswith('{"type":"error"'):
                    raise RuntimeError(event)
            status = json.loads(event)["response"]["status"]
            if status not in ("completed", "incomplete"):  # its longest length cuts it
                raise RuntimeError(event)

    async def close(self) -> None:
        await self._socket.close()

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))


async def measured(side: Side, sessions: int, seconds: float, lead_s: float = LEAD_S) -> dict[str, Any]:
    """Return the figures of so many sessions, over so many seconds in which all are spoken to."""
    packets, own_late_s = Packets(), list[float]()
    before_bytes = resident_bytes(side.pid)
    listeners = [Listener(side, packets, lead_s) for _ in range(sessions)]
    try:
        for one in listeners:
            await one.open()
        open_bytes = resident_bytes(side.pid)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_note_own_lateness(own_late_s))]
            for one in listeners:
                running.append(tasks.create_task(one.listen()))
                await asyncio.sleep(1 / STARTS_PER_S)
            await asyncio.sleep(2 * lead_s)
            own_late_s.clear()
            since_s, used_s = time.monotonic(), side.used_s()
            await asyncio.sleep(seconds)
            until_s, used_s = time.monotonic(), side.used_s() - used_s
            spoken_bytes = resident_bytes(side.pid)
            for task in running:
                task.cancel()
    finally:
        await asyncio.gather(*(one.close() for one in listeners), return_exceptions=True)
    counted = packets.within(since_s, until_s)
    return {
        "sessions": sessions,
        "packets": len(counted),
        "packets_a_second": round(len(counted) / (until_s - since_s), 1),
        "late_ms": _spread([packets.late_s[i] for i in counted]),
        "dry": sum(packets.dry[i] for i in counted),
        "talker_late_ms": _spread([packets.talker_late_s[i] for i in counted]),
        "this_process_late_ms": _spread(own_late_s),
        "gateway_cores": round(used_s / (until_s - since_s), 3),
        "load_average": round(os.getloadavg()[0], 2),
        "memory_a_session_kib": {
            "open": round((open_bytes - before_bytes) / sessions / 1024, 1),
            "spoken_to": round((spoken_bytes - before_bytes) / sessions / 1024, 1),
        },
    }


async def _note_own_lateness(late_s: list[float]) -> None:
    """Note how late this process' own event loop is."""
    while True:
        due_s = time.monotonic() + _TICK_S
        await asyncio.sleep(_TICK_S)
        late_s.append(time.monotonic() - due_s)


def _spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {
        name: round(value * 1000, 2) for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("most", max(values)))
    }


def _keep_to_one_core(pid: int) -> bool:
    """Give the gateway the last core, and all others the rest. Return whether there is more than one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return False
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores[-1:])
    return True


async def run(given: argparse.Namespace) -> dict[str, Any]:
    options = ("--frames-a-message", str(given.frames_a_message), "--speed", f"{given.speed:g}")
    sizes = [int(size) for size in given.sessions.split(",")]
    settings = {"REALTIME_MAX_SESSIONS": str(max(sizes)), "REALTIME_LEAD_S": f"{LEAD_S:g}"}
    async with running(HERE, options, **settings) as side:
        has_core = _keep_to_one_core(side.pid)
        await measured(side, 8, 1.0)  # it loads what it needs
        found = [await measured(side, size, given.seconds) for size in sizes]
    missed = [one["sessions"] for one in found if one["late_ms"].get("p99", 0.0) >= AIM_MS]
    return {"gateway_has_a_core_of_its_own": has_core, "lead_s": LEAD_S, "sizes": found, "missed_the_aim": missed}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--sessions", default="100,250,500", help="sizes, one after the other (default %(default)s)")
    add("--seconds", type=float, default=30.0, help="of each size (default %(default)s)")
    add("--frames-a-message", type=int, default=4, help="of the talker's messages (default %(default)s)")
    add("--speed", type=float, default=2.0, help="of the talker, times real time (default %(default)s)")
    given = parser.parse_args()
    allow_open_files()
    command = (
        f"python -m bench.paced_sessions --sessions {given.sessions} --seconds {given.seconds:g}"
        f" --frames-a-message {given.frames_a_message} --speed {given.speed:g}"
    )
    figures = uvloop.run(run(given))
    report({"command": command, "machine": machine(), **figures}, given.json)


if __name__ == "__main__":
    main()
