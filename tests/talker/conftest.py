"""The engine on the tiny checkpoint, and the oracle's answers, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.engine import SpeechEngine
from tests.fixtures.oracle import Oracle, OracleResult, TalkerOptions, ThinkerOptions
from tests.talker.cases import CASES

ExpectedSpeech = Callable[..., OracleResult]


@pytest.fixture(scope="session")
def speech_models(tiny_instruct: Path, device: torch.device) -> SpeechModels:
    return load_speech_models(tiny_instruct, device=str(device))


@pytest.fixture(scope="session")
def engine(speech_models: SpeechModels) -> Iterator[SpeechEngine]:
    engine = SpeechEngine(speech_models)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def answer(oracle: Oracle) -> ExpectedSpeech:
    """Return answer(case, tokens=…, talker options), which gives transformers' answer with exactly `tokens` tokens."""
    answers: dict[tuple[str, int, str, TalkerOptions], OracleResult] = {}

    def ask(case: str, tokens: int = 12, talker: TalkerOptions | None = None, voice: str = "Ethan") -> OracleResult:
        talker = talker or TalkerOptions()
        key = (case, tokens, voice, talker)
        if key not in answers:
            asked = CASES[case]
            answers[key] = oracle.generate(
                asked.messages,
                asked.media,
                voice=voice,
                thinker=ThinkerOptions(max_new_tokens=tokens, min_new_tokens=tokens),
                talker=talker,
                use_audio_in_video=asked.use_audio_in_video,
            )
        return answers[key]

    return ask
