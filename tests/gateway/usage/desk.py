"""The accounts of a gateway in a test, on a Valkey whose time the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import BlockingConnectionPool, Redis

from services.common.derailments import Derailment
from services.gateway.turn.amounts import Amounts
from services.gateway.turn.conversation import Message, TextPart
from services.gateway.turn.intent import FieldNames, Intent, Principal
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.prompt import Prepared, PromptUsage
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.account import TurnAccount
from services.gateway.usage.accounts import MeteredAccounts
from services.gateway.usage.books import Books
from services.gateway.usage.limits import Limit, SubjectTerms, Terms
from services.gateway.usage.prices import PriceList
from services.gateway.usage.spool import Spool
from tests.fixtures.redis import RedisServer
from tests.gateway.usage.script_clock import ClockedScript

TTL_S = 60.0
SPOOL_BYTES = 900
PROMPT = Prepared((1, 2, 3), usage=PromptUsage(text_tokens=3))


@dataclass
class Progress:
    """A turn's progress, as a test says."""

    used: Amounts = field(default_factory=Amounts)
    attempts: int = 1
    derailment: Derailment | None = None
    spoken_again: int = 0

    def amounts(self) -> Amounts:
        return self.used


class Desk:
    """The accounts of one gateway."""

    def __init__(self, script: ClockedScript, gateway_id: str, limits: Sequence[Limit], spool: Path | None) -> None:
        by_subject = {
            subject: SubjectTerms([limit for limit in limits if limit.subject == subject])
            for subject in {limit.subject for limit in limits}
        }
        self.books = Books(
            script,
            gateway_id,
            Terms(by_subject),
            PriceList(),
            Spool(spool, SPOOL_BYTES),
            ttl_s=TTL_S,
            heartbeat_s=0.05,
            patience_s=0.1,
            clock=lambda: script.now_ms / 1000,
        )
        self.books.spool.start()

    async def pass_s(self, seconds: float) -> None:
        """Let time pass in Redis, for all gateways."""
        script = self.books.script
        assert isinstance(script, ClockedScript)
        await script.set_time(script.now_ms + round(1000 * seconds))

    def account(
        self, turn_id: str, progress: Progress | None = None, *, text: str = "hi", thinker_renders: bool = False
    ) -> TurnAccount:
        intent = Intent(FieldNames("voice", "modalities"), time.monotonic(), [Message("user", [TextPart("m", text)])])
        principal = Principal("acme", "acme", "key_1", project_id="proj_1", organisation_id="org_1")
        model = Model("tiny", ModelKind.INSTRUCT, 1000, renders_messages=thinker_renders)
        request = TurnRequest(turn_id, principal, intent, model, round((time.time() + 60) * 1000))
        return MeteredAccounts(self.books).account_of(request, progress or Progress())


@asynccontextmanager
async def desks(
    server: RedisServer, *limits: Limit, count: int = 1, spool: Path | None = None
) -> AsyncGenerator[list[Desk]]:
    """Gateways on one Redis, whose time stands still but for `pass_s`."""
    async with AsyncExitStack() as stack:
        made: list[Desk] = []
        for number in range(count):
            pool = BlockingConnectionPool.from_url(server.url, max_connections=8, timeout=None, socket_timeout=None)
            redis = await stack.enter_async_context(Redis.from_pool(pool))
            made.append(Desk(ClockedScript(redis), f"gateway-{number}", limits, spool))
        await made[0].pass_s(0)
        yield made


@asynccontextmanager
async def beating(desk: Desk) -> AsyncGenerator[None]:
    running = asyncio.create_task(desk.books.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
