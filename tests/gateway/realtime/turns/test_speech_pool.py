"""The threads that hear."""

from __future__ import annotations

import pytest

from services.gateway.realtime.turns.silero.model import HOP_BYTES, SileroModel, SpeechDetector
from services.gateway.realtime.turns.speech_pool import SpeechPool


async def test_a_load_that_failed_is_tried_again_and_one_that_worked_is_not() -> None:
    loads = 0

    def load() -> SileroModel:
        nonlocal loads
        loads += 1
        if loads == 1:
            raise OSError("no file")
        return SileroModel()

    pool, hop = SpeechPool(load), bytes(HOP_BYTES)
    try:
        with pytest.raises(OSError, match="no file"):
            await pool.hear(SpeechDetector(), hop)
        for _ in range(2):
            (probability,) = await pool.hear(SpeechDetector(), hop)
            assert probability < 0.5
        assert loads == 2
    finally:
        pool.close()
