"""All realtime sessions of this process."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from services.common.errors import BadInput, Capacity, Unavailable, no_worker
from services.common.shared_places import leaves_room
from services.gateway import metrics
from services.gateway.http.presets.presets import AskedPreset
from services.gateway.limits import RealtimeLimits
from services.gateway.memory import GatewayMemory
from services.gateway.realtime.conversation import new_id
from services.gateway.realtime.events import Emit
from services.gateway.realtime.kept.keeper import SessionKeeper
from services.gateway.realtime.kept.sessions import KeptSession, KeptSessions, no_kept_sessions
from services.gateway.realtime.memory import SessionMemory
from services.gateway.realtime.session import Session
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.realtime.turns.speech_pool import SpeechPool
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import FieldNames, Principal

_RETRY_S = 5.0
# Of the sessions that there may be, one tenant may have this part expected, so that others find room; at least two.
_EXPECTED_SHARE = 8
_LEAST_EXPECTED = 2


@dataclass(frozen=True, slots=True)
class OpenSession:
    session: Session
    # Whether its client may go on with it by another connection.
    is_kept: bool
    # To be called when its settings have changed.
    settings_changed: Callable[[], None]
    # To be called once it is closed, before its client is told: the client may go on with it at once.
    keep: Callable[[], Awaitable[None]]


class Sessions:
    """Opens sessions, as many as there may be, until it drains."""

    def __init__(
        self,
        admission: Admission,
        memory: GatewayMemory,
        limits: RealtimeLimits,
        pool: SpeechPool,
        has_key: Callable[[Principal], bool],
        kept: KeptSessions | None = None,
        preset: AskedPreset | None = None,
    ) -> None:
        """`kept`: where sessions are kept for other gateways; None = they are not. `preset`: what a session begins
        with, which its client may change."""
        self._preset = preset
        self.limits = limits
        self._admission = admission
        self._memory = memory
        self._pool = pool
        self._has_key = has_key
        self._kept = kept
        self._open: set[Session] = set()
        # By tenant: sessions that are about to be open, with those of `expecting`.
        self._coming: Counter[str] = Counter()
        # Of these, connections that have not said yet what session they want.
        self._expected: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    @property
    def count(self) -> int:
        """How many are open, or about to be."""
        return len(self._open) + self._coming.total()

    async def find(self, principal: Principal, session_id: str, model: str | None = None) -> KeptSession:
        """Return a session that is kept, without its items. `model`: what its client calls its model; None = nothing.
        Raise NotFound, BadInput, Forbidden or Unavailable."""
        if self._kept is None:
            raise no_kept_sessions()
        kept = await self._kept.find(principal, session_id)
        if model not in (None, kept.model) and (await self._admission.find(principal, model)).name != kept.model:
            raise BadInput(f"Invalid 'model': the session has '{kept.model}' to its end.", param="model")
        return kept

    @asynccontextmanager
    async def expecting(self, principal: Principal) -> AsyncGenerator[None]:
        """Keep room inside the block for a session that is opened behind it: its client does not name the model before
        it is connected. Raise Capacity, Unavailable."""
        self._check_room(principal)
        expected = self._expected
        if expected[principal.tenant] >= max(self.limits.max_sessions // _EXPECTED_SHARE, _LEAST_EXPECTED):
            raise _too_many("Too many connections wait for their session.start. Start those first.")
        with _counted(self._coming, principal.tenant), _counted(expected, principal.tenant):
            if not await self._admission.models(principal):
                raise no_worker(retry_after_s=_RETRY_S)
            yield

    @asynccontextmanager
    async def open(
        self,
        principal: Principal,
        model: str | None,
        names: FieldNames,
        emit: Emit,
        turn_detection: TurnDetection | None,
        kept: KeptSession | None = None,
        lead_s: float = math.inf,
    ) -> AsyncGenerator[OpenSession]:
        """Have a session inside the block, with this turn detection at its start. `kept`: the one that it goes on with.
        `lead_s`: how far its audio may be ahead, where the operator allows more. Raise Capacity, RateLimited,
        Unavailable, Forbidden, NotFound or BadInput."""
        self._check_room(principal)
        async with AsyncExitStack() as held:
            with _counted(self._coming, principal.tenant):
                found = await self._admission.find(principal, model)
                place_id = new_id("sess")  # of one connection: the one before may have its place yet
                former_id = kept.owner if kept is not None else ""
                await held.enter_async_context(self._admission.holding_session(principal, place_id, former_id))
            memory = SessionMemory(self._memory, principal.tenant, self.limits.max_conversation_bytes)
            keeper = SessionKeeper(self._kept, principal.tenant, place_id, emit) if self._kept is not None else None
            session = Session(
                kept.id if kept is not None else place_id,
                self._admission,
                principal,
                found,
                memory,
                replace(self.limits, lead_s=min(lead_s, self.limits.lead_s)),
                names,
                keeper.emit if keeper is not None else emit,
                self._pool,
                turn_detection,
                kept,
            )
            session.options = replace(session.options, preset=self._preset)
            self._change(session, is_open=True)
            try:
                if kept is not None:
                    await self._restore(session, kept)
                if keeper is not None:
                    await keeper.start(session, resumed=kept is not None)
                    yield OpenSession(session, True, keeper.note, keeper.close)
                else:
                    yield OpenSession(session, False, _nothing, _keep_nothing)
            finally:
                try:
                    await session.close()
                    if keeper is not None:
                        await keeper.close()
                    await memory.close()
                finally:
                    self._change(session, is_open=False)

    async def _restore(self, session: Session, kept: KeptSession) -> None:
        """Read the items, a few at a time: each has its memory before the next ones are read."""
        if self._kept is None:
            raise no_kept_sessions()
        tenant = session.principal.tenant
        async with aclosing(self._kept.items(tenant, kept)) as read:
            async for items in read:
                await session.restore(items)
        if (held := await self._kept.uncommitted(tenant, kept.id)) is not None:
            await session.restore([], held)
            await self._kept.delete_uncommitted(tenant, kept.id)  # not before: there may be no room for it here

    def _check_room(self, principal: Principal) -> None:
        if self._draining:
            raise Unavailable("This server is shutting down. Connect again.", retry_after_s=1)
        most = self.limits.max_sessions
        if self.count >= most:
            raise _too_many(f"This server has {most} realtime sessions, which is the most. Connect later.")
        if self.limits.are_shared:
            tenant = principal.tenant
            has = sum(session.principal.tenant == tenant for session in self._open) + self._coming[tenant]
            if not leaves_room(has, self.count, most):
                raise _too_many(
                    f"You have {has} of this server's {most} realtime sessions, and the others are for others. End one"
                    " first."
                )

    def end_revoked(self) -> None:
        """End the sessions of keys that are no more, also those that only wait for their clients."""
        for session in self._open:
            self._check_key(session)

    def _check_key(self, session: Session) -> None:
        if not self._has_key(session.principal):
            session.revoke()

    async def drain(self) -> None:
        """End idle sessions, let the others finish their responses, and wait for their ends. The caller bounds the
        wait."""
        self._draining = True
        for session in self._open:
            session.drain()
        await self._idle.wait()

    def _change(self, session: Session, *, is_open: bool) -> None:
        if is_open:
            self._open.add(session)
            self._check_key(session)  # it may have been revoked since the request came
            if self._draining:
                session.drain()
        else:
            self._open.discard(session)
        metrics.REALTIME_SESSIONS.set(len(self._open))
        if self._open:
            self._idle.clear()
        else:
            self._idle.set()


def _too_many(message: str) -> Capacity:
    return Capacity(message, code="too_many_sessions", retry_after_s=_RETRY_S)


@contextmanager
def _counted(counts: Counter[str], tenant: str) -> Generator[None]:
    """Count one more of the tenant inside the block."""
    counts[tenant] += 1
    try:
        yield
    finally:
        counts[tenant] -= 1
        if not counts[tenant]:
            del counts[tenant]


def _nothing() -> None:
    """Do nothing: the session is not kept."""


async def _keep_nothing() -> None:
    """Do nothing: the session is not kept."""
