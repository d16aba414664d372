"""What asking for a slot is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from antiphon.v1 import common_pb2
from services.common.errors import BadInput


class PriorityClass(IntEnum):
    """Named priorities. Any whole number from LOWEST to HIGHEST is one; within one, tenants share fairly."""

    LOWEST = -3
    BATCH = -2
    """At or below it, few slots while others are there: see lua/beside.lua."""
    READ_AHEAD = -1
    ORDINARY = 0
    INTERACTIVE = 1
    HIGHEST = 3


@dataclass(frozen=True, slots=True)
class QueueName:
    """One queue: a stage ("preprocess", "thinker", "talker") of one model, by the name that requests give."""

    stage: str
    model: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.model}"

    @classmethod
    def parse(cls, text: str) -> QueueName:
        stage, _, model = text.partition("/")
        return cls(stage, model)


@dataclass(frozen=True, slots=True)
class TicketSpec:
    """Who asks for a slot and under which terms.

    `cost` is in the stage's own unit (tokens, frames): only sums within a queue are compared. `known`: the part of it
    that is certain (a prompt); the rest is the most that an answer may add. None = all of it is certain. `continues`:
    its turn holds a slot of another queue, so a ticket of a batch need not wait for others.
    `deadline_unix_ms` 0 is none; `affinity` "" is none. Raises BadInput for a priority outside PriorityClass.
    """

    request_id: str
    tenant: str
    priority: int = PriorityClass.ORDINARY
    cost: float = 1.0
    deadline_unix_ms: int = 0
    affinity: str = ""
    known: float | None = None
    continues: bool = False

    def __post_init__(self) -> None:
        if not PriorityClass.LOWEST <= self.priority <= PriorityClass.HIGHEST:
            raise BadInput(
                f"priority must be from {int(PriorityClass.LOWEST)} to {int(PriorityClass.HIGHEST)}.", param="priority"
            )
        if not 0 <= self.cost < 1e12:
            raise ValueError(f"cost is {self.cost}")


@dataclass(frozen=True, slots=True)
class Grant:
    """A slot on a worker: open it there with `lease_id` before `grant_timeout_s` has passed since `granted_at_s`."""

    queue: QueueName
    spec: TicketSpec
    ticket_id: str
    lease_id: str
    worker_id: str
    # "host:port" of the worker's gRPC server.
    address: str
    grant_timeout_s: float
    # When the ticket first entered the queue, by Redis' clock, microseconds since the epoch; reacquire keeps it.
    arrival_us: int
    # How long the ticket waited.
    waited_s: float

    @property
    def lease(self) -> common_pb2.Lease:
        return common_pb2.Lease(lease_id=self.lease_id, worker_id=self.worker_id)


@dataclass(frozen=True, slots=True)
class Group:
    """Tenants that together hold a limited number of a stage's slots, beside what each of them may: an organisation."""

    name: str
    # As those of TenantTerms.
    max_slots: int = 0
    max_share: float = 1.0

    def __post_init__(self) -> None:
        _check_slots(self.max_slots, self.max_share)


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """What the operator grants one tenant in every queue."""

    # A tenant with weight 2 gets twice the share of one with weight 1.
    weight: float = 1.0
    # Added to the priority of its requests.
    priority: int = PriorityClass.ORDINARY
    # Slots of a stage that it holds at most, of all workers; 0 = any number.
    max_slots: int = 0
    # The same as a part of all slots of the stage, at least one slot.
    max_share: float = 1.0
    # None = no limit but its own.
    group: Group | None = None

    @property
    def limits_slots(self) -> bool:
        return self.max_slots > 0 or self.max_share < 1

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1e6:
            raise ValueError("weight must be over 0 and at most 1e6")
        if not PriorityClass.LOWEST <= self.priority <= PriorityClass.HIGHEST:
            raise ValueError(f"priority must be from {int(PriorityClass.LOWEST)} to {int(PriorityClass.HIGHEST)}")
        _check_slots(self.max_slots, self.max_share)


def _check_slots(max_slots: int, max_share: float) -> None:
    if max_slots < 0:
        raise ValueError("max_slots must be at least 0")
    if not 0 < max_share <= 1:
        raise ValueError("max_share must be over 0 and at most 1")


# Where no worker is left, new tickets wait so many starts of a worker for the next one: it starts on a busier machine.
# Those of turns that resume wait longer, as a client has part of their answer.
STARTS, RESUME_STARTS = 3, 10
EVERY_OTHER = "*"
"""In place of a tenant's name: all that are not named."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The operator's terms for every queue of a gateway."""

    # Most tickets that wait in one queue, and of one tenant in one queue; 0 = eight times the places that are free, so
    # that no tenant fills the queue.
    max_waiting: int = 1024
    max_waiting_per_tenant: int = 0
    # The longest wait, for tickets without a deadline too.
    max_wait_s: float = 600.0
    # How long tickets wait at least for a worker where there is none; after that new ones are refused at once.
    worker_wait_s: float = 60.0
    # Over 0: workers may all be scaled to zero, and this is how long each ticket waits for the first one.
    cold_start_s: float = 0.0
    # How long a ticket waits for the worker that served its conversation before any worker may take it.
    affinity_wait_s: float = 0.3
    # While tickets above BATCH wait or hold slots of the stage, and for `batch_quiet_s` after: those at or below BATCH
    # hold at most this part of the slots that the others hold, and where that is none, one begins each `batch_every_s`.
    batch_share_beside: float = 0.1
    batch_quiet_s: float = 2.0
    batch_every_s: float = 60.0
    # By tenant; EVERY_OTHER = those without terms of their own.
    tenants: Mapping[str, TenantTerms] = field(default_factory=dict[str, TenantTerms])
    # Tickets of a gateway that was silent for so long are dropped.
    gateway_ttl_s: float = 5.0
    heartbeat_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_waiting_per_tenant <= self.max_waiting or self.max_waiting < 1:
            raise ValueError("max_waiting must be at least 1, and max_waiting_per_tenant from 0 to max_waiting")
        if not 0 < self.max_wait_s <= 1800:
            raise ValueError("max_wait_s must be over 0 and at most 1800")
        if not 0 <= self.batch_share_beside <= 1 or self.batch_quiet_s < 0 or self.batch_every_s < 0:
            raise ValueError("batch_share_beside must be from 0 to 1, batch_quiet_s and batch_every_s at least 0")
        if self.cold_start_s < 0:
            raise ValueError("cold_start_s must be at least 0")
        if self.gateway_ttl_s < 2 * self.heartbeat_s:
            raise ValueError("gateway_ttl_s must be at least twice heartbeat_s")

    def patience_s(self, start_s: float, *, resumes: bool = False) -> float:
        """Return how long tickets wait where the last worker was lost, whose start took `start_s` (0 = not known)."""
        return max(self.worker_wait_s, start_s * (RESUME_STARTS if resumes else STARTS))

    def terms_of(self, tenant: str) -> TenantTerms:
        return self.tenants.get(tenant) or self.tenants.get(EVERY_OTHER) or _NO_TERMS

    def charge(self, tenant: str, cost: float) -> float:
        """Return what `cost` adds to the tenant's clock."""
        return cost / self.terms_of(tenant).weight

    def priority_of(self, spec: TicketSpec) -> int:
        """Return the priority of a ticket: what the request asks for, on top of its tenant's."""
        priority = spec.priority + self.terms_of(spec.tenant).priority
        if spec.priority < PriorityClass.ORDINARY:  # it stays below ordinary requests, whoever it is of
            priority = min(priority, max(spec.priority, PriorityClass.BATCH))
        return int(min(max(priority, PriorityClass.LOWEST), PriorityClass.HIGHEST))  # Redis' client sends no enum


_NO_TERMS = TenantTerms()


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue at one moment; rates are means of about the last half minute."""

    depth: int
    # The longest wait of a ticket, but for those that yield; 0 where there is none.
    oldest_wait_s: float
    # Of the waiting tickets, those at or below BATCH; the slots that such tickets hold.
    batch_depth: int
    batch_busy: int
    # Those of batch_depth that wait because others are there: more slots would not help.
    yielding: int
    # How long no ticket above BATCH has waited or held a slot; 0 while one does.
    others_away_s: float
    # Of all live workers, with those that drain and of those that drain: their number, their slots, the busy ones.
    workers: int
    slots: int
    busy: int
    draining_workers: int
    draining_slots: int
    draining_busy: int
    # Tickets that were let in, and those that were refused because no slot would have been free in time.
    arrivals_per_s: float
    refusals_per_s: float
    grants_per_s: float
    # Mean time that a slot is held, over about two minutes; 0 where none was freed yet.
    hold_s: float
    # A turn is on its way here, through stages before this one.
    woken: bool
    # A worker is live, or was within the time that queues are remembered.
    known: bool


class Lead(IntEnum):
    """Who of several scalers shows how many replicas a queue's stage should have."""

    ANOTHER = 0
    THIS = 1
    TAKEN_OVER = 2
    """This one from now on, in place of one that was silent."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that live workers serve, which of its stages have one, and which have none but are started on demand."""

    card: common_pb2.ModelCard
    stages: frozenset[str]
    asleep: frozenset[str] = frozenset()
    # How long the start of each stage's last worker took, seconds; 0 = not known.
    starts_s: Mapping[str, float] = field(default_factory=dict[str, float])
