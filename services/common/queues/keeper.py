"""The worker's side of the queues: it takes tickets for free slots."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from antiphon.v1 import common_pb2, queue_pb2
from services.common.errors import Unavailable
from services.common.moved_calls import move
from services.common.queues.keys import bell_key, queue_prefix
from services.common.queues.known import KnownQueues
from services.common.queues.script import QueueScript
from services.common.queues.slots import Slots
from services.common.queues.tickets import QueueName
from services.common.redis_client import RedisClient, redis_call

_log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
_RETRY_S = 0.5
_MOST_A_CALL = 32


class SlotKeeper:
    """Keeps `slots` slots of one worker busy with tickets of one queue.

    `run()` must run in the background: it shows the worker to gateways, asks for tickets whenever a slot is free, and
    frees slots whose lease nobody opens within `grant_timeout_s`. A servicer serves each call inside
    `with keeper.open(lease_id)`. While Redis is away open leases go on; tickets are taken again when it is back.
    `worker_id` must be new with each start of the process. A worker is shown until its heartbeat is `worker_ttl_s` old.
    `start_s` is how long the process took to start: tickets wait as long for the next one. 0 = not known.
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
    ) -> None:
        if worker_ttl_s < 2 * HEARTBEAT_S:
            raise ValueError("worker_ttl_s must be at least twice the heartbeat")
        self._redis = redis
        self._queue = queue
        self._script = QueueScript(redis)
        self._known = KnownQueues(redis)
        self._prefix = queue_prefix(queue.stage, queue.model)
        self._info = queue_pb2.WorkerInfo(
            worker_id=worker_id,
            stage=queue.stage,
            model=queue.model,
            address=address,
            slots=slots,
            card=card,
            start_s=start_s,
        )
        self._worker_ttl_ms = round(worker_ttl_s * 1000)
        self._grant_timeout_ms = round(grant_timeout_s * 1000)
        # What Redis puts before the gateway's half of each GrantRecord, but for the lease id.
        self._grant_half = queue_pb2.GrantRecord(
            worker_id=worker_id, address=address, grant_timeout_ms=self._grant_timeout_ms
        ).SerializeToString()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining = False
        self._asking = False
        # Until then a call may bring a lease of which this worker has not heard, monotonic seconds.
        self._in_doubt_until_s = 0.0
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
    def open(self, lease_id: str) -> Generator[None]:
        """Holds the granted slot while the block runs and frees it at its end.

        Raises Gone where the lease is unknown, expired or was opened before.
        """
        with self._slots.open(lease_id):
            yield

    def drain(self) -> None:
        """Stop taking tickets. Granted leases can still be opened; open ones go on."""
        self._draining = True
        self._on_free()

    async def hand_over(self, after_s: float) -> None:
        """Return when a drained keeper holds nothing; `after_s` seconds from now, move its calls to other workers.

        They stay while the queue has no other worker, or Redis is away.
        """
        await self.unless_replaced(self.wait_idle, after_s)
        while self._slots.busy:
            for call in self._slots.calls:  # one that was granted late opens late
                move(call)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self.wait_idle()

    async def unless_replaced(self, wait: Callable[[], Awaitable[None]], after_s: float) -> None:
        """Wait; longer than `after_s` seconds only while the queue has no other worker."""
        wait_s = after_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    return await wait()
            if await self._has_peer():
                return
            wait_s = _RETRY_S

    async def _has_peer(self) -> bool:
        try:
            workers = await self._script(self._queue, "workers")
        except Unavailable:
            return False
        peers = (queue_pb2.WorkerInfo.FromString(info) for info, _ in workers)
        return any(peer.worker_id != self.worker_id and not peer.draining for peer in peers)

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
                await self._script(self._queue, "close_worker", self.worker_id)
            except Unavailable:
                _log.warning("Redis is away; the worker is shown until its heartbeat expires")

    def _on_free(self) -> None:
        self._wake.set()
        self._note_idle()

    def _note_idle(self) -> None:
        in_doubt = self._asking or time.monotonic() < self._in_doubt_until_s
        if self._draining and not in_doubt and self._slots.busy == 0:
            self._idle.set()

    async def _take_tickets(self) -> None:
        while True:
            self._wake.clear()
            expires_in_s = self._slots.expire()
            wait_s = HEARTBEAT_S if expires_in_s is None else min(HEARTBEAT_S, expires_in_s)
            self._asking, offered = True, not self._draining
            try:
                wait_s = min(wait_s, await self._take())
                self._in_doubt_until_s = 0.0
            except Unavailable:
                # It may have granted what was offered: the same ids are offered again, and calls with them are served.
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
        offers = self._slots.offers(_MOST_A_CALL)
        closed, held_s = self._slots.take_holds()
        self._info.busy, self._info.draining = self._slots.busy, self._draining
        halves = (
            self._grant_half + queue_pb2.GrantRecord(lease_id=lease_id).SerializeToString() for lease_id in offers
        )
        next_promotion_ms, *granted = await self._script(
            self._queue,
            "take",
            self.worker_id,
            self._info.SerializeToString(),
            0 if self._draining else self._slots.total,
            self._slots.free,
            0 if self._draining else len(offers),
            self._worker_ttl_ms,
            self._grant_timeout_ms,
            closed,
            held_s * 1000,
            *(part for pair in zip(offers, halves, strict=True) for part in pair),
        )
        for lease_id in granted:
            self._slots.grant(lease_id.decode())
        await self._known.keep(self._queue)
        if len(granted) == _MOST_A_CALL and self._slots.free:
            return 0.0
        return HEARTBEAT_S if next_promotion_ms < 0 or not self._slots.free else next_promotion_ms / 1000

    async def _answer_bell(self) -> None:
        bell = bell_key(self._prefix, self.worker_id)
        while True:
            try:
                async with redis_call(HEARTBEAT_S):
                    rung: Any = await self._redis.blpop([bell], timeout=HEARTBEAT_S)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            if rung is None:
                continue
            if lease_id := rung[1].decode():
                self._slots.give_back(lease_id)
            else:
                self._wake.set()
