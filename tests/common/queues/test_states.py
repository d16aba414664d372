"""queue.lua under any sequence of operations: each ticket waits in one queue, or is granted once, or is gone."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.common.queues.bare import BareQueue, key
from tests.fixtures.redis import RedisServer

GATEWAYS, WORKERS, TENANTS = ("gateway-1", "gateway-2"), ("worker-1", "worker-2"), ("acme", "beta")


class QueueMachine(RuleBasedStateMachine):
    """The real queue, beside a simple model of what its operations should do."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = self.server.client()  # redis-py's types also allow what an async client returns
        self.redis.flushall()
        self.queue = BareQueue(self.redis)
        self.made = 0
        self.waiting: dict[str, tuple[str, int]] = {}  # ticket → its gateway and priority
        self.granted: dict[str, tuple[str, str, str]] = {}  # ticket → its gateway, worker and lease
        self.last_ask: dict[
            str, tuple[list[str], list[str]]
        ] = {}  # worker → leases that it offered, and those that were granted

    def teardown(self) -> None:
        self.redis.close()

    @rule(
        tenant=st.sampled_from(TENANTS),
        gateway=st.sampled_from(GATEWAYS),
        priority=st.integers(-3, 3),
        charge=st.integers(0, 500),
        affinity=st.sampled_from(("", "talk")),
        affinity_wait_ms=st.sampled_from((0, 60_000)),
        mode=st.sampled_from(("new", "again", "front")),
    )
    def enqueue(
        self, tenant: str, gateway: str, priority: int, charge: int, affinity: str, affinity_wait_ms: int, mode: str
    ) -> None:
        ticket = f"ticket-{self.made}"
        self.made += 1
        for _ in range(2):  # the second call is a retry after a lost answer
            verdict, *_ = self.queue.enqueue(
                ticket, tenant=tenant, gateway=gateway, priority=priority, charge=charge, affinity=affinity,
                affinity_wait_ms=affinity_wait_ms, mode=mode, avoid=WORKERS[0],
            )  # fmt: skip
            assert verdict == b"ok"
        self.waiting[ticket] = gateway, priority

    @rule(worker=st.sampled_from(WORKERS), slots=st.integers(0, 4))
    def take(self, worker: str, slots: int) -> None:
        leases = [f"{worker}-lease-{self.made}-{n}" for n in range(slots)]
        self.made += 1
        granted = self.queue.take(worker, leases=leases)
        assert granted == leases[: len(granted)]
        self.check_news(worker, granted)
        self.last_ask[worker] = leases, granted
        if len(granted) < slots:  # the others wait for the other worker
            own_queue = self.redis.zcard(key("worker_queue", WORKERS[worker == WORKERS[0]]))
            assert len(self.waiting) == own_queue

    @rule(worker=st.sampled_from(WORKERS))
    def take_again_after_a_lost_answer(self, worker: str) -> None:
        leases, granted = self.last_ask.get(worker, ([], []))
        still_known = [lease for lease in granted if self.redis.exists(key("lease", lease))]
        again = self.queue.take(worker, leases=leases)
        assert set(still_known) <= set(again)
        new = [lease for lease in again if lease not in still_known]
        self.check_news(worker, new)
        self.last_ask[worker] = leases, again

    def check_news(self, worker: str, leases: list[str]) -> None:
        """Assert that each new lease was sent once, to the gateway that owns its ticket."""
        told = [(gateway, record) for gateway in GATEWAYS for record in self.queue.received_grants(gateway)]
        assert sorted(record.lease_id for _, record in told) == sorted(leases)
        for gateway, record in told:
            ticket = record.ticket.ticket_id
            assert self.waiting.pop(ticket)[0] == gateway
            assert ticket not in self.granted
            assert record.worker_id == worker
            self.granted[ticket] = gateway, worker, record.lease_id

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        known = [*self.waiting, *self.granted, "unknown"]
        ticket = data.draw(st.sampled_from(known))
        for _ in range(2):
            self.queue.call("discard", ticket)
        self.waiting.pop(ticket, None)
        if ticket in self.granted:
            _, worker, lease = self.granted.pop(ticket)
            bell = self.redis.lrange(key("bell", worker), 0, -1)
            assert [item for item in bell if item].count(lease.encode()) == 1

    @rule(gateway=st.sampled_from(GATEWAYS))
    def a_gateway_dies(self, gateway: str) -> None:
        self.redis.zadd(key("gateways"), {gateway: 0}, xx=True)
        self.queue.call("stats")
        self.waiting = {ticket: row for ticket, row in self.waiting.items() if row[0] != gateway}

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_leaves(self, worker: str) -> None:
        self.queue.call("close_worker", worker)
        assert self.redis.zcard(key("worker_queue", worker)) == 0
        self.last_ask.pop(worker, None)

    @rule(tenant=st.sampled_from(TENANTS), priority=st.integers(-3, 3), by=st.integers(-500, 500))
    def settle(self, tenant: str, priority: int, by: int) -> None:
        self.queue.call("settle", tenant, priority, by)

    @rule(gateway=st.sampled_from(GATEWAYS))
    def beat(self, gateway: str) -> None:
        waits = [ticket for ticket, row in self.waiting.items() if row[0] == gateway]
        granted = [ticket for ticket, row in self.granted.items() if row[0] == gateway]
        _, _, *states = self.queue.call("beat", gateway, 60_000, *waits, *granted, "unknown")
        assert states[: len(waits)] == [b"waiting"] * len(waits)
        for ticket, record in zip(granted, states[len(waits) : -1], strict=True):
            assert self.granted[ticket][2].encode() in record
        assert states[-1] == b"lost"

    @invariant()
    def each_waiting_ticket_is_in_one_queue_and_all_indexes(self) -> None:
        assert sorted(self.queue.waiting()) == sorted(self.waiting)
        deadlines = {member.decode() for member in self.redis.zrange(key("deadlines"), 0, -1)}
        assert deadlines == set(self.waiting)
        counted = {t.decode() for tenant in TENANTS for t in self.redis.zrange(key("tenant", tenant), 0, -1)}
        assert counted <= set(self.waiting)
        hashes = {name.decode().rpartition(":")[2] for name in self.redis.scan_iter("*:ticket:*")}
        assert hashes == {*self.waiting, *self.granted}

    @invariant()
    def the_queue_is_sorted_by_priority(self) -> None:
        ids = [member.decode()[17:] for member in self.redis.zrange(key("queue"), 0, -1)]
        priorities = [self.waiting[ticket][1] for ticket in ids]
        assert priorities == sorted(priorities, reverse=True)

    @invariant()
    def every_key_expires(self) -> None:
        assert [name for name in self.redis.scan_iter() if self.redis.ttl(name) == -1] == []


def test_a_ticket_waits_in_one_queue_or_is_granted_once_or_is_gone(redis_server: RedisServer) -> None:
    class Machine(QueueMachine):
        server = redis_server

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
