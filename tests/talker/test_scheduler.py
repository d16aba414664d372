"""Scheduling of KV blocks: the oldest stream first, no starvation, and no block with two owners."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import pytest
import torch

from antiphon.v1 import talker_pb2
from services.common.model_card import SAMPLE_RATE
from services.talker.conditioning import Prompt
from services.talker.kv_cache import BLOCK_SIZE, blocks_for
from services.talker.sampling import SamplingParams
from services.talker.scheduler import MAX_LEAD_S, Schedule, Scheduler
from services.talker.stream import SpeechRequest, SpeechState, SpeechStream, SpeechSummary, SpokenText

pytestmark = pytest.mark.asyncio  # a stream belongs to an event loop


def stream_of(prompt_tokens: int, frames: int, *, text: int = 10_000) -> SpeechStream:
    """Return a stream that has received this much of its text."""
    ids = [0] * (prompt_tokens - 9)
    prompt = Prompt(ids, [False] * len(ids), None, [], [], torch.zeros(3, prompt_tokens), 0)
    request = SpeechRequest(prompt, SamplingParams(seed=0), frames, torch.zeros(0, 16, dtype=torch.int64))
    state = SpeechState(max_frames=frames, prefill_tokens=prompt_tokens - 1)
    return SpeechStream(request, 10_000, SpokenText([1] * text), state, contextlib.nullcontext)


class Pool:
    """A scheduler with its streams, the oldest first. `run` does with a schedule what the engine does."""

    def __init__(self, *, slots: int, num_blocks: int) -> None:
        self.scheduler = Scheduler(slots, num_blocks)
        self.streams: list[SpeechStream] = []

    def add(self, *streams: SpeechStream) -> None:
        self.streams += streams

    def run(self, rounds: int = 1) -> Schedule:
        schedule = Schedule()
        for _ in range(rounds):
            schedule = self.scheduler.schedule(self.streams)
            self._check(schedule)
            for stream in schedule.prefilling[:2]:
                stream.state.length = min(stream.state.length + 512, stream.state.prefill_tokens)
            for stream in schedule.ready:
                stream.state.length += 1
                stream.state.frames += 1
                if stream.state.frames == stream.state.max_frames:
                    stream.finish(SpeechSummary(talker_pb2.SPEECH_END_LENGTH, stream.state.frames, 0))
            for stream in self.streams:
                if stream.is_over:
                    self.scheduler.release(stream)
            self.streams = [stream for stream in self.streams if not stream.is_over]
        return schedule

    def _check(self, schedule: Schedule) -> None:
        held = [block for stream in self.streams for block in stream.state.blocks]
        assert len(set(held)) == len(held)
        assert 0 not in held
        assert len(held) + self.scheduler.pool.num_free == self.scheduler.pool.num_blocks
        for stream in [*schedule.prefilling, *schedule.ready]:
            assert not stream.state.is_paused
            assert len(stream.state.blocks) * BLOCK_SIZE > stream.state.length
        tables: dict[int, list[int]] = {}
        for slot, index, block in schedule.grown:  # in order, after the earlier ones
            tables.setdefault(slot, []).append(block)
            grown = next(stream for stream in self.streams if stream.state.slot == slot)
            assert grown.state.blocks[index] == block
        eager = [stream for stream in self.streams if stream.state.slot and (stream.can_prefill() or stream.is_ready())]
        if eager and not any(stream.state.blocks for stream in self._older(eager[0])):
            assert eager[0] in [*schedule.prefilling, *schedule.ready]

    def _older(self, stream: SpeechStream) -> Sequence[SpeechStream]:
        return self.streams[: self.streams.index(stream)]


async def test_a_stream_takes_blocks_as_it_grows() -> None:
    pool = Pool(slots=2, num_blocks=10)
    stream = stream_of(60, 200)
    pool.add(stream)
    pool.run(2)
    assert len(stream.state.blocks) == 1
    pool.run(100)
    assert len(stream.state.blocks) == blocks_for(stream.state.length) == 3
    pool.run(100)
    assert pool.scheduler.pool.num_free == 10


async def test_streams_ahead_of_their_clients_sit_out_while_another_starts() -> None:
    now_s = 10.0
    scheduler = Scheduler(4, 40, clock=lambda: now_s)
    ahead, behind, starting = (stream_of(60, 200) for _ in range(3))
    for stream in (ahead, behind):
        stream.state.length, stream.state.frames = 60, 1
        scheduler.schedule([ahead, behind])
        stream.state.frames_made, stream.state.began_s = 20, now_s
    ahead.state.samples_made = int((MAX_LEAD_S + 0.5) * SAMPLE_RATE)
    behind.state.samples_made = int((MAX_LEAD_S - 0.5) * SAMPLE_RATE)
    streams = [ahead, behind, starting]
    assert scheduler.schedule(streams).prefilling == [starting]
    assert scheduler.schedule(streams).ready == [behind]
    starting.state.length = starting.state.prefill_tokens
    assert scheduler.schedule(streams).ready == [behind, starting]
    now_s += 0.6  # played
    assert scheduler.schedule(streams).ready == streams
    now_s -= 0.6
    starting.state.in_flight = 1
    assert scheduler.schedule(streams).ready == streams


async def test_short_streams_start_while_a_long_one_waits_for_its_blocks() -> None:
    pool = Pool(slots=8, num_blocks=12)
    running, long, short = stream_of(60, 600), stream_of(640, 5), [stream_of(20, 5) for _ in range(4)]
    pool.add(running)
    pool.run(200)
    pool.add(long, *short)
    pool.run(30)
    assert not long.state.slot
    assert all(stream.is_over for stream in short)


async def test_a_bounded_number_of_short_streams_overtakes_a_long_one() -> None:
    pool = Pool(slots=3, num_blocks=12)
    running, long = stream_of(60, 150), stream_of(700, 5)
    pool.add(running)
    pool.run(70)
    pool.add(long)
    passed = 0
    while not long.is_over:
        pool.add(stream_of(20, 20))
        is_waiting = not long.state.slot
        started = pool.run().started
        if is_waiting and long not in started:
            passed += len(started)
    assert passed == 3


async def test_the_youngest_is_paused_for_an_older_one_and_resumes() -> None:
    pool = Pool(slots=2, num_blocks=5)
    older, younger = stream_of(126, 100), stream_of(126, 100)
    pool.add(older, younger)
    while not younger.state.is_paused:
        assert pool.run().ready != [younger]
    assert older.state.length == 3 * BLOCK_SIZE + 1
    assert (younger.state.slot, younger.state.blocks) == (2, [])
    frames = younger.state.frames
    while not older.is_over:
        assert younger.state.frames == frames
        pool.run()
    assert pool.run().resumed == [younger]
    pool.run(100)
    assert younger.is_over


async def test_a_stream_that_waits_for_its_client_is_paused_first() -> None:
    pool = Pool(slots=2, num_blocks=5)
    older, younger = stream_of(126, 100, text=2), stream_of(126, 100)
    pool.add(older, younger)
    while not older.state.is_paused:
        pool.run()
    older.text.add([1] * 100, is_last=False)
    schedule = pool.run()
    assert [stream for stream, _ in schedule.paused] == [younger]
    assert schedule.resumed == schedule.ready == [older]
    pool.run(300)
    assert older.is_over
    assert younger.is_over


async def test_a_paused_stream_does_not_displace_an_older_one() -> None:
    """Otherwise the two would swap on every token of a slow text."""
    pool = Pool(slots=2, num_blocks=5)
    older, younger = stream_of(126, 100, text=68), stream_of(126, 100)
    pool.add(older, younger)
    pool.run(200)
    assert younger.state.is_paused
    assert (older.state.is_paused, older.state.frames) == (False, 68)


@pytest.mark.parametrize("seed", range(12))
async def test_every_stream_ends(seed: int) -> None:
    chance = random.Random(seed)
    pool = Pool(slots=chance.randrange(1, 6), num_blocks=chance.randrange(6, 14))
    most = pool.scheduler.pool.num_blocks * BLOCK_SIZE
    waiting = chance.randrange(5, 15)
    added: list[SpeechStream] = []
    for _ in range(1500):
        if waiting and chance.random() < 0.2:
            waiting -= 1
            prompt = chance.randrange(10, most // chance.choice([1, 2, 8]))
            added.append(stream_of(prompt, chance.randrange(1, min(most + 1 - prompt, 150) + 1), text=0))
            pool.add(added[-1])
        for stream in pool.streams:
            if chance.random() < 0.02:
                stream.text.add([1] * chance.randrange(1, 80), is_last=False)
            if chance.random() < 0.002:
                stream.cancel()
        pool.run()
    for stream in pool.streams:
        stream.text.add([1] * 200, is_last=False)
    pool.run(len(pool.streams) * 200)
    assert len(added) > 4
    assert all(stream.is_over for stream in added)
    assert pool.scheduler.num_free_slots == pool.scheduler.slots
