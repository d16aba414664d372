"""Two scripted workers of each stage, a gateway in front of them, and a client that assembles answers."""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from antiphon.v1 import common_pb2
from services.common.queues import QueueClient, QueueName
from services.common.redis_client import connect
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import CAPTIONER, INSTRUCT, RunningGateway, running_gateway
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.story import Story
from tests.gateway.scripted.worker import ScriptedPreprocess, ScriptedTalker, ScriptedThinker, ScriptedWorker

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
HEARD = [
    {
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}],
    }
]
SPEECH: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "pcm16"}}


@dataclass
class Told:
    """An answer as a client assembles it from the stream."""

    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    codes: list[int] = field(default_factory=list[int])
    pcm: bytes = b""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    error: dict[str, Any] | None = None
    roles: int = 0
    codebooks: int = 0

    def add(self, chunk: dict[str, Any]) -> None:
        self.error = chunk.get("error", self.error)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            self.token_ids += choice.get("token_ids", ())
            self.roles += "role" in delta
            audio = delta.get("audio", {})
            self.text += (delta.get("content") or "") + audio.get("transcript", "")
            self.codes += audio.get("codes", ())
            self.codebooks += audio.get("codebooks", 0)
            self.pcm += base64.b64decode(audio.get("data", ""))
            self.finish_reason = choice["finish_reason"] or self.finish_reason


@dataclass
class Stages:
    gateway: RunningGateway
    redis_url: str
    story: Story
    slots: int
    stack: AsyncExitStack
    card: common_pb2.ModelCard
    preprocess: list[ScriptedPreprocess] = field(default_factory=list[ScriptedPreprocess])
    thinker: list[ScriptedThinker] = field(default_factory=list[ScriptedThinker])
    talker: list[ScriptedTalker] = field(default_factory=list[ScriptedTalker])

    @property
    def workers(self) -> list[ScriptedWorker]:
        return [*self.preprocess, *self.thinker, *self.talker]

    async def start_worker(self, stage: str, card: common_pb2.ModelCard | None = None) -> Any:
        """`card`: of another model than the stages' own."""
        kinds = {"preprocess": ScriptedPreprocess, "thinker": ScriptedThinker, "talker": ScriptedTalker}
        made = kinds[stage](self.redis_url, card or self.card, self.story, self.slots)
        self._of(stage).append(await self.stack.enter_async_context(made))
        return made

    def next_calls(self, stage: str, *acts: Act) -> None:
        """Script the stage's next calls, on whichever worker they run."""
        shared = list(acts)
        for worker in self._of(stage):
            worker.script.acts = shared

    @contextmanager
    def held(self, stage: str) -> Generator[None]:
        """Have calls of the thinkers or of the talkers come, and send nothing before the end of the block."""
        engines = [worker.engine for worker in self._of(stage)]
        for engine in engines:
            engine.may_step.clear()
        try:
            yield
        finally:
            for engine in engines:
                engine.may_step.set()

    def hanging(self, stage: str) -> int:
        """Return how many of the stage's calls hang. One that has only begun may not have read its inputs."""
        return sum(worker.script.hanging for worker in self._of(stage))

    def calls(self, stage: str) -> list[Any]:
        """Return the calls that the stage's workers received, in order of arrival."""
        arrived = [(worker.calls.arrived[id(call)], call) for worker in self._of(stage) for call in worker.calls]
        return [call for _, call in sorted(arrived, key=operator.itemgetter(0))]

    async def ask(self, messages: list[Any] = HELLO, **fields: Any) -> Told:
        told = Told()
        async for chunk in self.chunks(messages, **fields):
            told.add(chunk)
        return told

    async def chunks(
        self, messages: list[Any] = HELLO, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> AsyncGenerator[dict[str, Any]]:
        body = {
            "model": INSTRUCT.name,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **fields,
        }
        async with self.gateway.client.stream("POST", CHAT, json=body, headers=headers) as response:
            if response.status_code != 200:
                yield json.loads(await response.aread())
                return
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    async def clean(self) -> bool:
        """Return whether no slot is busy, no ticket waits, and no turn holds anything."""
        living = [worker for worker in self.workers if worker.is_alive]
        if any(worker.keeper.busy or worker.store.held_requests for worker in living):
            return False
        return all([await self.has_waiting(stage, 0) for stage in ("preprocess", "thinker", "talker")])

    async def has_waiting(self, stage: str, tickets: int) -> bool:
        """Return whether this many tickets wait for the stage."""
        redis = connect(self.redis_url)
        try:
            return (await QueueClient(redis, "looks").stats(QueueName(stage, INSTRUCT.name))).depth == tickets
        finally:
            await redis.aclose()

    async def are_shown(self) -> bool:
        """Return whether the queues show all workers, and the models all stages: a queue is listed after its worker."""
        redis = connect(self.redis_url)
        try:
            queues = QueueClient(redis, "looks")
            names = {worker.queue for worker in self.workers}
            shown = [info for queue in names for info in await queues.workers(queue)]
            models = await queues.models()
        finally:
            await redis.aclose()
        return {info.worker_id for info in shown} >= {worker.keeper.worker_id for worker in self.workers} and all(
            name.model in models and name.stage in models[name.model].stages for name in names
        )

    def _of(self, stage: str) -> list[Any]:
        return {"preprocess": self.preprocess, "thinker": self.thinker, "talker": self.talker}[stage]


@asynccontextmanager
async def scripted_stages(
    redis_url: str,
    story: Story | None = None,
    *,
    workers: int = 2,
    slots: int = 2,
    card: common_pb2.ModelCard = INSTRUCT,
    captioner: bool = False,
    **limits: Any,
) -> AsyncGenerator[Stages]:
    """`workers` of each stage with `slots` each, and a gateway with `limits`. `captioner`: one is served, too."""
    async with AsyncExitStack() as stack, running_gateway(redis_url, **limits) as gateway:
        stages = Stages(gateway, redis_url, story or Story(), slots, stack, card)
        for stage in ("preprocess", "thinker", "talker"):
            for _ in range(workers):
                await stages.start_worker(stage)
        for stage in ("preprocess", "thinker") if captioner else ():
            await stages.start_worker(stage, CAPTIONER)

        async def ready() -> bool:
            return (await gateway.client.get("/health/ready")).status_code == 200

        await wait_until(stages.are_shown)  # a gateway that looked before would look again half a second later
        await wait_until(ready)
        yield stages
