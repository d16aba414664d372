"""Streams that derail, by injected codes: ended at the last good frame, or spoken again from it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY

from antiphon.v1 import talker_pb2
from services.common.derailments import Derailment
from services.talker.check_rules import CheckRules
from services.talker.checkpoint import SpeechModels
from services.talker.derailment import CheckLimits
from services.talker.engine import SpeechEngine
from services.talker.memory import plan_memory
from services.talker.sampling import SamplingParams
from services.talker.settings import TalkerSettings
from services.talker.step import StepInput
from services.talker.stream import SpeechRequest
from tests.fixtures.oracle import TalkerOptions
from tests.fixtures.wait import wait_until
from tests.talker.conftest import ExpectedSpeech
from tests.talker.injected import Script, inject
from tests.talker.speech import Spoken, prompt_of_length, request_of, speak
from tests.talker.test_parity import assert_equal

SEED, NEXT_SEED, THIRD_SEED = 5, 1_000_008, 2_000_011
FRAMES = 46
TEXT = list(range(40, 80))
LIMITS = CheckLimits(stall_frames=20, silence_frames=0)  # random weights are nearly silent
# The stall begins after 20 frames, and is suspect once it has repeated for 12.
ORDINARY, GOOD = 20, 32


@pytest.fixture
def running(speech_models: SpeechModels, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextmanager
    def run(script: Script | None, check: CheckRules | None, **options: Any) -> Generator[SpeechEngine]:
        plan = plan_memory(speech_models, 60_000_000, slots=2, max_frames=FRAMES)
        engine = SpeechEngine(speech_models, memory=plan, check=check, **options)
        if script is not None:
            inject(monkeypatch, engine, speech_models, script)
        engine.start()
        try:
            yield engine
        finally:
            engine.close()

    return run


def frame(index: int) -> list[int]:
    """Return an ordinary frame of the injected speech."""
    return [(37 * index + 11 * codebook) % 251 for codebook in range(16)]


def stall(*seeds: int) -> Script:
    """Derail the requests of these seeds after 20 frames."""

    def script(of: StepInput) -> Sequence[int] | None:
        if of.sampling.seed not in seeds:
            return None
        return frame(min(of.frames, ORDINARY))

    return script


STALLED = [frame(min(index, ORDINARY)) for index in range(FRAMES)]


def request_for(
    models: SpeechModels, seed: int = SEED, delivered: Sequence[Sequence[int]] = (), **sampling: Any
) -> SpeechRequest:
    codes = torch.tensor(delivered, dtype=torch.int64).view(-1, 16)
    return SpeechRequest(prompt_of_length(models.config, 30), SamplingParams(seed, **sampling), FRAMES, codes)


def counted(why: str, done: str) -> float:
    return REGISTRY.get_sample_value("antiphon_talker_derailments_total", {"why": why, "done": done}) or 0.0


def assert_whole(spoken: Spoken, engine: SpeechEngine, frames: int) -> None:
    """Check that frames and samples are numbered without gaps, and are all there."""
    at = samples = 0
    for chunk in spoken.chunks:
        assert (chunk.first_frame, chunk.first_sample) == (at, samples)
        at, samples = at + len(chunk.codes), samples + len(chunk.samples)
    assert (at, samples) == (frames, engine.speaker.samples_after(frames))
    assert spoken.summary is not None
    assert (spoken.summary.frames, spoken.summary.samples) == (frames, samples)


@pytest.mark.parametrize("steps_ahead", [0, 1])
async def test_derailed_speech_ends_at_its_last_good_frame(
    running: Any, speech_models: SpeechModels, steps_ahead: int
) -> None:
    before = counted("stall", "ended")
    with running(stall(SEED), CheckRules(LIMITS), steps_ahead=steps_ahead) as engine:
        spoken = await speak(engine, request_for(speech_models), TEXT)
        assert_whole(spoken, engine, GOOD)
    assert spoken.codes.tolist() == STALLED[:GOOD]
    assert spoken.summary is not None
    assert (spoken.summary.reason, spoken.summary.derailment) == (talker_pb2.SPEECH_END_STOP, Derailment.STALL)
    assert counted("stall", "ended") == before + 1


@pytest.mark.parametrize("steps_ahead", [0, 1])
async def test_derailed_speech_is_spoken_again_as_a_resumed_stream_with_the_next_seed_speaks(
    running: Any, speech_models: SpeechModels, steps_ahead: int
) -> None:
    before = counted("stall", "again")
    with running(stall(SEED), CheckRules(LIMITS, retries=2), steps_ahead=steps_ahead) as engine:
        spoken = await speak(engine, request_for(speech_models), TEXT)
        assert_whole(spoken, engine, len(spoken.codes))
    with running(None, None) as engine:
        resumed = await speak(engine, request_for(speech_models, NEXT_SEED, STALLED[:GOOD]), TEXT)
    assert spoken.codes[:GOOD].tolist() == STALLED[:GOOD]
    assert spoken.codes[GOOD:].tolist() == resumed.codes.tolist()
    torch.testing.assert_close(spoken.samples[-len(resumed.samples) :], resumed.samples, atol=1e-4, rtol=0)
    assert [chunk.spoken_again for chunk in spoken.chunks] == [0] * GOOD + [1] * len(resumed.codes)
    assert spoken.summary is not None
    assert (spoken.summary.derailment, spoken.summary.spoken_again) == (None, 1)
    assert counted("stall", "again") == before + 1


async def test_those_that_speak_or_wait_beside_derailed_speech_speak_as_alone(
    running: Any, speech_models: SpeechModels
) -> None:
    """The engine has two slots, and a step in flight when the speech is found to have derailed."""
    requests = [request_for(speech_models, seed) for seed in (SEED, 6, 7)]
    script, check = stall(SEED), CheckRules(LIMITS, retries=1)
    with running(script, check) as engine:
        alone = [(await speak(engine, request, TEXT)).codes.tolist() for request in requests]
    with running(script, check, steps_ahead=1) as engine:
        together = await asyncio.gather(*(speak(engine, request, TEXT) for request in requests))
        await wait_until(lambda: engine.free_slots == engine.slots)
    assert [spoken.codes.tolist() for spoken in together] == alone
    assert [spoken.chunks[-1].spoken_again for spoken in together] == [1, 0, 0]


async def test_another_worker_goes_on_with_speech_that_was_spoken_again(
    running: Any, speech_models: SpeechModels
) -> None:
    with running(stall(SEED), CheckRules(LIMITS, retries=2)) as engine:
        whole = await speak(engine, request_for(speech_models), TEXT)
        resumed = dataclasses.replace(
            request_for(speech_models, delivered=whole.codes[: GOOD + 2].tolist()), spoken_again=1
        )
        spoken = await speak(engine, resumed, TEXT)
    assert len(whole.codes) > GOOD + 2
    assert spoken.codes.tolist() == whole.codes[GOOD + 2 :].tolist()


async def test_speech_that_derails_each_time_ends_after_its_retries(running: Any, speech_models: SpeechModels) -> None:
    seeds: list[int] = []
    derail = stall(SEED, NEXT_SEED, THIRD_SEED)

    def script(of: StepInput) -> Sequence[int] | None:
        seeds.append(of.sampling.seed)
        return derail(of)

    with running(script, CheckRules(LIMITS, retries=2)) as engine:
        spoken = await speak(engine, request_for(speech_models), TEXT)
        assert_whole(spoken, engine, GOOD)
    assert list(dict.fromkeys(seeds)) == [SEED, NEXT_SEED, THIRD_SEED]
    assert spoken.summary is not None
    assert (spoken.summary.derailment, spoken.summary.spoken_again) == (Derailment.STALL, 2)


async def test_a_greedy_answer_is_not_spoken_again(running: Any, speech_models: SpeechModels) -> None:
    with running(stall(SEED), CheckRules(LIMITS, retries=2)) as engine:
        spoken = await speak(engine, request_for(speech_models, do_sample=False), TEXT)
    assert spoken.summary is not None
    assert (spoken.summary.frames, spoken.summary.spoken_again) == (GOOD, 0)


@pytest.mark.parametrize("end", ["more speech", "the end code", "max_frames"])
async def test_suspect_frames_reach_the_client_where_the_speech_goes_on_or_ends(
    running: Any, speech_models: SpeechModels, end: str
) -> None:
    """More frames are suspect than the client's buffer holds."""
    eos = [speech_models.config.codec_eos_id, *[0] * 15]
    last = {"more speech": 44, "the end code": 38, "max_frames": 38}[end]

    def script(of: StepInput) -> Sequence[int]:
        if of.frames == last:
            return eos
        return frame(ORDINARY if ORDINARY < of.frames < 38 else of.frames)

    with running(script, CheckRules(LIMITS), max_buffered_frames=4) as engine:
        most = 38 if end == "max_frames" else FRAMES
        spoken = await speak(engine, dataclasses.replace(request_for(speech_models), max_frames=most), TEXT)
        assert_whole(spoken, engine, last)
    assert spoken.summary is not None
    assert spoken.summary.derailment is None
    wanted = [frame(ORDINARY if ORDINARY < index < 38 else index) for index in range(last)]
    assert spoken.codes.tolist() == wanted


async def test_a_talker_that_ends_before_its_text_is_asked_again(running: Any, speech_models: SpeechModels) -> None:
    eos = [speech_models.config.codec_eos_id, *[0] * 15]
    early: Script = lambda of: eos if of.sampling.seed == SEED else None  # noqa: E731
    with running(early, CheckRules(LIMITS, retries=1)) as engine:
        spoken = await speak(engine, request_for(speech_models), TEXT)
    with running(early, CheckRules(LIMITS)) as engine:
        ended = await speak(engine, request_for(speech_models), TEXT)
    with running(None, None) as engine:
        wanted = await speak(engine, request_for(speech_models, NEXT_SEED), TEXT)
    assert len(wanted.codes)
    assert spoken.codes.tolist() == wanted.codes.tolist()
    assert ended.summary is not None
    assert (ended.summary.frames, ended.summary.derailment) == (0, Derailment.CUT)


async def test_the_sound_counts_too(running: Any, speech_models: SpeechModels) -> None:
    ordinary: Script = lambda of: frame(of.frames)  # noqa: E731
    for level, why in ((1e-7, None), (10.0, Derailment.SILENCE)):
        limits = CheckLimits(silence_frames=40, silence_rms=level)
        with running(ordinary, CheckRules(limits)) as engine:
            spoken = await speak(engine, request_for(speech_models), TEXT)
        assert spoken.summary is not None
        assert spoken.summary.derailment is why
        assert spoken.summary.frames == (24 if why else FRAMES)


async def test_an_ordinary_answer_is_the_same_with_the_check(
    running: Any, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    options = TalkerOptions(seed=1, max_frames=20)
    expected = answer("image", 40, options)
    with running(None, CheckRules(CheckLimits(), retries=2)) as engine:
        request = request_of(speech_models.config, expected, options)
        assert_equal(await speak(engine, request, expected.token_ids), expected)


@pytest.mark.parametrize(
    ("asked", "is_random", "retries"),
    [("auto", True, None), ("auto", False, 0), ("off", False, None), ("end", True, 0), ("again", False, 3)],
)
def test_the_operator_chooses(
    speech_models: SpeechModels, tmp_path: Path, asked: Any, is_random: bool, retries: int | None
) -> None:
    assert speech_models.config.has_random_weights
    config = dataclasses.replace(speech_models.config, has_random_weights=is_random)
    settings = TalkerSettings(
        redis_url="redis://localhost", model=str(tmp_path), on_derailment=asked, derailment_retries=3, stall_s=2
    )
    rules = CheckRules.chosen(settings, config)
    assert (rules.retries if rules is not None else None) == retries
    assert rules is None or rules.limits == CheckLimits(stall_frames=25, silence_rms=10**-2.5)
