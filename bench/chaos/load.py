"""A steady load: clients that ask one question after the other with a rest between, and compare each answer with its
reference."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import openai

from bench.chaos.answer import ReceivedAnswer, differences
from bench.chaos.ask import Asker, BrokenOffError, TurnedAway
from bench.chaos.questions import Question

BROKEN = (openai.OpenAIError, grpc.RpcError, BrokenOffError)
"""What a client sees where its stream breaks."""

References = Mapping[Question, ReceivedAnswer]


@dataclass(frozen=True)
class Asked:
    """A question that was asked under load. Times are Unix times, seconds."""

    question: Question
    trace_id: str
    began_s: float
    ended_s: float
    # What came; None where the stream broke.
    answer: ReceivedAnswer | None
    # Why it broke, or "".
    error: str
    # How often it was refused before it was taken.
    turned_away: int
    # The parts that differ from the reference.
    wrong: Sequence[str]


async def make_references(asker: Asker, questions: Sequence[Question]) -> dict[Question, ReceivedAnswer]:
    """Ask each question alone. Raise what the client raises."""
    return {question: await asker.ask(question, secrets.token_hex(16)) for question in questions}


@dataclass
class Load:
    """`clients` that ask at the same time, each some `rest_s` after its last answer. `asked` grows with the answers;
    `under_way` has the trace ids of those that are waited for."""

    asker: Asker
    references: References
    clients: int
    rest_s: float
    seed: int
    asked: list[Asked] = field(default_factory=list[Asked])
    under_way: set[str] = field(default_factory=set[str])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Ask inside the block. Leaving it waits for the answers that are under way."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for client in range(self.clients):
                tasks.create_task(self._client(client, stop), name=f"client {client}")
            try:
                yield
            finally:
                stop.set()

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        chance = random.Random(f"{self.seed} client {number}")
        questions = list(self.references)
        while not stop.is_set():
            trace_id = secrets.token_hex(16)
            self.under_way.add(trace_id)
            self.asked.append(await self._ask(chance.choice(questions), trace_id))
            self.under_way.remove(trace_id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), chance.uniform(0.5, 1.5) * self.rest_s)

    async def _ask(self, question: Question, trace_id: str) -> Asked:
        began_s = time.time()
        turned_away = 0
        while True:
            answer, error, wrong = None, "", list[str]()
            try:
                answer = await self.asker.ask(question, trace_id)
            except TurnedAway as refused:
                turned_away += 1
                await asyncio.sleep(refused.retry_after_s)
                continue
            except BROKEN as broken:
                error = f"{type(broken).__name__}: {broken}"
            else:
                wrong = differences(answer, self.references[question])
            return Asked(question, trace_id, began_s, time.time(), answer, error, turned_away, wrong)
