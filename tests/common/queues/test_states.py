"""The queues under any sequence of operations: each ticket waits in one queue, or is granted once, or is gone."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.common.queues.tickets import PriorityClass
from tests.common.queues.bare import BareQueue
from tests.fixtures.redis import RedisServer

GATEWAYS, WORKERS, TENANTS = ("gateway-1", "gateway-2"), ("worker-1", "worker-2"), ("acme", "beta")
SHARE = 0.5


class QueueMachine(RuleBasedStateMachine):
    """The real queue, beside a simple model of what its operations should do."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = self.server.client()  # redis-py's types also allow what an async client returns
        self.redis.flushall()
        self.queue = BareQueue(self.redis)
        self.queue.share, self.queue.every_ms = SHARE, 3_600_000
        self.made = 0
        self.waiting: dict[
            str, tuple[str, int, bool]
        ] = {}  # ticket → its gateway, priority, whether it is at the front
        self.granted: dict[str, tuple[str, str, str]] = {}  # ticket → its gateway, worker and lease
        # Worker → leases that it offered, those that were granted, and slots that it held of others and of batches.
        self.last_ask: dict[str, tuple[list[str], list[str], tuple[int, int]]] = {}
        self.holds: dict[str, tuple[int, int]] = {}  # worker → slots of others and of batches, with those granted
        self.is_batch: dict[str, bool] = {}  # each lease that was ever granted
        self.has_granted_batch = False

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
        self.waiting[ticket] = gateway, priority, mode == "front"

    @rule(worker=st.sampled_from(WORKERS), slots=st.integers(0, 4), ends=st.booleans())
    def take(self, worker: str, slots: int, ends: bool) -> None:
        held = (0, 0) if ends else self.holds.get(worker, (0, 0))
        leases = [f"{worker}-lease-{self.made}-{n}" for n in range(slots)]
        self.made += 1
        granted = self.queue.take(worker, leases=leases, others=held[0], batch=held[1])
        assert granted == leases[: len(granted)]
        self.check_news(worker, granted, granted, held)
        self.last_ask[worker] = leases, granted, held
        if len(granted) < slots:  # the others wait for the other worker, or for others to be away
            other = WORKERS[worker == WORKERS[0]]
            elsewhere = {
                ticket
                for (owner, *_), queue in self.queue.tenant_queues().items()
                if owner == other
                for ticket in queue
            }
            left = [row for ticket, row in self.waiting.items() if ticket not in elsewhere]
            assert all(priority <= PriorityClass.BATCH and not front for _, priority, front in left)
            assert not left or not self.may_begin_a_batch()

    @rule(worker=st.sampled_from(WORKERS))
    def take_again_after_a_lost_answer(self, worker: str) -> None:
        leases, granted, held = self.last_ask.get(worker, ([], [], (0, 0)))
        still_known = [lease for lease in granted if self.redis.exists(self.queue.key("lease", lease))]
        again = self.queue.take(worker, leases=leases, others=held[0], batch=held[1])
        assert set(still_known) <= set(again)
        new = [lease for lease in again if lease not in still_known]
        self.check_news(worker, new, again, held)
        self.last_ask[worker] = leases, again, held

    def check_news(self, worker: str, new: list[str], leases: list[str], held: tuple[int, int]) -> None:
        """Assert that each new lease was sent once, to the gateway that owns its ticket, and that batches yielded.

        `leases`: all that were granted, in order; `held`: slots that the worker held before, of others and of batches.
        """
        told = [(gateway, record) for gateway in GATEWAYS for record in self.queue.received_grants(gateway)]
        by_lease = {record.lease_id: (gateway, record) for gateway, record in told}
        assert sorted(record.lease_id for _, record in told) == sorted(new)
        self.holds[worker] = held
        for lease in leases:
            if lease in by_lease:
                gateway, record = by_lease[lease]
                ticket = record.ticket.ticket_id
                owner, priority, front = self.waiting[ticket]
                self.is_batch[lease] = priority <= PriorityClass.BATCH
                assert not self.is_batch[lease] or front or self.may_begin_a_batch()
                assert (owner, worker) == (gateway, record.worker_id)
                assert ticket not in self.granted
                del self.waiting[ticket]
                self.granted[ticket] = gateway, worker, lease
                self.has_granted_batch |= self.is_batch[lease]
            others, batch = self.holds[worker]
            self.holds[worker] = others + (not self.is_batch[lease]), batch + self.is_batch[lease]

    def may_begin_a_batch(self) -> bool:
        others, batch = (sum(holds) for holds in zip((0, 0), *self.holds.values(), strict=True))
        waits = any(priority > PriorityClass.BATCH for _, priority, _ in self.waiting.values())
        return not (others or waits) or batch < int(SHARE * others) or not (batch or self.has_granted_batch)

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
        self.holds.pop(worker, None)

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
        for indexes in (("arrivals", "batch_arrivals"), ("deadlines",), ("ranks",)):
            found = [ticket for index in indexes for ticket in self.members(self.queue.key(index))]
            assert sorted(found) == sorted(self.waiting)
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
                arrivals = self.queue.key("batch_arrivals" if int(priority) <= PriorityClass.BATCH else "arrivals")
                assert float(self.redis.zscore(arrivals, first)) == float(arrival)

    @invariant()
    def heads_are_sorted_by_priority(self) -> None:
        priorities = [int(head.split(":")[1]) for head in self.members(self.queue.key("heads"))]
        assert priorities == sorted(priorities, reverse=True)

    @invariant()
    def sums_are_those_of_the_workers(self) -> None:
        sums = {name.decode(): int(value) for name, value in self.redis.hgetall(self.queue.key("sums")).items()}
        rows = [self.redis.hgetall(self.queue.key("worker", worker)) for worker in WORKERS]
        for name in ("slots", "free", "batch"):
            assert sums.get(name, 0) == sum(int(row[name.encode()]) for row in rows if row)
        assert sums.get("batch", 0) == sum(batch for _, batch in self.holds.values())
        busy = sums.get("slots", 0) - sums.get("free", 0)
        assert busy == sum(others + batch for others, batch in self.holds.values())

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
