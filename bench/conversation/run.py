"""One run: so many speakers at a time, before one gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.conversation.figures import Figures, figures_of
from bench.conversation.gateways import running_gateways, running_redis, wait_ready
from bench.conversation.speaker import Speaker
from bench.conversation.stages import answering_stages
from bench.conversation.timeline import timeline
from bench.cpu import used_s

_KEY = "the key of all speakers"
INTERRUPT_SPEECH_MS, BACK_CHANNEL_MS = 300, 500
"""As gateways have them by default."""
_EAGER_SILENCE_MS = 200


@dataclass(frozen=True)
class Options:
    """`noise`: root mean square of the full scale. `back_channel_ms`: how long the sounds of listeners are."""

    sessions: int
    seconds: float
    eager: bool
    turn_detection: Mapping[str, Any]
    seed: int = 0
    noise: float = 0.005
    back_channel_ms: int = 250


@dataclass
class Result:
    figures: Figures
    seconds: float
    # Processor seconds of the gateway and of this process: the speakers and the stages.
    gateway_cpu_s: float
    bench_cpu_s: float

    def shown(self) -> dict[str, object]:
        return {
            **self.figures.shown(),
            "seconds": round(self.seconds, 1),
            "gateway_cores": round(self.gateway_cpu_s / self.seconds, 2),
            "speakers_and_stages_cores": round(self.bench_cpu_s / self.seconds, 2),
        }


async def run(options: Options) -> Result:
    speakers = [
        Speaker(
            number,
            timeline(number, options.seed, options.seconds, options.noise, options.back_channel_ms),
            options.turn_detection,
        )
        for number in range(options.sessions)
    ]
    by_name = {one.instructions: one for one in speakers}
    settings = {
        "API_KEY": _KEY,
        "REALTIME_MAX_SESSIONS": str(options.sessions),
        "REALTIME_EAGER_SILENCE_MS": str(_EAGER_SILENCE_MS if options.eager else 0),
        "REALTIME_INTERRUPT_SPEECH_MS": str(INTERRUPT_SPEECH_MS),
        "REALTIME_BACK_CHANNEL_MS": str(BACK_CHANNEL_MS),
    }
    loop = asyncio.get_running_loop()
    async with (
        running_redis() as store,
        answering_stages(store.url, lambda who: by_name[who].has_finished(), lambda who: by_name[who].wants_turn()),
        running_gateways(1, store, settings) as (gateway,),
    ):
        await wait_ready(gateway)
        began_s, gateway_s, own_s = loop.time(), used_s(gateway.pid), _own_cpu_s(gateway.pid)
        async with asyncio.TaskGroup() as tasks:
            for speaker in speakers:
                name = speaker.instructions
                tasks.create_task(speaker.converse(gateway.ports["http"], _KEY), name=name)
        seconds = loop.time() - began_s
        gateway_s, own_s = used_s(gateway.pid) - gateway_s, _own_cpu_s(gateway.pid) - own_s
    figures = await asyncio.to_thread(figures_of, speakers, BACK_CHANNEL_MS)
    return Result(figures, seconds, gateway_s, own_s)


def _own_cpu_s(gateway: int | None) -> float:
    """Return what this process has used, without the gateway."""
    return used_s() - used_s(gateway)
