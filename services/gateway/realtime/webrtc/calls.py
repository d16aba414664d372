"""All calls of this process. It needs antiphon[webrtc]: import it only where calls are served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.common.errors import Capacity, NotFound, Unavailable
from services.common.shared_places import leaves_room
from services.gateway import metrics
from services.gateway.realtime.conversation import new_id
from services.gateway.realtime.openai.options import FIELD_NAMES
from services.gateway.realtime.openai.schema import SessionOptions
from services.gateway.realtime.session import Session
from services.gateway.realtime.sessions import Sessions
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.realtime.webrtc.call import Call
from services.gateway.realtime.webrtc.connection import LEAD_S, CallConnection
from services.gateway.realtime.webrtc.ice import CallIce, reachable_addresses
from services.gateway.realtime.webrtc.limits import IceServers, WebRtcLimits
from services.gateway.realtime.webrtc.offer import Offer
from services.gateway.realtime.webrtc.udp_port import UdpPort
from services.gateway.turn.intent import Principal

_RETRY_S = 5.0
# Of the calls that there may be, one tenant may have this part unconnected, so that others find room; at least two.
_UNCONNECTED_SHARE = 4
_LEAST_UNCONNECTED = 2

logger = logging.getLogger(__name__)


class Calls:
    """Answers offers, and has a session behind each call until one of them ends. Call `close` at the end."""

    def __init__(
        self,
        sessions: Sessions,
        port: UdpPort,
        limits: WebRtcLimits,
        servers: IceServers,
        addresses: Sequence[str] = (),
        public_port: int = 0,
    ) -> None:
        """`addresses`, `public_port`: where clients reach the port; without them, where it is bound."""
        for name in ("aioice", "aiortc"):  # each check and each wrong packet of a client is a line otherwise
            logging.getLogger(name).setLevel(logging.ERROR)
        self.limits = limits
        self._sessions = sessions
        self._port = port
        self._servers = servers
        self._addresses = reachable_addresses(port, list(addresses))
        self._public_port = public_port or port.address[1]
        self._calls: dict[str, tuple[Principal, Call, asyncio.Task[None]]] = {}

    @property
    def count(self) -> int:
        return len(self._calls)

    async def close(self) -> None:
        """End all calls."""
        tasks = [task for _, _, task in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(
        self, principal: Principal, model: str | None, offer: Offer, given: Sequence[SessionOptions]
    ) -> tuple[str, str]:
        """Open a session as `given`. Return the call's id and the SDP of the answer. Raise what `Sessions.open` raises,
        BadInput or Capacity."""
        self._check_room(principal)
        self._check_unconnected(principal.tenant)
        call_id = new_id("rtc")
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        call = Call(CallIce(self._port, self._addresses, self._public_port, self._servers))
        serving = self._serve(call_id, call, principal, model, offer, given, answered)
        task = asyncio.create_task(serving, name=f"call {call_id}")
        self._calls[call_id] = principal, call, task
        task.add_done_callback(lambda _: self._end(call_id, answered))
        try:
            return call_id, await answered
        except asyncio.CancelledError:
            task.cancel()  # its client has left
            raise

    def hang_up(self, principal: Principal, call_id: str) -> None:
        """End a call of the same project. Raise NotFound where there is none here."""
        owner, call, _ = self._calls.get(call_id, (None, None, None))
        if call is None or owner is None or _whose(owner) != _whose(principal):
            raise NotFound(
                "There is no such call at this gateway. A call lives at the gateway that answered it, until it ends.",
                param="call_id",
                code="call_not_found",
            )
        call.hang_up()

    def _check_room(self, principal: Principal) -> None:
        count, most = len(self._calls), self.limits.max_calls
        if count >= most:
            raise _too_many(f"This server has {most} calls, which is the most. Call later.")
        if self._sessions.limits.are_shared:
            has = sum(owner.tenant == principal.tenant for owner, _, _ in self._calls.values())
            if not leaves_room(has, count, most):
                raise _too_many(f"You have {has} of this server's {most} calls, and the others are for others.")

    def _check_unconnected(self, tenant: str) -> None:
        """Raise Capacity where too many calls of the tenant wait for their clients: such a call costs one request."""
        most = max(self.limits.max_calls // _UNCONNECTED_SHARE, _LEAST_UNCONNECTED)
        waiting = sum(owner.tenant == tenant and not call.connected.is_set() for owner, call, _ in self._calls.values())
        if waiting >= most:
            raise _too_many(
                f"{waiting} of your calls are not connected yet, and {most} may be. Connect or hang up those, or call"
                f" later: one that is not connected within {self.limits.connect_s:g} s ends."
            )

    def _end(self, call_id: str, answered: asyncio.Future[str]) -> None:
        del self._calls[call_id]
        if not answered.done():  # `close` ended it, perhaps before it began
            answered.set_exception(Unavailable("This server is shutting down. Call again.", retry_after_s=1))

    async def _serve(
        self,
        call_id: str,
        call: Call,
        principal: Principal,
        model: str | None,
        offer: Offer,
        given: Sequence[SessionOptions],
        answered: asyncio.Future[str],
    ) -> None:
        try:
            connection = CallConnection(call, self._sessions.limits)
            opening = self._sessions.open(
                principal, model, FIELD_NAMES, connection.emit, TurnDetection(), lead_s=LEAD_S
            )
            async with opening as opened:
                await connection.begin(opened, *given)
                answer = await call.answer(offer)
                if not answered.cancelled():
                    answered.set_result(answer)
                is_connected = await self._is_connected(call, opened.session)
                metrics.REALTIME_CALLS.labels("connected" if is_connected else "unconnected").inc()
                if is_connected:
                    await connection.run(None)
        except Exception as error:
            if answered.done():
                logger.exception("call %s failed", call_id)
            else:
                answered.set_exception(error)
        finally:
            await call.close()

    async def _is_connected(self, call: Call, session: Session) -> bool:
        """Wait until the client is connected. Return whether it is: not if it takes too long, hangs up, or the session
        ends first."""
        waits = [asyncio.ensure_future(each.wait()) for each in (call.connected, call.left)]
        try:
            await asyncio.wait(
                (*waits, session.ended), timeout=self.limits.connect_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return call.connected.is_set() and not call.left.is_set() and not session.ended.done()


def _too_many(message: str) -> Capacity:
    return Capacity(message, code="too_many_sessions", retry_after_s=_RETRY_S)


def _whose(principal: Principal) -> tuple[str, str | None]:
    return principal.tenant, principal.project_id
