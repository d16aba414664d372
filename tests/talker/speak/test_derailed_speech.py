"""Speech that derails, by injected codes, over gRPC: what a gateway is told, and how it goes on elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from antiphon.v1 import talker_pb2
from services.talker.check_rules import CheckRules
from services.talker.checkpoint import SpeechModels
from services.talker.derailment import CheckLimits
from services.talker.engine import SpeechEngine
from services.talker.step import StepInput
from tests.fixtures.oracle import OracleResult
from tests.talker.injected import inject
from tests.talker.speak.rig import OPTIONS, Talker, begin, running_talker, text

FRAMES = 50
# A drone begins after 8 frames, and is suspect once it has repeated for 12.
GOOD = 20
SEEDS = [OPTIONS.seed + 1_000_003 * again for again in range(3)]


def drone(of: StepInput) -> Sequence[int]:
    return [of.frames if of.frames < 8 else 99] * 16


@pytest.fixture
def derailed() -> set[int]:
    """Seeds that derail."""
    return set()


@pytest.fixture
async def talker(
    speech_models: SpeechModels, valkey_url: str, monkeypatch: pytest.MonkeyPatch, derailed: set[int]
) -> AsyncIterator[Talker]:
    engine = SpeechEngine(speech_models, check=CheckRules(CheckLimits(stall_frames=24, silence_frames=0), retries=2))
    inject(monkeypatch, engine, speech_models, lambda of: drone(of) if of.sampling.seed in derailed else None)
    engine.start()
    try:
        async with running_talker(engine, speech_models, valkey_url) as talker:
            yield talker
    finally:
        engine.close()


async def test_speech_that_followed_its_text_says_nothing(talker: Talker, expected: OracleResult) -> None:
    received = await talker.speak(begin(await talker.start_of(expected)), text(expected.token_ids, is_last=True))
    assert received.codes == expected.codes.tolist()
    assert received.done is not None
    assert (received.done.derailment, received.done.spoken_again) == (talker_pb2.DERAILMENT_UNSPECIFIED, 0)
    assert {part.spoken_again for part in received.speech} == {0}


async def test_derailed_speech_ends_as_if_the_talker_had_ended_it(
    talker: Talker, expected: OracleResult, derailed: set[int]
) -> None:
    derailed |= {*SEEDS}
    start = await talker.start_of(expected, max_frames=FRAMES)
    received = await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    assert received.codes == [[index if index < 8 else 99] * 16 for index in range(GOOD)]
    assert received.done is not None
    assert (received.done.reason, received.done.frames) == (talker_pb2.SPEECH_END_STOP, GOOD)
    assert (received.done.derailment, received.done.spoken_again) == (talker_pb2.DERAILMENT_STALL, 2)
    assert received.done.samples == len(received.pcm) // 2


async def test_speech_that_was_spoken_again_goes_on_elsewhere_as_it_would_have(
    talker: Talker, expected: OracleResult, derailed: set[int]
) -> None:
    derailed |= {*SEEDS[:1]}
    words = text(expected.token_ids, is_last=True)
    whole = await talker.speak(begin(await talker.start_of(expected, max_frames=FRAMES)), words)
    assert whole.started is not None
    assert whole.started.seed == OPTIONS.seed
    assert (whole.speech[0].spoken_again, whole.speech[-1].spoken_again) == (0, 1)
    kept = GOOD + 3
    assert kept < len(whole.codes)
    start = await talker.start_of(
        expected,
        max_frames=FRAMES,
        delivered_codes=[code for frame in whole.codes[:kept] for code in frame],
        spoken_again=1,
    )
    rest = await talker.speak(begin(start), words)
    assert rest.codes == whole.codes[kept:]
    assert rest.done is not None
    assert (rest.done.derailment, rest.done.spoken_again) == (talker_pb2.DERAILMENT_UNSPECIFIED, 1)
