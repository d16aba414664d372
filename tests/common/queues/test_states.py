"""The queues under any sequence of operations: each ticket waits in one queue, or is granted once, or is gone."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.common.queues.bare import BareQueue
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
            other = WORKERS[worker == WORKERS[0]]
            assert len(self.waiting) == sum(
                len(queue) for (owner, *_), queue in self.queue.tenant_queues().items() if owner == other
            )

    @rule(worker=st.sampled_from(WORKERS))
    def take_again_after_a_lost_answer(self, worker: str) -> None:
        leases, granted = self.last_ask.get(worker, ([], []))
        still_known = [lease for lease in granted if self.redis.exists(self.queue.key("lease", lease))]
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
            self.queue.discard(ticket)
        self.waiting.pop(ticket, None)
        if ticket in self.granted:
            _, worker, lease = self.granted.pop(ticket)
            bell = self.redis.lrange(self.queue.key("bell", worker), 0, -1)
            assert [item for item in bell if item].count(lease.encode()) == 1

    @rule(gateway=st.sampled_from(GATEWAYS))
    def a_gateway_dies(self, gateway: str) -> None:
        self.queue.gateway_dies(gateway)
        self.waiting = {ticket: row for ticket, row in self.waiting.items() if row[0] != gateway}

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_leaves(self, worker: str) -> None:
        self.queue.call_here("close_worker", worker=worker)
        assert not any(owner == worker for owner, *_ in self.queue.tenant_queues())
        self.last_ask.pop(worker, None)

    @rule(tenant=st.sampled_from(TENANTS), priority=st.integers(-3, 3), by=st.integers(-500, 500))
    def settle(self, tenant: str, priority: int, by: int) -> None:
        self.queue.settle(tenant, by, priority)

    @rule(gateway=st.sampled_from(GATEWAYS))
    def beat(self, gateway: str) -> None:
        waits = [ticket for ticket, row in self.waiting.items() if row[0] == gateway]
        granted = [ticket for ticket, row in self.granted.items() if row[0] == gateway]
        waiting, dead = self.queue.call("beat", gateway=gateway, gateway_ttl_ms=60_000, queues=[])
        assert (waiting, dead) == (len(waits), 0)
        rows = [{"queue": str(self.queue.queue), "id": ticket} for ticket in (*waits, *granted, "unknown")]
        states = self.queue.call("look", tickets=rows)
        assert states[: len(waits)] == [b"waiting"] * len(waits)
        for ticket, record in zip(granted, states[len(waits) : -1], strict=True):
            assert self.granted[ticket][2].encode() in record
        assert states[-1] == b"lost"

    @invariant()
    def each_waiting_ticket_is_in_one_queue_and_all_indexes(self) -> None:
        assert sorted(self.queue.waiting()) == sorted(self.waiting)
        for index in ("arrivals", "deadlines", "ranks"):
            assert set(self.members(self.queue.key(index))) == set(self.waiting)
        counts = self.redis.hgetall(self.queue.key("waiting"))
        assert sum(map(int, counts.values())) == len(self.waiting)
        hashes = {name.decode().rpartition(":")[2] for name in self.redis.scan_iter("*:ticket:*")}
        assert hashes == {*self.waiting, *self.granted}
        for gateway in GATEWAYS:
            mine = {
                member.split()[0].decode() for member in self.redis.smembers(self.queue.shard_key("gateway", gateway))
            }
            assert mine == {ticket for ticket, row in self.waiting.items() if row[0] == gateway}

    @invariant()
    def each_queue_has_its_head(self) -> None:
        queues = self.queue.tenant_queues()
        for worker in ("", *WORKERS):
            heads = self.members(self.queue.key("worker_heads", worker) if worker else self.queue.key("heads"))
            assert sorted(head.split(":", 1)[1] for head in heads) == sorted(
                f"{priority}:{tenant}" for owner, priority, tenant in queues if owner == worker
            )
            for head in heads:
                arrival, priority, tenant = head.split(":")
                first = queues[worker, int(priority), tenant][0]
                assert float(self.redis.zscore(self.queue.key("arrivals"), first)) == float(arrival)

    @invariant()
    def heads_are_sorted_by_priority(self) -> None:
        priorities = [int(head.split(":")[1]) for head in self.members(self.queue.key("heads"))]
        assert priorities == sorted(priorities, reverse=True)

    @invariant()
    def sums_are_those_of_the_workers(self) -> None:
        sums = {name.decode(): int(value) for name, value in self.redis.hgetall(self.queue.key("sums")).items()}
        rows = [self.redis.hgetall(self.queue.key("worker", worker)) for worker in WORKERS]
        for name in ("slots", "free"):
            assert sums.get(name, 0) == sum(int(row[name.encode()]) for row in rows if row)

    def members(self, zset: str) -> list[str]:
        return [member.decode() for member in self.redis.zrange(zset, 0, -1)]

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
