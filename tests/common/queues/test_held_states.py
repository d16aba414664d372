"""Slots that tenants hold, under any sequence of asks, lost answers, deaths and losses of data: Redis counts what the
workers hold, no lease is granted twice, and nothing that may have a free slot waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.common.errors import Unavailable
from services.common.queues import SlotKeeper
from services.common.queues.script import QueueScript, Taken
from services.common.queues.slots import Slots
from services.common.redis_client import connect
from tests.common.queues.bare import QUEUE, BareQueue
from tests.fixtures.redis import RedisServer

LIMITS = {"one": 1, "two": 2, "free": 0}
GROUP, OF_GROUP = 2, ("one", "two")
SLOTS = 3
WORKERS = ("first", "second")
FATES = ("", "", "", "answer lost", "sent twice", "sent twice after a loss of data")


class LossyScript(QueueScript):
    """Its next ask fares as `fate` says: "" = well."""

    fate = ""
    kept_back: Callable[[], Coroutine[Any, Any, Taken]] | None = None
    lose_data: Callable[[], None]

    async def take(self, *arguments: Any, **terms: Any) -> Taken:
        take, fate = partial(super().take, *arguments, **terms), self.fate
        self.fate = ""
        if fate == "kept back":
            self.kept_back = take
            raise Unavailable("the call is lost")
        taken = await take()
        if fate == "sent twice after a loss of data":
            self.lose_data()
        if fate.startswith("sent twice"):  # by the client, as its connection broke
            taken = await take()
        if fate == "answer lost":
            raise Unavailable("the answer is lost")
        return taken


class Worker:
    """A real keeper whose asks the test makes, one at a time."""

    def __init__(self, redis: Any, worker_id: str) -> None:
        self.keeper: Any = SlotKeeper(redis, QUEUE, worker_id=worker_id, address="-", slots=SLOTS, grant_timeout_s=60)
        self.keeper._script = self.script = LossyScript(redis)
        self.slots: Slots = self.keeper._slots

    @property
    def told(self) -> Counter[str] | None:
        return self.keeper._told

    @property
    def granted(self) -> list[str]:
        return list(self.slots._granted)  # pyright: ignore[reportPrivateUsage]

    async def ask(self) -> None:
        """Ask once, as the keeper's loop does."""
        with suppress(Unavailable):
            await self.keeper._take()


class HeldMachine(RuleBasedStateMachine):
    """Two workers, and tenants with limits of which two are of a group with a limit."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = self.server.client()
        self.redis.flushall()
        self.queue = BareQueue(self.redis)
        self.runner = asyncio.Runner()
        self.client = self.runner.run(self.connected())
        self.made = 0
        self.tickets: dict[str, tuple[str, int]] = {}  # waiting ticket → its tenant and arrival
        self.leases = set[str]()
        self.workers = {name: self.new_worker(name) for name in WORKERS}

    async def connected(self) -> Any:
        return connect(self.server.url)

    def new_worker(self, name: str) -> Worker:
        self.made += 1
        worker = Worker(self.client, f"{name}-{self.made}")
        worker.script.lose_data = self.redis_loses_its_data
        return worker

    def put(self, ticket: str, tenant: str, **terms: Any) -> None:
        group = {"group": "org", "group_max_slots": GROUP} if tenant in OF_GROUP else {}
        verdict, arrival_us, _ = self.queue.enqueue(ticket, tenant=tenant, max_slots=LIMITS[tenant], **group, **terms)
        assert verdict == b"ok"
        self.tickets[ticket] = tenant, arrival_us

    @rule(tenant=st.sampled_from(list(LIMITS)), priority=st.integers(0, 1))
    def enqueue(self, tenant: str, priority: int) -> None:
        self.made += 1
        self.put(f"ticket-{self.made}", tenant, priority=priority)

    @rule(name=st.sampled_from(WORKERS), fate=st.sampled_from(FATES))
    def ask(self, name: str, fate: str) -> None:
        worker = self.workers[name]
        knew, offered = worker.told is not None, worker.slots.free
        worker.script.fate = fate
        self.runner.run(worker.ask())
        granted = self.note_news()
        if not fate and knew and worker.told is not None and granted < min(offered, 2):
            held = self.held()
            assert [ticket for ticket, (tenant, _) in self.tickets.items() if self.may_have_a_slot(tenant, held)] == []

    @rule(name=st.sampled_from(WORKERS), tenant=st.sampled_from(list(LIMITS)))
    def an_ask_comes_after_the_next_one(self, name: str, tenant: str) -> None:
        self.ask(name, "kept back")
        self.ask(name, "")
        self.enqueue(tenant, 0)
        late = self.workers[name].script.kept_back
        assert late is not None
        self.runner.run(late())
        self.note_news()

    @rule(name=st.sampled_from(WORKERS), data=st.data())
    def a_turn_ends(self, name: str, data: st.DataObject) -> None:
        slots = self.workers[name].slots
        if granted := self.workers[name].granted:
            slots.give_back(data.draw(st.sampled_from(granted)))

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        if self.tickets:
            ticket = data.draw(st.sampled_from(list(self.tickets)))
            self.queue.discard(ticket)
            del self.tickets[ticket]

    @rule(name=st.sampled_from(WORKERS))
    def a_worker_dies(self, name: str) -> None:
        self.end_heartbeat(name)
        self.workers[name] = self.new_worker(name)

    @rule(name=st.sampled_from(WORKERS))
    def a_heartbeat_is_late(self, name: str) -> None:
        self.end_heartbeat(name)

    def end_heartbeat(self, name: str) -> None:
        self.redis.zadd(self.queue.key("workers"), {self.workers[name].keeper.worker_id: 0}, xx=True)
        self.queue.call_here("stats")  # it forgets the worker

    @rule()
    def redis_loses_its_data(self) -> None:
        self.note_news()
        self.redis.flushall()
        for ticket, (tenant, arrival_us) in list(self.tickets.items()):
            self.put(ticket, tenant, mode="again", arrival_us=arrival_us)

    def note_news(self) -> int:
        """Take note of grants, of which the gateway has heard. Return their number."""
        news = self.queue.received_grants()
        for record in news:
            assert record.lease_id not in self.leases
            self.leases.add(record.lease_id)
            del self.tickets[record.ticket.ticket_id]
        return len(news)

    def held(self) -> dict[str, int]:
        names = iter(self.queue.call_here("held"))
        return {holder.decode(): int(slots) for holder, slots in zip(names, names, strict=True)}

    def may_have_a_slot(self, tenant: str, held: dict[str, int]) -> bool:
        if tenant in OF_GROUP and held.get("/org", 0) >= GROUP:
            return False
        return not LIMITS[tenant] or held.get(tenant, 0) < LIMITS[tenant]

    @invariant()
    def what_is_held_is_the_sum_over_workers(self) -> None:
        total = Counter[str]()
        for name in self.redis.scan_iter("*:held:*"):
            total.update({holder.decode(): int(slots) for holder, slots in self.redis.hgetall(name).items()})
        assert self.held() == total

    @invariant()
    def redis_knows_of_each_worker_what_it_was_told(self) -> None:
        for worker in self.workers.values():
            row = self.redis.hgetall(self.queue.key("held_by", worker.keeper.worker_id))
            if worker.told is not None and self.redis.exists(self.queue.key("worker", worker.keeper.worker_id)):
                assert {holder.decode(): int(slots) for holder, slots in row.items()} == +worker.told

    @invariant()
    def every_key_expires(self) -> None:
        assert [name for name in self.redis.scan_iter() if self.redis.ttl(name) == -1] == []

    def teardown(self) -> None:
        """All that waits is served once turns end."""
        try:
            for _ in range(3 * len(self.tickets) + 10):
                for name, worker in self.workers.items():
                    for lease in worker.granted:
                        worker.slots.give_back(lease)
                    self.ask(name, "")
            assert self.tickets == {}
        finally:
            self.runner.run(self.client.aclose())
            self.runner.close()
            self.redis.close()


def test_redis_counts_what_workers_hold_and_nothing_waits_for_a_slot_that_it_may_have(
    redis_server: RedisServer,
) -> None:
    class Machine(HeldMachine):
        server = redis_server

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
