"""Decides which streams run: gives them slots and KV cache blocks, and pauses the youngest when blocks run out.

A stream takes blocks as it grows. The oldest come first: a stream that needs a block takes a free one, or pauses the
youngest of the streams after it. A paused stream keeps its slot; its keys and values move to the host's memory and come
back as they were, so its speech is the same as without the pause. Pauses end in order of age, before new streams start.

While a stream waits for its first frame, those that are MAX_LEAD_S or more ahead of their clients sit out: a prefill
and a step of few streams are shorter than those of all. A stream's codes do not depend on what shares its steps.

No stream waits for ever. The oldest stream that can make a frame always gets its blocks, as it may pause all the others
and fits the pool alone. A waiting stream is passed by at most as many younger ones as there are slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.talker import metrics
from services.talker.kv_cache import BlockPool, blocks_for
from services.talker.stream import SpeechStream

MAX_LEAD_S = 1.0


@dataclass
class Schedule:
    """What to do next, in this order: move `paused` streams' blocks to the host, move `resumed` streams' back, enter
    `grown` (slot, index in its block table, block), open `started` streams; then launch a step of the `ready` streams,
    and prefill chunks of the `prefilling` ones."""

    prefilling: list[SpeechStream] = field(default_factory=list[SpeechStream])
    ready: list[SpeechStream] = field(default_factory=list[SpeechStream])
    started: list[SpeechStream] = field(default_factory=list[SpeechStream])
    resumed: list[SpeechStream] = field(default_factory=list[SpeechStream])
    # With the blocks that each held.
    paused: list[tuple[SpeechStream, list[int]]] = field(default_factory=list[tuple[SpeechStream, list[int]]])
    grown: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])


class Scheduler:
    """Owns the slots and blocks. The engine's thread uses it."""

    def __init__(self, slots: int, num_blocks: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.slots = slots
        self._clock = clock
        self.pool = BlockPool(num_blocks)
        self._free_slots = list(range(slots, 0, -1))

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    def release(self, stream: SpeechStream) -> None:
        """Free what a stream holds that is over."""
        state = stream.state
        if state.slot:
            self._free_slots.append(state.slot)
            self.pool.free(state.blocks)
            state.slot, state.blocks, state.offloaded, state.prompt_embeds = 0, [], None, None
            state.is_paused = False

    def schedule(self, streams: Sequence[SpeechStream]) -> Schedule:
        """Return what runs next. streams: all that are not over, the oldest first."""
        schedule = Schedule()
        started = [stream for stream in streams if stream.state.slot]
        is_short = False
        for age, stream in enumerate(started):
            can_prefill = stream.can_prefill()
            if not (can_prefill or stream.is_ready()):
                continue
            if self._secure(stream, started, age, schedule):
                (schedule.prefilling if can_prefill else schedule.ready).append(stream)
            else:
                is_short = True
        if len(started) < len(streams) and not (is_short or schedule.paused):
            self._start(streams, schedule)
        if any(stream.state.is_starting for stream in [*schedule.prefilling, *schedule.ready]):
            now_s = self._clock()
            schedule.ready = [stream for stream in schedule.ready if stream.state.lead_s(now_s) < MAX_LEAD_S]
        metrics.kv_blocks_in_use.set(self.pool.num_blocks - self.pool.num_free)
        return schedule

    def _secure(self, stream: SpeechStream, started: Sequence[SpeechStream], age: int, schedule: Schedule) -> bool:
        """Give the stream the blocks that its next chunk or step needs. Return False if it must wait for them."""
        state = stream.state
        missing = self._needed_blocks(stream) - len(state.blocks)
        if missing <= 0:
            return True
        if not self._make_room(missing, stream, started, age, schedule):
            return False
        added = self.pool.allocate(missing) or []
        if state.is_paused:
            state.is_paused = False
            state.blocks = added
            schedule.resumed.append(stream)
        else:
            held = len(state.blocks)
            schedule.grown += [(state.slot, held + index, block) for index, block in enumerate(added)]
            state.blocks += added
        return True

    def _make_room(
        self, missing: int, stream: SpeechStream, started: Sequence[SpeechStream], age: int, schedule: Schedule
    ) -> bool:
        """Pause streams, the youngest first, until so many blocks are free. Return False, and pause none, if that is
        not enough.

        Any stream may pause younger ones. One that runs may also pause older ones that wait for text or for their
        client. One that is paused may not: it would be paused again for the older one's next token.
        """
        victims: list[SpeechStream] = []
        free = self.pool.num_free
        for other_age in range(len(started) - 1, -1, -1):
            if free >= missing:
                break
            other = started[other_age]
            if other is stream or not other.state.blocks:
                continue
            is_idle = not (other.can_prefill() or other.is_ready())
            if other_age > age or (is_idle and not stream.state.is_paused):
                victims.append(other)
                free += len(other.state.blocks)
        if free < missing:
            return False
        for victim in victims:
            self._pause(victim, schedule)
        return True

    def _pause(self, stream: SpeechStream, schedule: Schedule) -> None:
        state = stream.state
        schedule.paused.append((stream, state.blocks))
        self.pool.free(state.blocks)
        state.blocks, state.is_paused = [], True
        metrics.preemptions_total.inc()

    def _start(self, streams: Sequence[SpeechStream], schedule: Schedule) -> None:
        """Start waiting streams, in order, that find a slot and the blocks of their prompts.

        One whose prompt does not fit yet is passed by shorter ones. Each running stream is left a free block to grow
        into, so that a start does not lead to a pause at once.
        """
        reserve = sum(1 for stream in streams if stream.state.blocks)
        passed: list[SpeechStream] = []
        for stream in streams:
            if stream.state.slot:
                continue
            if not self._free_slots or (passed and passed[0].state.times_passed >= self.slots):
                return
            needed = self._needed_blocks(stream)
            if self.pool.num_free < needed + reserve:
                passed.append(stream)
                continue
            for other in passed:
                other.state.times_passed += 1
            stream.state.slot, stream.state.blocks = self._free_slots.pop(), self.pool.allocate(needed) or []
            schedule.started.append(stream)
            reserve += 1
            if stream.can_prefill():
                schedule.prefilling.append(stream)
            elif stream.is_ready():
                schedule.ready.append(stream)

    def _needed_blocks(self, stream: SpeechStream) -> int:
        """Return how many blocks the stream needs now: for its whole prefill, then for one more token each step."""
        tokens = max(stream.state.length, stream.state.prefill_tokens) + 1
        return min(blocks_for(tokens), self.pool.num_blocks)
