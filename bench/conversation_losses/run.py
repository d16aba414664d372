"""One run: groups of conversations, each on a gateway that is killed when all of them are in mid-answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from bench.conversation.gateways import running_gateways, running_redis, wait_ready
from bench.conversation_losses.client import Conversation, converse
from bench.conversation_losses.plan import Plan, Plans, plans
from bench.conversation_losses.stages import mortal_stages
from bench.metering.processes import ServiceProcess
from services.common.errors import NotFound
from services.common.redis_client import connect
from services.common.stages import STAGES
from services.common.usage_stream import USAGE_STREAM
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from services.gateway.realtime.conversation import SpeechContent
from services.gateway.realtime.kept.sealer import Sealer
from services.gateway.realtime.kept.sessions import KeptSessions
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.control_plane import KEY, TOKEN, limit, scripted_control

_PROJECT, _TENANT = "proj_1", "acme.prod"
_SESSION_KEY = "the operator's, of these sessions"
_KEPT_BYTES = 64 * 1024**2
_SETTINGS = {"REALTIME_SESSION_KEY": _SESSION_KEY, "REALTIME_LEAD_S": "0.5", "CONTROL_TOKEN": TOKEN}


@dataclass(frozen=True)
class Options:
    """`when_kept`: a gateway dies only once something of the answers that it gives is kept. Otherwise it dies as soon
    as each client has heard a part."""

    conversations: int
    at_once: int
    seed: int = 0
    when_kept: bool = False


@dataclass
class Result:
    conversations: list[Conversation] = field(default_factory=list[Conversation])
    gateways_lost: int = 0
    # The most places that sessions had, beyond how many of them there were.
    surplus_places: int = 0


@dataclass
class _System:
    store: RedisServer
    gateways: Sequence[ServiceProcess]
    redis: Redis

    async def places(self) -> int:
        """Return how many places sessions have among those that may be open at a time."""
        return await self.redis.zcard(f"{{{USAGE_STREAM}}}:open:{_PROJECT}:open_sessions")


async def run(options: Options, say: Callable[[str], None]) -> Result:
    """No more sessions may be open than there are at a time: one that took a second place could not go on."""
    planned, result = plans(options.conversations, options.seed), Result()
    async with (
        running_redis() as store,
        scripted_control() as control,
        mortal_stages(store.url, Plans(planned)),
        running_gateways(2, store, _SETTINGS | {"CONTROL_ADDRESS": control.address}) as gateways,
        Redis.from_url(store.url) as redis,
    ):
        control.limit(_PROJECT, limit("concurrent_sessions", options.at_once))
        control.tell()
        system = _System(store, gateways, redis)
        await asyncio.gather(*map(wait_ready, gateways))
        for begin in range(0, len(planned), options.at_once):
            group = planned[begin : begin + options.at_once]
            await _run_group(system, options, group, result)
            done = len(result.conversations)
            wrong = sum(bool(each.error) for each in result.conversations)
            say(f"{done} conversations have lost their gateway; {wrong} of them did not go on")
    return result


async def _run_group(system: _System, options: Options, group: Sequence[Plan], result: Result) -> None:
    turn = result.gateways_lost % len(system.gateways)
    dies, other = system.gateways[turn], system.gateways[turn - 1]
    locks = {stage: asyncio.Lock() for stage in STAGES}
    conversations = [Conversation(plan, locks[plan.stage]) for plan in group]
    async with asyncio.TaskGroup() as tasks:
        for conversation in conversations:
            tasks.create_task(converse(conversation, dies, other, KEY), name=f"conversation {conversation.plan.number}")
        await asyncio.gather(*(each.has_first.wait() for each in conversations))
        for each in conversations:
            each.may_be_cut.set()
        await asyncio.gather(*(plan.is_in_mid_answer.wait() for plan in group))
        if options.when_kept:
            await asyncio.gather(*(_is_kept(system, each) for each in conversations if not each.error))
        await dies.kill()
        result.gateways_lost += 1
        for plan in group:
            plan.lost_gateway.set()
        await dies.start()
        await wait_ready(dies)
        await wait_until(lambda: all(each.resumed or each.error for each in conversations))
        result.surplus_places = max(result.surplus_places, await system.places() - len(group))
    result.conversations += conversations

    async def all_have_left() -> bool:
        return not await system.places()

    await wait_until(all_have_left)


async def _is_kept(system: _System, conversation: Conversation) -> None:
    """Return once a part of the answer that the conversation hears is kept."""
    redis = connect(system.store.url)
    kept = KeptSessions(RedisKept(redis, "session", KeptLimits(3600.0, _KEPT_BYTES, _KEPT_BYTES)), Sealer(_SESSION_KEY))
    asks = Principal(_TENANT, _TENANT, project_id=_PROJECT)

    async def has_a_part() -> bool:
        try:
            found = await kept.find(asks, conversation.session_id)
            items = [item async for some in kept.items(asks.tenant, found) for item in some]
        except NotFound:
            return False
        if not items or items[-1].id != conversation.cut.item_id:
            return False
        content = items[-1].contents[0]
        return isinstance(content, SpeechContent) and content.spoken.samples > 0

    try:
        await wait_until(has_a_part)
    finally:
        await redis.aclose()
