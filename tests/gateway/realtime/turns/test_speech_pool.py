"""The processes that hear."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import Unavailable
from services.gateway.realtime.turns import hearing_process
from services.gateway.realtime.turns.endpointer import HOP_BYTES
from services.gateway.realtime.turns.silero.model import SileroModel, SpeechDetector
from services.gateway.realtime.turns.speech_pool import SpeechPool
from tests.fixtures.wait import wait_until

HOPS = 40
SOUND = np.random.default_rng(1).integers(-9000, 9000, HOPS * HOP_BYTES // 2).astype("<i2").tobytes()


@asynccontextmanager
async def pool() -> AsyncGenerator[SpeechPool]:
    made = SpeechPool()
    try:
        yield made
    finally:
        await made.close()


def children() -> list[int]:
    """Return the processes that hear for this one."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"turns.hearing" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_sessions_that_are_heard_at_once_are_heard_as_one_alone() -> None:
    alone = SpeechDetector().hear(SileroModel(), SOUND)

    async def heard(speech: SpeechPool, piece_bytes: int) -> list[float]:
        hearing, found = speech.hearing(), list[float]()
        for at in range(0, len(SOUND), piece_bytes):
            found += await hearing.hear(memoryview(SOUND)[at : at + piece_bytes])
        return found

    async with pool() as speech:
        sizes = (HOP_BYTES, 960, 50_000, 333)
        assert await asyncio.gather(*(heard(speech, size) for size in sizes)) == [alone] * len(sizes)
        assert len(children()) == 1
    assert children() == []


async def test_a_session_that_left_leaves_its_answer_to_nobody() -> None:
    async with pool() as speech:
        first, other = speech.hearing(), speech.hearing()
        leaves = asyncio.create_task(first.hear(SOUND))
        await asyncio.sleep(0)
        leaves.cancel()
        assert len(await other.hear(SOUND[:HOP_BYTES])) == 1
        assert len(await first.hear(SOUND[: 2 * HOP_BYTES])) == 2


async def test_a_process_that_dies_is_replaced_and_asked_again() -> None:
    async with pool() as speech:
        hearing = speech.hearing()
        await hearing.hear(SOUND)
        (first,) = children()
        os.kill(first, signal.SIGSTOP)
        asked = asyncio.create_task(hearing.hear(SOUND))
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        assert await asked == SpeechDetector().hear(SileroModel(), SOUND)  # as if the session began there
        assert first not in children()
        assert len(children()) == 1


async def test_a_process_that_can_do_nothing_is_told_to_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool() as speech:
        with monkeypatch.context() as broken:
            broken.setattr(hearing_process, "_MODULE", "services.gateway.realtime.turns.no_such_module")
            with pytest.raises(Unavailable):
                await speech.hearing().hear(SOUND)
        assert len(await speech.hearing().hear(SOUND)) == HOPS  # the next one who asks has it tried again


async def test_a_process_ends_with_the_input_that_its_gateway_gave_it() -> None:
    async with pool() as speech:
        await speech.hearing().hear(SOUND)
        (first,) = children()
        (process,) = speech._processes  # pyright: ignore[reportPrivateUsage]
        questions = process._questions  # pyright: ignore[reportPrivateUsage]
        assert questions is not None
        questions.write_eof()  # as where the gateway is killed
        await wait_until(lambda: first not in children())
