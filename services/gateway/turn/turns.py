"""All turns of this process. They run in one task group, and shutdown waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

from services.common.errors import Unauthenticated, Unavailable
from services.gateway import metrics
from services.gateway.turn.intent import Principal
from services.gateway.turn.not_begun import NotBegun
from services.gateway.turn.ports import Account, Accounts, SlotClient, Stages
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.turn import Turn
from services.gateway.turn.unmetered import Unmetered

logger = logging.getLogger(__name__)


class OpenedAccount:
    """An account that was opened before its turn."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.is_taken = False

    def take(self) -> Account:
        """Return the account for its turn, which closes it."""
        self.is_taken = True
        return self._account


class Turns:
    """Starts turns. Enter it for the life of the process; leaving cancels all running turns."""

    def __init__(self, slots: SlotClient, stages: Stages, accounts: Accounts | None = None) -> None:
        self._slots = slots
        self._stages = stages
        self._accounts = accounts or Unmetered()
        self._group = asyncio.TaskGroup()
        self._live: dict[asyncio.Task[None], Turn] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = 0
        self.draining = False
        self._is_over = False  # the drain
        self.has_key: Callable[[Principal], bool] = lambda _: True
        """Whether a principal's key is still one; see `end_revoked`."""
        self.check_key: Callable[[Principal], None] = lambda _: None
        """Raises Unauthenticated where a key may begin nothing any more."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._live:
            task.cancel()
        # Without the error: the turns must still be able to start their last tasks.
        await self._group.__aexit__(None, None, None)

    @asynccontextmanager
    async def begin(self, request: TurnRequest, opened: OpenedAccount | None = None) -> AsyncGenerator[Turn]:
        """Run a turn inside the block. Leaving it before the last event cancels the turn. `opened`: its account,
        where that is open.

        Raise Unavailable while draining, unless the request was admitted before that, and Unauthenticated where the
        key was revoked, or has expired, since the request or its session came.
        """
        was_admitted = request.intent.is_served_in_drain or opened is not None
        if self._is_over or (self.draining and not was_admitted):
            raise _shutting_down()
        if not self.has_key(request.principal):
            raise revoked_key()
        if opened is None and not request.intent.keeps_key:
            self.check_key(request.principal)
        account = opened.take() if opened is not None else None
        turn = Turn(request, self._slots, self._stages, self._accounts, self._spawn, account)
        name = f"turn {request.request_id}"
        task = self._group.create_task(_contained(turn.run(), name), name=name)
        self._live[task] = turn
        task.add_done_callback(self._live.pop)
        live = metrics.LIVE_TURNS.labels(request.principal.label)
        live.inc()
        self._count(1)
        try:
            yield turn
        finally:
            task.cancel()
            live.dec()
            self._count(-1)

    @asynccontextmanager
    async def opened_account(self, request: TurnRequest, headers: dict[str, str]) -> AsyncGenerator[OpenedAccount]:
        """Open the account of a turn before the turn itself begins, as its work begins sooner. Where it never does, the
        request counts as one that was cancelled. `headers` gets the account's, also where it refuses. Raise as
        `Account.open`."""
        account = self._accounts.account_of(request, NotBegun())
        opened = OpenedAccount(account)
        try:
            try:
                await account.open()
            finally:
                headers.update(account.headers)
            yield opened
        finally:
            if not opened.is_taken:
                self._spawn(account.close("cancelled"), f"account {request.request_id}")

    @contextmanager
    def keep_open(self) -> Generator[None]:
        """A drain waits for the end of the block: turns of one request follow each other inside."""
        if self.draining:
            raise _shutting_down()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._group.create_task(_contained(work, name), name=name)

    def _count(self, change: int) -> None:
        self._open += change
        if self._open:
            self._idle.clear()
        else:
            self._idle.set()

    async def drain(self) -> None:
        """Refuse new turns and wait until the running ones have been delivered. The caller bounds the wait."""
        self.draining = True
        await self._idle.wait()

    def end_revoked(self) -> None:
        """End the turns of keys that are no more, with an error that their clients receive at once."""
        for turn in self._live.values():
            if not self.has_key(turn.request.principal):
                turn.cut(revoked_key(), at_once=True)

    def cut(self) -> None:
        """End the turns that still run with Unavailable, which their clients receive."""
        self.draining = self._is_over = True
        if self._live:
            logger.warning("the drain is over: cancelling %d turns", len(self._live))
        for turn in self._live.values():
            turn.cut(_shutting_down())


async def _contained(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run one turn's work. All turns share a task group, and what escaped from one would cancel every other."""
    try:
        await work
    except Exception:
        logger.exception("%s failed", name)


def revoked_key() -> Unauthenticated:
    """Return what clients of a key get that was revoked while it was in use."""
    return Unauthenticated("The API key was revoked.", code="revoked_api_key")


def _shutting_down() -> Unavailable:
    return Unavailable("This server is shutting down. Send the request again.", retry_after_s=1)
