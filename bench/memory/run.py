"""Send hostile requests and watch."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from antiphon.v1 import common_pb2
from bench.memory.watch import Watch
from services.common.errors import AntiphonError, forget_frames
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.memory import FILE_COPIES
from services.preprocess.preparer import Preparer
from tests.preprocess.rig import Conversation

_CHUNK_BYTES = 1 << 20


async def send(preparer: Preparer, talk: Conversation, request_id: str) -> None:
    """Prepare a conversation. Its inline files arrive chunk by chunk, as over gRPC."""
    talk.start.context.CopyFrom(common_pb2.RequestContext(request_id=request_id, tenant=request_id[-1]))
    async with preparer.files_of(talk.start) as files:
        inline: dict[int, bytearray] = {}
        for index, data in talk.inline.items():
            inline[index] = bytearray()
            for start in range(0, len(data), _CHUNK_BYTES):
                chunk = data[start : start + _CHUNK_BYTES]
                await files.grow(FILE_COPIES * len(chunk))
                inline[index] += chunk
        await preparer.prepare(talk.start, inline, files)


async def storm(
    preparer: Preparer,
    decoders: DecodePool,
    kinds: Mapping[str, Callable[[], Conversation]],
    *,
    requests: int,
    at_once: int,
    cancelled: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Send `requests`, of each of `kinds` in turn, `at_once` at a time; leave some early. Return what became of them,
    and how much memory this process and its `decoders` took meanwhile."""
    chance, outcomes, ids = random.Random(seed), Counter[str](), itertools.count()
    made = itertools.cycle(kinds.items())
    room = asyncio.Semaphore(at_once)

    async def one(name: str, talk: Conversation) -> None:
        async with room:
            patience_s = chance.uniform(0, 2) if chance.random() < cancelled else None
            try:
                async with asyncio.timeout(patience_s):
                    await send(preparer, talk, f"hostile-{next(ids)}")
                outcome = "prepared"
            except (AntiphonError, TimeoutError) as error:
                outcome = error.code if isinstance(error, AntiphonError) else "left"
                forget_frames(error)  # as the service does where a call ends
            outcomes[f"{name}: {outcome}"] += 1

    with Watch.running(decoders) as watch:
        async with asyncio.TaskGroup() as group:
            for _ in range(requests):
                name, make = next(made)
                group.create_task(one(name, make()))
        return {"outcomes": dict(sorted(outcomes.items())), "grown_mib": watch.grown_bytes >> 20}
