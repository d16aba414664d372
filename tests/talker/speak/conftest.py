"""A served talker, and the answer that it is asked to speak."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from tests.fixtures.oracle import OracleResult
from tests.talker.conftest import ExpectedSpeech
from tests.talker.speak.rig import OPTIONS, Talker, running_talker


@pytest.fixture
async def talker(engine: SpeechEngine, speech_models: SpeechModels, valkey_url: str) -> AsyncIterator[Talker]:
    async with running_talker(engine, speech_models, valkey_url) as talker:
        yield talker


@pytest.fixture
def expected(answer: ExpectedSpeech) -> OracleResult:
    return answer("image", 40, OPTIONS)
