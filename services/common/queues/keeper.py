"""The worker's side of the queues: it takes tickets for free slots."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from antiphon.v1 import common_pb2, queue_pb2
from services.common.errors import Unavailable
from services.common.moved_calls import move
from services.common.queues.known import KnownQueues
from services.common.queues.script import Offer, QueueScript, WorkerState
from services.common.queues.slots import Slots
from services.common.queues.tickets import QueueName
from services.common.redis_client import RedisClient, redis_call
from services.common.redis_held import hold

_log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
_RETRY_S = 0.5
# Asks between two heartbeats do not show the worker again.
_SHOW_EVERY_S = HEARTBEAT_S / 2
_MOST_OFFERS = 8
# A ring is for one ticket, most of the time: where all offers were filled, more follow at once.
_FEW_OFFERS = 2
# Heartbeats of workers that began or lost Redis in one moment would all come in one moment.
_HEARTBEATS_S = (0.8 * HEARTBEAT_S, HEARTBEAT_S)
_MOST_RINGS = 64
# The list of queues is on another node of a Redis Cluster, which may lose its memory alone.
_LIST_EVERY_S = 5.0


class SlotKeeper:
    """Keeps `slots` slots of one worker busy with tickets of one queue.

    `run()` must run in the background: it shows the worker to gateways, asks for tickets whenever a slot is free, and
    frees slots whose lease nobody opens within `grant_timeout_s`. A servicer serves each call inside
    `with keeper.open(lease_id)`. While Redis is away open leases go on; tickets are taken again when it is back.
    `worker_id` must be new with each start of the process. A worker is shown until its heartbeat is `worker_ttl_s` old.
    `start_s` is how long the process took to start: tickets wait as long for the next one. 0 = not known.
    `pod` is the namespace and name of the pod that a ReplicaSet may choose to remove; empty = none.
    """

    def __init__(
        self,
        redis: RedisClient,
        queue: QueueName,
        *,
        worker_id: str,
        address: str,
        slots: int,
        card: common_pb2.ModelCard | None = None,
        grant_timeout_s: float = 5.0,
        worker_ttl_s: float = 5.0,
        start_s: float = 0.0,
        pod: tuple[str, str] = ("", ""),
    ) -> None:
        if worker_ttl_s < 2 * HEARTBEAT_S:
            raise ValueError("worker_ttl_s must be at least twice the heartbeat")
        self._redis = hold(redis)
        self._queue = queue
        self._script = QueueScript(redis)
        self._known = KnownQueues(redis)
        self._listed_s = float("-inf")
        # Slots that Redis knows each tenant or group to hold; None = it may know anything.
        self._told: Counter[str] | None = None
        self._info = queue_pb2.WorkerInfo(
            worker_id=worker_id,
            stage=queue.stage,
            model=queue.model,
            address=address,
            slots=slots,
            card=card,
            start_s=start_s,
            pod_namespace=pod[0],
            pod_name=pod[1],
        )
        self._card = card.SerializeToString(deterministic=True) if card is not None else b""
        self._worker_ttl_ms = round(worker_ttl_s * 1000)
        self._grant_timeout_ms = round(grant_timeout_s * 1000)
        # What Redis puts before the gateway's half of each GrantRecord, but for the lease id.
        self._grant_half = queue_pb2.GrantRecord(
            worker_id=worker_id, address=address, grant_timeout_ms=self._grant_timeout_ms
        ).SerializeToString()
        self._jitter = random.Random()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining = False
        self._asking = False
        self._asks = 0
        # Until then a call may bring a lease of which this worker has not heard, monotonic seconds.
        self._in_doubt_until_s = 0.0
        # Whether the last ask filled all that it offered, or was to fill nothing, so that more may wait.
        self._may_be_more = True
        # When this worker was last shown, monotonic seconds, and whether it drained.
        self._shown = (float("-inf"), False)
        self._slots = Slots(slots, grant_timeout_s, time.monotonic, self._on_free)

    @property
    def worker_id(self) -> str:
        return self._info.worker_id

    @property
    def free(self) -> int:
        return self._slots.free

    @property
    def busy(self) -> int:
        """Slots that are granted or open; free + busy is always the number of slots."""
        return self._slots.busy

    @contextmanager
    def open(self, lease_id: str) -> Generator[Callable[[], None]]:
        """Holds the granted slot while the block runs and frees it at its end. Yields a function that frees it earlier:
        the call goes on, and `wait_idle` still waits for it.

        Raises Gone where the lease is unknown, expired or was opened before.
        """
        with self._slots.open(lease_id) as free_early:
            yield free_early

    def drain(self) -> None:
        """Stop taking tickets. Granted leases can still be opened; open ones go on."""
        self._draining = True
        self._on_free()

    async def hand_over(self, after_s: float, wait_released: Callable[[], Awaitable[object]] | None = None) -> None:
        """Return when a drained keeper holds nothing, and `wait_released` has returned too.

        `after_s` seconds from now, move its calls to other workers, and no longer wait for what other stages may still
        fetch: other workers make it again. Both stay while the queue has no other worker, or Redis is away.
        """
        until_s = time.monotonic() + after_s
        await self._unless_replaced(self.wait_idle, until_s)
        while not self._slots.idle:
            for call in self._slots.calls:  # one that was granted late opens late
                move(call)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self.wait_idle()
        if wait_released is not None:
            await self._unless_replaced(wait_released, until_s)

    async def _unless_replaced(self, wait: Callable[[], Awaitable[object]], until_s: float) -> None:
        """Wait; longer than until `until_s`, monotonic seconds, only while the queue has no other worker."""
        wait_s = max(until_s - time.monotonic(), 0.0)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await wait()
                    return
            if await self._has_peer():
                return
            wait_s = _RETRY_S

    async def _has_peer(self) -> bool:
        try:
            workers = await self._script.workers(self._queue)
        except Unavailable:
            return False
        return any(peer.worker_id != self.worker_id and not peer.draining for peer, _ in workers)

    async def wait_idle(self) -> None:
        """Wait until a drained keeper holds no open lease, and no granted one that may still be opened."""
        await self._idle.wait()

    async def run(self) -> None:
        """Run until cancelled. Then gateways no longer see the worker; open leases stay with their calls."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take_tickets(), name=f"queue-take {self._queue}")
                tasks.create_task(self._answer_bell(), name=f"queue-bell {self._queue}")
        finally:
            try:
                await self._script.close_worker(self._queue, self.worker_id)
            except Unavailable:
                _log.warning("Redis is away; the worker is shown until its heartbeat expires")

    def _on_free(self) -> None:
        self._wake.set()
        self._note_idle()

    def _note_idle(self) -> None:
        in_doubt = self._asking or time.monotonic() < self._in_doubt_until_s
        if self._draining and not in_doubt and self._slots.idle:
            self._idle.set()

    async def _take_tickets(self) -> None:
        while True:
            self._wake.clear()
            expires_in_s = self._slots.expire()
            wait_s = self._jitter.uniform(*_HEARTBEATS_S)
            if expires_in_s is not None:
                wait_s = min(wait_s, expires_in_s)
            self._asking, offered = True, not self._draining
            try:
                wait_s = min(wait_s, await self._take())
                self._in_doubt_until_s = 0.0
            except Unavailable:
                # It may have granted what was offered: the same ids are told again, and calls with them are served.
                wait_s = min(wait_s, _RETRY_S)
                if offered:
                    self._in_doubt_until_s = time.monotonic() + self._grant_timeout_ms / 1000
            self._asking = False
            self._note_idle()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0.001)):
                    await self._wake.wait()

    async def _take(self) -> float:
        """Ask for tickets once. Return the seconds after which to ask again."""
        held, before = Counter(self._slots.held), self._told
        # The last answer was lost, or said that the queue has forgotten this worker, or there was none yet: what is
        # offered may have been granted. Redis says so first, and grants nothing: this call, too, may be sent twice.
        all_held = before is None
        leases = self._slots.offers(_MOST_OFFERS if all_held or self._may_be_more else _FEW_OFFERS)
        closed, held_s = self._slots.take_holds()
        shows = (time.monotonic(), self._draining) if self._is_to_be_shown else None
        changed = held if before is None else {who: held[who] for who in held | before if held[who] != before[who]}
        self._told = None
        self._asks += 1
        taken = await self._script.take(
            self._queue,
            WorkerState(
                worker_id=self.worker_id,
                info=self._current_info() if shows else b"",
                card=self._card if shows else b"",
                slots=self._slots.total,
                free=self._slots.free,
                draining=self._draining,
                ttl_ms=self._worker_ttl_ms,
            ),
            [Offer(lease_id, self._record_of(lease_id)) for lease_id in leases],
            most=0 if self._draining or all_held else len(leases),
            grant_ms=self._grant_timeout_ms,
            ask=self._asks,
            known=not all_held,
            held=dict(changed),
            all_held=all_held,
            batch_held=len(self._slots.batches),
            unheard=self._slots.unheard[:_MOST_OFFERS],
            closed=closed,
            held_ms=held_s * 1000,
        )
        for lease_id, tenant, priority, group in taken.grants:
            self._slots.grant(lease_id, tenant, priority, group)
            held.update([tenant, group] if group else [tenant])
        if taken.known or all_held:
            self._told = held
        if shows is not None:
            self._shown = shows
        self._may_be_more = all_held or len(taken.grants) >= len(leases)
        if all_held or not taken.known:
            # Redis may have granted the others and forgotten it.
            self._slots.renew_offers()
        await self._keep_listed(taken.known)
        if not (taken.known or all_held):
            return 0.0
        if not self._slots.free:
            return HEARTBEAT_S
        if self._may_be_more:
            return 0.0
        return HEARTBEAT_S if taken.again_ms < 0 else taken.again_ms / 1000

    @property
    def _is_to_be_shown(self) -> bool:
        at_s, drained = self._shown
        return self._told is None or drained != self._draining or time.monotonic() - at_s >= _SHOW_EVERY_S

    def _current_info(self) -> bytes:
        self._info.busy, self._info.draining = self._slots.busy, self._draining
        self._info.progress_s = self._slots.progress_s
        return self._info.SerializeToString()

    def _record_of(self, lease_id: str) -> bytes:
        """The worker's half of a GrantRecord."""
        return self._grant_half + queue_pb2.GrantRecord(lease_id=lease_id).SerializeToString()

    async def _keep_listed(self, known: bool) -> None:
        """Keep the queue in the list of all queues. At once where the queue had not known this worker: it is new there,
        or Redis has lost its memory."""
        if known and time.monotonic() - self._listed_s < _LIST_EVERY_S:
            return
        self._listed_s = time.monotonic()
        with suppress(Unavailable):  # the queue itself has answered: a later ask tells the list
            await self._known.keep(self._queue)

    async def _answer_bell(self) -> None:
        bell = self._script.keys.queue_key(self._queue, "bell", self.worker_id)
        while True:
            try:
                async with redis_call(HEARTBEAT_S):
                    found: Any = await self._redis.execute_command(
                        "BLMPOP", HEARTBEAT_S, 1, bell, "LEFT", "COUNT", _MOST_RINGS
                    )
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            for rung in found[1] if found else ():
                if rung:
                    self._slots.give_back(rung.decode())
                else:
                    self._wake.set()
