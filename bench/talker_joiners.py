"""Measure how long a voice's first frame takes at the talker when others begin or speak, and what bounds it.

    python -m bench.talker_joiners [--rounds 7] [--json bench/results/talker_joiners.json]

- `at_once`: so many join an idle engine in the same moment. Beside the time from joining to the first frame (median and
  last of them) stand how often each part ran until the last one had its frame, and the engine's processor time in it.
  A step is talker, predictor and codec.
- `beside`: one joins while others speak, with and without the rule that those ahead of their clients sit out
  (services/talker/scheduler.py). The two alternate round by round.

The tiny checkpoint, one thread, greedy text of one length; medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from antiphon.v1 import preprocess_pb2
from bench.machine import machine
from bench.report import arguments_parser, report
from services.common.chat_template import load_chat_template
from services.local.cache import default_cache_dir
from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.talker import scheduler
from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.conditioning import read_prompt
from services.talker.engine import SpeechEngine
from services.talker.memory import budget_bytes, plan_memory
from services.talker.sampling import SamplingParams
from services.talker.stream import SpeechRequest, SpeechStream
from tests.fixtures.wait import wait_until

AT_ONCE, SPEAKING = (1, 4, 8, 16), (7, 15)
MOST_LEAD_S = scheduler.MAX_LEAD_S


class Parts:
    """Counts the calls and the processor time (s) of the engine's parts."""

    def __init__(self, engine: SpeechEngine) -> None:
        self.calls: dict[str, int] = {}
        self.used_s: dict[str, float] = {}
        speaker: Any = engine.speaker
        prefiller: Any = engine._prefiller  # pyright: ignore[reportPrivateUsage]
        for name, owner, method in (
            ("prefill", prefiller, "advance"),
            ("talker", speaker, "_hidden_states"),
            ("step", speaker, "begin"),
            ("codec", speaker, "_decode_audio"),
        ):
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def clear(self) -> None:
        self.calls.clear()
        self.used_s.clear()

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            began_s = time.thread_time()
            try:
                return work(*given, **named)
            finally:
                self.calls[name] = self.calls.get(name, 0) + 1
                self.used_s[name] = self.used_s.get(name, 0.0) + time.thread_time() - began_s

        return timed


class Bench:
    def __init__(self, models: SpeechModels, prompt_ids: list[int]) -> None:
        self.models, self.prompt_ids = models, prompt_ids
        self.engine = SpeechEngine(models, memory=plan_memory(models, budget_bytes(models), slots=32))
        self.parts = Parts(self.engine)

    def join(self, seed: int, frames: int) -> SpeechStream:
        config = self.models.config
        prompt = read_prompt(config, self.prompt_ids, image_grids=[], video_grids=[], hidden_states=None, voice="ethan")
        none = torch.empty(0, config.codebooks, dtype=torch.int64)
        stream = self.engine.submit(SpeechRequest(prompt, SamplingParams(seed=seed), frames, none))
        stream.feed([100 + seed] * (frames + 8), is_last=True)
        return stream

    async def at_once(self, count: int, frames: int = 3) -> dict[str, float]:
        """Return ms: median and last first frame, and each part's time and calls until the last one."""
        self.parts.clear()
        firsts_s: list[float] = []
        until: dict[str, float] = {}

        async def one(seed: int) -> None:
            began_s = time.perf_counter()
            stream = self.join(seed, frames)
            async for _ in stream:
                if stream.state.frames_made and len(firsts_s) < count and seed not in heard:
                    heard.add(seed)
                    firsts_s.append(time.perf_counter() - began_s)
                    if len(firsts_s) == count:
                        until.update({f"{name}_calls": calls for name, calls in self.parts.calls.items()})
                        until.update({f"{name}_ms": 1000 * used_s for name, used_s in self.parts.used_s.items()})

        heard: set[int] = set()
        await asyncio.gather(*(one(seed) for seed in range(count)))
        return {"median_ms": 1000 * median(firsts_s), "last_ms": 1000 * max(firsts_s), **until}

    async def beside(self, speaking: int, most_lead_s: float) -> dict[str, float]:
        """Return ms of the first frame of one that joins others that are ahead of their clients."""
        scheduler.MAX_LEAD_S = most_lead_s
        others = [self.join(100 + number, 1000) for number in range(speaking)]
        tasks = [asyncio.create_task(_listen(stream)) for stream in others]
        await wait_until(lambda: all(one.state.frames_made > 5 for one in others))
        for one in others:  # as if their clients had not begun to play, however fast this machine is
            one.state.began_s += 3600
        measured = await self.at_once(1)
        for stream in others:
            stream.cancel()
        await asyncio.gather(*tasks)
        return measured


async def _listen(stream: SpeechStream) -> None:
    async for _ in stream:
        pass


async def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    for count in AT_ONCE:  # the warm-up: shapes that come often are traced
        await bench.at_once(count, frames=40)
    await wait_until(lambda: not bench.engine.speaker.parts.has_untraced)
    found: dict[str, dict[str, list[dict[str, float]]]] = {"at_once": {}, "beside": {}, "beside_before": {}}
    for _ in range(rounds):
        for count in AT_ONCE:
            found["at_once"].setdefault(str(count), []).append(await bench.at_once(count))
        for speaking in SPEAKING:
            for name, most_lead_s in (("beside", MOST_LEAD_S), ("beside_before", math.inf)):
                found[name].setdefault(str(speaking), []).append(await bench.beside(speaking, most_lead_s))
    return {part: {count: _medians(many) for count, many in of.items()} for part, of in found.items()}


def _medians(many: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(one.get(name, 0.0) for one in many), 1) for name in many[0]}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    message = preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="Tell me of the sea.")])
    prompt_ids = load_chat_template(folder, 32_768).token_ids([message], "")
    bench = Bench(load_speech_models(folder), prompt_ids)
    bench.engine.start()
    try:
        figures = asyncio.run(measure(bench, given.rounds))
    finally:
        bench.engine.close()
    report({"machine": machine(), "prompt_tokens": len(prompt_ids), "rounds": given.rounds, **figures}, given.json)


if __name__ == "__main__":
    main()
