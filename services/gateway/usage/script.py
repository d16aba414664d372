"""Runs the operations of lua/: each is one method here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pydantic_core import to_json
from redis.exceptions import OutOfMemoryError

from services.common.errors import Unavailable
from services.common.redis_client import ERRORS, RETRY_AFTER_S, RedisClient, redis_call
from services.common.redis_functions import FunctionLibrary
from services.common.redis_held import hold
from services.common.usage_stream import USAGE_STREAM
from services.gateway import metrics
from services.gateway.usage.limits import Limit, LimitSet, Window
from services.gateway.usage.operations import (
    Draw,
    Drawn,
    KnownUse,
    Opened,
    Renewal,
    Renewed,
    SoFar,
    Steps,
    Taken,
    Vector,
)
from services.gateway.usage.trips import Trips

logger = logging.getLogger(__name__)

_FILES = ("counts", "turns", "operations")
_MOST_OPERATIONS = 16
"""Of one trip: Redis does nothing else meanwhile."""
_NEED_ROOM = ("open", "restore", "rebuild")
"""All others hardly use more of Redis' memory, and are not refused while it is full."""


def usage_body() -> str:
    folder = resources.files("services.gateway.usage").joinpath("lua")
    return "".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in _FILES)


LIBRARY = FunctionLibrary("usage", usage_body())


@dataclass(slots=True)
class _Asked:
    operation: str
    as_json: bytes
    """The operation with its arguments."""
    records: Sequence[bytes]
    needs_room: bool


class UsageScript:
    """The operations. Every method is one atomic operation and raises Unavailable. What comes while others are on their
    way goes with the next ones."""

    def __init__(self, redis: RedisClient, library: FunctionLibrary = LIBRARY) -> None:
        self._redis = hold(redis)
        self._library = library
        self._trips = Trips[_Asked, Any](self._send, _MOST_OPERATIONS)

    def hurry(self) -> None:
        """Let all operations go that wait for others."""
        self._trips.hurry()

    async def open(
        self,
        turn_id: str,
        gateway_id: str,
        limits: Sequence[Limit],
        *,
        needs: Vector,
        takes: Vector,
        picos: int,
        so_far: SoFar,
        ttl_s: float,
        instead_of: str = "",
        aside: Steps | None = None,
    ) -> Opened:
        """Open an account where `limits` have room for `needs`, and take `takes` at a cost of `picos`.

        `aside`: a step that is taken, too, where all limits have room for many of it.
        `instead_of`: the account without a record that this one goes on for, "" = none. It is closed in the same step,
        and does not count for the limits.
        """
        more: dict[str, Any] = {} if aside is None else {"aside": aside.step}
        if instead_of:
            more["instead_of"] = instead_of
        status, *rest = await self._put(
            "open",
            so_far.record,
            limits=limits,
            turn=turn_id,
            gateway=gateway_id,
            needs=needs,
            take=takes,
            picos=picos,
            so_far=so_far.units,
            ttl_ms=round(ttl_s * 1000),
            **more,
        )
        match status:
            case b"missing":
                return Opened("missing", subjects=_texts(rest))
            case b"closed":
                return Opened("closed")
            case _:
                by, wait_ms, flat, sets_aside, leaves_places = rest
                windows = [
                    Window(limits[flat[i] - 1], int(flat[i + 1]), int(flat[i + 2]))
                    for i in range(0, len(flat), 3)
                    if limits[flat[i] - 1].header
                ]
                limit = limits[by - 1] if by else None
                return Opened(
                    "ok" if status == b"ok" else "refused",
                    limit,
                    int(wait_ms),
                    windows,
                    sets_aside=sets_aside == 1,
                    leaves_places=leaves_places == 1,
                )

    def open_unlimited(
        self, turn_id: str, gateway_id: str, *, so_far: SoFar, ttl_s: float, within_s: float
    ) -> asyncio.Future[Any]:
        """Have an account opened that nothing limits. Return a future that fails with Unavailable where it is not.

        `within_s`: how long that may wait for other operations, so that they go together.
        """
        return self._put(
            "open",
            so_far.record,
            limits=(),
            within_s=within_s,
            turn=turn_id,
            gateway=gateway_id,
            needs={},
            take={},
            picos=0,
            so_far=so_far.units,
            ttl_ms=round(ttl_s * 1000),
        )

    async def draw(
        self,
        turn_id: str,
        limits: Sequence[Limit],
        draw: Draw,
        so_far: SoFar | None = None,
        *,
        within_s: float = 0.0,
    ) -> Drawn:
        """Take steps for an open turn. `limits` are those that it was opened with. `so_far`: None = as Redis has it.
        `within_s`: as `open_unlimited` has it."""
        told: dict[str, Any] = {} if so_far is None else {"so_far": so_far.units}
        status, *rest = await self._put(
            "draw",
            *(() if so_far is None else (so_far.record,)),
            within_s=within_s,
            turn=turn_id,
            parts=[{"step": part.step, "most": part.most, "least": part.least} for part in draw.parts],
            picos=draw.held_picos,
            sequence=draw.sequence,
            **told,
        )
        match status:
            case b"missing":
                return Drawn("missing", subjects=_texts(rest))
            case b"closed":
                return Drawn("closed")
            case b"unknown":
                return Drawn("unknown")
            case _:
                taken = [
                    Taken(rest[i], limits[rest[i + 1] - 1] if rest[i + 1] else None, rest[i + 2])
                    for i in range(0, len(rest), 3)
                ]
                return Drawn("ok", taken)

    async def restore(
        self,
        turn_id: str,
        gateway_id: str,
        limits: Sequence[Limit],
        *,
        held: Vector,
        sequence: int,
        so_far: SoFar,
        ttl_s: float,
    ) -> bool:
        """Put back an account that Redis has lost. Return False where another has closed it."""
        answer = await self._put(
            "restore",
            so_far.record,
            limits=limits,
            turn=turn_id,
            gateway=gateway_id,
            held=held,
            sequence=sequence,
            so_far=so_far.units,
            ttl_ms=round(ttl_s * 1000),
        )
        return answer[0] == b"ok"

    async def renew(self, renewals: Sequence[Renewal], *, ttl_s: float) -> Renewed:
        """Say that turns are still open, and how far they are."""
        states, missing = await self._put(
            "renew",
            *(renewal.so_far.record for renewal in renewals),
            turns=[{"turn": renewal.turn_id, "so_far": renewal.so_far.units} for renewal in renewals],
            ttl_ms=round(ttl_s * 1000),
        )
        found: dict[bytes, list[str]] = {b"ok": [], b"unknown": [], b"closed": []}
        for renewal, state in zip(renewals, states, strict=True):
            found[state].append(renewal.turn_id)
        return Renewed(found[b"unknown"], found[b"closed"], _texts(missing))

    async def close(
        self,
        turn_id: str,
        limits: Sequence[Limit],
        actual: SoFar,
        *,
        opened: bool,
        force: bool = False,
        within_s: float = 0.0,
    ) -> Sequence[str]:
        """End a turn with what it used, and write its record. `opened`: Redis is sure to have had the account.
        `within_s`: as `open_unlimited` has it.

        Return the subjects whose counts are missing: nothing was done then, but with `force`. An account that can't be
        read leaves its record, and is not counted.
        """
        answer = await self._put(
            "close",
            actual.record,
            limits=limits,
            within_s=within_s,
            turn=turn_id,
            actual=actual.units,
            opened=int(opened),
            force=int(force),
        )
        if answer[0] == b"uncounted":
            metrics.USAGE_UNCOUNTED.inc()
            logger.error("the account of %s was set aside: it has its record, but limits do not count it", turn_id)
        return _texts(answer[1:]) if len(answer) > 1 else []

    async def rebuild(self, name: str, uses: Sequence[KnownUse], as_of_unix_ms: int) -> None:
        """Make counts that are missing. `name` must be new."""
        rows = [{"subject": use.subject, "span": use.span, "used": use.units} for use in uses]
        await self._put("rebuild", rows=rows, as_of_ms=as_of_unix_ms, name=name)

    async def beat(self, gateway_id: str, name: str, *, ttl_s: float) -> tuple[str, int]:
        """Say that a gateway is alive. Return the name of Redis' memory, and how many gateways are not alive though
        their turns are still open. A memory without a name gets `name`."""
        memory, dead = await self._put("beat", gateway=gateway_id, name=name, ttl_ms=round(ttl_s * 1000))
        return memory.decode(), dead

    async def reap(self, most: int) -> int:
        """Close up to `most` turns of gateways that are not alive. Return how many."""
        return await self._put("reap", most=most)

    async def leave(self, gateway_id: str) -> None:
        await self._put("leave", gateway=gateway_id)

    def _put(
        self,
        operation: str,
        *records: bytes,
        limits: Sequence[Limit] | None = None,
        within_s: float = 0.0,
        **arguments: Any,
    ) -> asyncio.Future[Any]:
        given = to_json(arguments)
        if limits is not None:
            known = limits if isinstance(limits, LimitSet) else LimitSet(limits)
            given = b'%b,"limits":[%b]}' % (given[:-1], known.as_json)
        as_json = b'{"operation":"%b","records":%d,"arguments":%b}' % (operation.encode(), len(records), given)
        return self._trips.put(_Asked(operation, as_json, records, operation in _NEED_ROOM), within_s=within_s)

    async def _send(self, asked: Sequence[_Asked]) -> Sequence[Any]:
        """Run operations in one trip. Return the answer of each, or the Unavailable that it raises."""
        async with redis_call():
            try:
                return await self._run(asked, when_full=not any(one.needs_room for one in asked))
            except OutOfMemoryError:
                others = [one for one in asked if not one.needs_room]
                if not others:
                    raise
                ERRORS.labels("refused").inc()
                answers = iter(await self._run(others, when_full=True))
                return [_unavailable() if one.needs_room else next(answers) for one in asked]

    async def _run(self, asked: Sequence[_Asked], *, when_full: bool) -> Sequence[Any]:
        words = [b"[%b]" % b",".join([one.as_json for one in asked])]
        for one in asked:
            words += one.records
        answers = await self._library.call(self._redis, USAGE_STREAM, words, when_full=when_full)
        return [
            answer if done else _failed(one.operation, answer)
            for one, (done, answer) in zip(asked, answers, strict=True)
        ]


def _failed(operation: str, error: bytes) -> Unavailable:
    logger.error("the operation %s failed in Redis: %s", operation, error.decode(errors="replace"))
    return _unavailable()


def _unavailable() -> Unavailable:
    return Unavailable("Limits can't be checked at the moment. Try again shortly.", retry_after_s=RETRY_AFTER_S)


def _texts(words: Sequence[bytes]) -> list[str]:
    return [word.decode() for word in words]
