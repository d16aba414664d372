"""The figures of one gateway."""

from __future__ import annotations

import asyncio
import os
import time
from statistics import quantiles

from bench.gateway.client import ClientTimings, text_body, voice_body
from bench.gateway.side import Side
from bench.gateway.stages import FRAMES_PER_S

Figures = dict[str, float]

TOKENS = 8
"""Of a short answer."""
STARTS_PER_S = 25.0


async def short_turns(side: Side, count: int, at_once: int = 4) -> Figures:
    """Ask `count` short questions, `at_once` at a time."""
    async with side.clients as clients:

        async def ask_some() -> None:
            for _ in range(count // at_once):
                await clients.ask(text_body(TOKENS))

        used_s = side.used_s()
        await asyncio.gather(*(ask_some() for _ in range(at_once)))
        return {"cpu_ms_per_short_turn": (side.used_s() - used_s) / (count // at_once * at_once) * 1000}


async def frames(side: Side, voices: int, seconds: float) -> Figures:
    """Listen to `voices` for so long, once all have begun."""
    total = round((seconds + 4) * FRAMES_PER_S)
    async with side.clients as clients:
        speaking = [asyncio.create_task(clients.ask(voice_body(total))) for _ in range(voices)]
        await asyncio.sleep(2)
        used_s, began_s = side.used_s(), time.monotonic()
        await asyncio.sleep(seconds)
        used_s, took_s = side.used_s() - used_s, time.monotonic() - began_s
        heard = await asyncio.gather(*speaking)
    if any(len(answer.delays_s) != total for answer in heard):
        raise RuntimeError("a voice lost frames")
    return {"cpu_us_per_frame": used_s / (took_s * FRAMES_PER_S * voices) * 1e6}


async def paced_voices(side: Side, voices: int, seconds: float) -> Figures:
    """Keep about `voices` speaking, by STARTS_PER_S starts a second of voices that end after as long."""
    length_s = voices / STARTS_PER_S
    body = voice_body(round(length_s * FRAMES_PER_S))
    async with side.clients as clients:
        async with asyncio.TaskGroup() as tasks:
            asked: list[asyncio.Task[ClientTimings]] = []
            first, used_s, mark_s = 0, 0.0, 0.0
            begun_s = time.monotonic()
            for number in range(round((length_s + seconds) * STARTS_PER_S)):
                await asyncio.sleep(begun_s + number / STARTS_PER_S - time.monotonic())
                if not mark_s and number >= voices:
                    first, used_s, mark_s = number, side.used_s(), time.monotonic()
                asked.append(tasks.create_task(clients.ask(body)))
            used_s, took_s = side.used_s() - used_s, time.monotonic() - mark_s
        # Frames of voices that began before the first were all gone belong to the filling.
        heard = [task.result() for task in asked[max(first - voices // 2, 0) :]]
    core = used_s / took_s
    return {
        "voices": voices,
        "lateness_p50_ms": _percentile([d for answer in heard for d in answer.delays_s], 50) * 1000,
        "lateness_p99_ms": _percentile([d for answer in heard for d in answer.delays_s], 99) * 1000,
        "talkers_own_lateness_p99_ms": _percentile([d for answer in heard for d in answer.late_s], 99) * 1000,
        "core": core,
        "voices_a_core_by_cpu": voices / core,
        "load_average": os.getloadavg()[0],
    }


async def short_answers(side: Side, per_s: float, seconds: float) -> Figures:
    """Ask so many short questions a second, whether earlier ones are answered or not."""
    async with side.clients as clients:
        async with asyncio.TaskGroup() as tasks:
            asked: list[asyncio.Task[ClientTimings]] = []
            used_s, begun_s = side.used_s(), time.monotonic()
            for number in range(round(per_s * seconds)):
                await asyncio.sleep(begun_s + number / per_s - time.monotonic())
                asked.append(tasks.create_task(clients.ask(text_body(TOKENS))))
        used_s, took_s = side.used_s() - used_s, time.monotonic() - begun_s
    took = [task.result().took_s for task in asked]
    core = used_s / took_s
    return {
        "per_s": per_s,
        "p50_ms": _percentile(took, 50) * 1000,
        "p99_ms": _percentile(took, 99) * 1000,
        "core": core,
        "a_second_a_core_by_cpu": per_s / core,
        "load_average": os.getloadavg()[0],
    }


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]
