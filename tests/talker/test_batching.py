"""Continuous batching: however streams join, wait, leave and resume, each gives what it gives alone."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from services.talker import cpu_traces
from services.talker.checkpoint import SpeechConfig, SpeechModels, load_speech_models
from services.talker.engine import SpeechEngine
from services.talker.memory import MemoryPlan, plan_memory
from services.talker.prefill import MAX_PREFILL_TOKENS
from services.talker.sampling import SamplingParams
from services.talker.scheduler import Schedule, Scheduler
from services.talker.stream import SpeechRequest, SpeechStream
from tests.fixtures.oracle import OracleResult, TalkerOptions
from tests.fixtures.wait import wait_until
from tests.talker.conftest import ExpectedSpeech
from tests.talker.soak import resident_bytes, soak
from tests.talker.speech import Spoken, collect, prompt_of_length, request_of, speak

MB = 1_000_000
OPTIONS = [
    TalkerOptions(seed=11, max_frames=40),
    TalkerOptions(seed=12, max_frames=25, temperature=1.3, top_k=0),
    TalkerOptions(do_sample=False, max_frames=30),
    TalkerOptions(seed=13, max_frames=33, top_p=0.8, repetition_penalty=1.3),
]
KINDS = ["text", "image", "several turns", "audio in video"]


@pytest.fixture(scope="module")
def small_engine(speech_models: SpeechModels) -> Iterator[SpeechEngine]:
    engine = _small_engine(speech_models)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine_one_ahead(speech_models: SpeechModels) -> Iterator[SpeechEngine]:
    """Launch a step before the last one is read, as on a GPU."""
    engine = _small_engine(speech_models, steps_ahead=1)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine_that_pauses(speech_models: SpeechModels) -> Iterator[SpeechEngine]:
    """Pause streams at random, as if the cache ran out of blocks."""
    engine = _small_engine(speech_models, steps_ahead=1)
    pool = engine.scheduler.pool
    engine.scheduler = scheduler = PausingScheduler(engine.slots, pool.num_blocks)
    engine.start()
    yield engine
    engine.close()
    assert scheduler.pauses > 20


class PausingScheduler(Scheduler):
    """Pauses each running stream but the oldest with a chance of one in ten."""

    chance = random.Random(7)
    pauses = 0

    def _secure(self, stream: SpeechStream, started: Sequence[SpeechStream], age: int, schedule: Schedule) -> bool:
        if stream.state.blocks and (schedule.ready or schedule.prefilling) and self.chance.random() < 0.1:
            self.pauses += 1
            self._pause(stream, schedule)
            return False
        return super()._secure(stream, started, age, schedule)


def _small_engine(models: SpeechModels, steps_ahead: int = 0) -> SpeechEngine:
    """Return an engine with five slots."""
    plan = plan_memory(models, 60 * MB, slots=5, max_frames=40)
    return SpeechEngine(models, memory=plan, steps_ahead=steps_ahead)


@dataclass
class Listener:
    """One stream's client: what it received, and what it lost when it left."""

    expected: OracleResult
    options: TalkerOptions
    codes: list[list[int]] = field(default_factory=list[list[int]])
    samples: list[torch.Tensor] = field(default_factory=list[torch.Tensor])

    async def listen(self, engine: SpeechEngine, config: SpeechConfig, chance: random.Random) -> None:
        """Feed the text in random parts, and disconnect and resume at random, until the speech ends."""
        while True:
            delivered = torch.tensor(self.codes, dtype=torch.int64).view(-1, 16)
            request = request_of(config, self.expected, self.options, delivered=delivered)
            stream = engine.submit(request)
            feeding = asyncio.create_task(self._feed(stream, chance), name="feed")
            leaves_after = chance.choice([None, None, 0, 1, chance.randrange(1, 30)])
            is_over = await self._take(stream, leaves_after)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            if is_over:
                return

    async def _take(self, stream: SpeechStream, leaves_after: int | None) -> bool:
        taken = 0
        if leaves_after == 0:
            stream.cancel()
            return False
        async for chunk in stream:
            self.codes += chunk.codes.tolist()
            self.samples.append(torch.from_numpy(chunk.samples))
            taken += 1
            if taken == leaves_after and stream.summary is None:
                stream.cancel()
                return False
        return True

    async def _feed(self, stream: SpeechStream, chance: random.Random) -> None:
        ids, begin = self.expected.token_ids, 0
        while begin < len(ids):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            end = min(begin + chance.randrange(1, 12), len(ids))
            stream.feed(ids[begin:end], is_last=end == len(ids))
            begin = end


@pytest.mark.parametrize(
    ("engine_name", "seed"),
    [(name, seed) for name in ("small_engine", "engine_one_ahead", "engine_that_pauses") for seed in range(3)],
)
async def test_streams_that_join_leave_and_resume_at_random_equal_their_runs_alone(
    request: pytest.FixtureRequest,
    engine_name: str,
    speech_models: SpeechModels,
    answer: ExpectedSpeech,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    engine: SpeechEngine = request.getfixturevalue(engine_name)
    if seed == 0:
        monkeypatch.setattr(cpu_traces, "_USES_BEFORE", 2)  # most of its steps are traced from the third on
    chance = random.Random(seed)
    listeners: list[Listener] = []
    for _ in range(9):  # more than there are slots
        options = chance.choice(OPTIONS)
        listeners.append(Listener(answer(chance.choice(KINDS), chance.choice([12, 30]), options), options))
    async with asyncio.TaskGroup() as tasks:
        for listener in listeners:
            own = random.Random(chance.random())
            tasks.create_task(listener.listen(engine, speech_models.config, own))
    for listener in listeners:
        assert listener.codes == listener.expected.codes.tolist()
        samples = torch.cat(listener.samples) if listener.samples else torch.zeros(0)
        torch.testing.assert_close(samples, listener.expected.samples, atol=1e-4, rtol=0)
    await wait_until(lambda: engine.live_streams == 0 and engine.free_slots == engine.slots)


def _small_plan(models: SpeechModels) -> MemoryPlan:
    """Return a plan of 4 slots, a batch size that has a graph on a GPU."""
    return plan_memory(models, 120 * MB, slots=4, max_frames=40)


async def test_batch_invariant_bfloat16_equals_the_run_alone_bit_for_bit(
    tiny_instruct: Path, device: torch.device, answer: ExpectedSpeech
) -> None:
    models = load_speech_models(tiny_instruct, device=str(device), dtype="bfloat16")
    engine = SpeechEngine(models, memory=_small_plan(models), batch_invariant=True)
    engine.warm_up()
    engine.start()
    requests = [
        (request_of(models.config, expected, options), expected.token_ids)
        for kind, options in zip(KINDS, OPTIONS, strict=True)
        for expected in [answer(kind, 12, options)]
    ]

    over: list[int] = []

    async def late(index: int) -> Spoken:
        # Where this thread gets no processor time, the first may be over before the last begins.
        await wait_until(lambda: engine.live_streams + len(over) >= index)
        spoken = await speak(engine, *requests[index])
        over.append(index)
        return spoken

    try:
        alone = [await speak(engine, *asked) for asked in requests]
        together = await asyncio.gather(*[late(index) for index in range(len(requests))])
    finally:
        engine.close()
    for one, other in zip(alone, together, strict=True):
        assert len(one.codes) > 5
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.samples, other.samples)


async def test_batch_invariant_calls_have_one_shape_and_equal_transformers(
    speech_models: SpeechModels, answer: ExpectedSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SpeechEngine(speech_models, memory=_small_plan(speech_models), batch_invariant=True)
    parts = engine.speaker.parts
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for owner, name, which in ((parts, "decode", 0), (parts, "draw_codes", 0), (parts, "decode_audio", 2)):
        watch(monkeypatch, owner, name, which, shapes)
    watch(monkeypatch, parts.talker, "prefill", 4, shapes)
    engine.start()
    expected = [answer(kind, 12, OPTIONS[0]) for kind in KINDS]
    asked = [(request_of(speech_models.config, each, OPTIONS[0]), each.token_ids) for each in expected]
    try:
        spoken = await asyncio.gather(*[speak(engine, *each) for each in asked])
    finally:
        engine.close()
    assert [each.codes.tolist() for each in spoken] == [each.codes.tolist() for each in expected]
    hidden = parts.hidden_size
    assert shapes == {
        "decode": {(4,)},
        "draw_codes": {(4, hidden)},
        "decode_audio": {(4, speech_models.config.codebooks)},
        "prefill": {(1, MAX_PREFILL_TOKENS, hidden)},
    }


def watch(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, which: int, shapes: dict[str, set[tuple[int, ...]]]
) -> None:
    """Record the shape of argument number `which` in each call."""
    call = getattr(owner, name)

    def watched(*arguments: Any, **others: Any) -> Any:
        shapes.setdefault(name, set()).add(tuple(arguments[which].shape))
        return call(*arguments, **others)

    monkeypatch.setattr(owner, name, watched)


async def test_streams_beyond_the_slots_wait_and_are_served_in_order(
    small_engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    options = OPTIONS[0]
    expected = answer("text", 30, options)
    streams = [small_engine.submit(request_of(speech_models.config, expected, options)) for _ in range(7)]
    await wait_until(lambda: small_engine.free_slots == 0)
    assert [bool(stream.state.slot) for stream in streams] == [True] * 5 + [False] * 2
    streams[3].cancel()
    await wait_until(lambda: streams[5].state.slot > 0)
    assert not streams[6].state.slot
    streams[0].feed(expected.token_ids, is_last=True)
    codes = [chunk.codes.tolist()[0] async for chunk in streams[0]]
    assert codes == expected.codes.tolist()
    await wait_until(lambda: streams[6].state.slot > 0)
    for stream in streams:
        stream.cancel()


async def test_a_prompt_is_prefilled_before_the_answers_first_token(
    small_engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    expected = answer("image", 12, OPTIONS[0])
    stream = small_engine.submit(request_of(speech_models.config, expected, OPTIONS[0]))
    await wait_until(lambda: stream.state.is_prefilled)
    assert not stream.is_ready()
    stream.cancel()


async def test_a_long_prompt_does_not_hold_up_the_others(speech_models: SpeechModels, answer: ExpectedSpeech) -> None:
    """Between two chunks of the long prompt, the other stream gets a frame."""
    options = TalkerOptions(seed=11, max_frames=40)
    expected = answer("text", 30, options)
    request = request_of(speech_models.config, expected, options)
    engine = SpeechEngine(speech_models, memory=plan_memory(speech_models, 60 * MB, slots=2, max_frames=40))
    quick = engine.submit(request)
    slow = engine.submit(
        dataclasses.replace(request, prompt=prompt_of_length(speech_models.config, 6000), max_frames=2)
    )
    quick.feed(expected.token_ids, is_last=True)
    engine.start()
    try:
        taken_in = [slow.state.length async for _ in quick]
        assert len(set(taken_in)) > 5
        slow.feed(expected.token_ids, is_last=True)
        assert [len(chunk.codes) async for chunk in slow] == [1, 1]
    finally:
        engine.close()


async def test_speech_continues_after_ten_minutes(speech_models: SpeechModels) -> None:
    config = dataclasses.replace(speech_models.config, codec_eos_id=-1)  # the stream never ends by itself
    engine = SpeechEngine(
        dataclasses.replace(speech_models, config=config),
        memory=plan_memory(speech_models, 200 * MB, slots=1, max_frames=7500),
    )
    engine.start()
    try:
        delivered = torch.randint(0, config.codebook_size, (7450, 16), generator=torch.Generator().manual_seed(1))
        stream = engine.submit(SpeechRequest(prompt_of_length(config, 100), SamplingParams(seed=1), 7500, delivered))
        stream.feed([config.assistant_id] * 50, is_last=True)
        spoken = await collect(stream)
    finally:
        engine.close()
    assert len(spoken.codes) == 50
    assert spoken.summary is not None
    assert (spoken.summary.frames, spoken.summary.samples) == (7500, 7500 * 1920 - 555)
    expected = decoded_from(speech_models.code2wav, torch.cat((delivered[-400:], spoken.codes)), 7450 - 400)
    torch.testing.assert_close(spoken.samples, expected[-50 * 1920 :], atol=1e-4, rtol=0)


@torch.inference_mode()
def decoded_from(code2wav: Any, codes: torch.Tensor, first: int) -> torch.Tensor:
    """Decode the frames from `first` on. Earlier ones are outside the context of the frames that are compared."""
    device = code2wav.code_offset.device
    hidden = code2wav.code_embedding(codes.T[None].to(device) + code2wav.code_offset).mean(1)
    positions = torch.arange(first, first + len(codes), device=device)[None]
    hidden = code2wav.pre_transformer(inputs_embeds=hidden, position_ids=positions).last_hidden_state.transpose(1, 2)
    for layer in [*(layer for stage in code2wav.upsample for layer in stage), *code2wav.decoder]:
        hidden = layer(hidden)
    return hidden.clamp(-1, 1).reshape(-1).cpu()


async def test_streams_of_random_length_leave_nothing_behind(
    small_engine: SpeechEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_traces, "_MOST", 0)  # traces of shapes stay, but they are few
    await soak(small_engine, 40, seed=1)
    gc.collect()
    before = resident_bytes()
    await soak(small_engine, 160, seed=2)
    await wait_until(lambda: small_engine.free_slots == small_engine.slots)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is SpeechStream]
    assert resident_bytes() - before < 16 * MB
