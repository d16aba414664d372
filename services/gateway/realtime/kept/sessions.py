"""Sessions that are kept, so that their clients go on with them on any gateway: one value for each item, one for the
session, one for the audio that its last connection left in no item, and one that says who has it now."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from services.common.errors import BadInput, NotFound
from services.gateway.kept.store import KeptStore
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.input_buffer import Uncommitted
from services.gateway.realtime.kept.records import item_of, record_of, uncommitted_of, uncommitted_record
from services.gateway.realtime.kept.sealer import Sealer
from services.gateway.turn.events import Usage
from services.gateway.turn.intent import Principal
from services.gateway.turn.prompt import PromptUsage

# Items that are read at a time.
_AT_ONCE = 16
# Larger values are sealed and opened in a thread, so that the event loop goes on.
_SMALL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class KeptSession:
    """What is kept of a session. `settings`: what its dialect made it of. `items`: of one that is open, to be kept; of
    one that was found, see KeptSessions.items. `owner`: the connection that has it, by its place; "" = nobody knows."""

    id: str
    model: str
    settings: str
    project_id: str
    expires_unix_s: int
    item_ids: Sequence[str] = ()
    usage: Usage = field(default_factory=Usage)
    items: Sequence[Item] = field(default=(), compare=False)
    owner: str = field(default="", compare=False)


_WRITTEN = frozenset(one.name for one in fields(KeptSession)) - {"items", "owner"}
_IN_USAGE = frozenset(one.name for one in fields(Usage))
_IN_PROMPT = frozenset(one.name for one in fields(PromptUsage))


class KeptSessions:
    def __init__(self, store: KeptStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    async def find(self, principal: Principal, session_id: str) -> KeptSession:
        """Return a session without its items, which may be large. Raise NotFound where the principal has none of this
        id, Unavailable where it can't be read."""
        kept = owner = None
        if "/" not in session_id:  # else it is the name of a value of a session
            value, owner = await self._get_all(principal.tenant, session_id, _owner_name(session_id))
            kept = _session_of(value) if value is not None else None
        if kept is None or kept.project_id != principal.project_id or kept.expires_unix_s <= time.time():
            raise NotFound(
                f"There is no session '{session_id[:100]}'. Open another one, without 'session_id'.",
                param="session_id",
                code="session_not_found",
            )
        return replace(kept, owner=owner.decode() if owner is not None else "")

    async def items(self, tenant: str, kept: KeptSession) -> AsyncGenerator[list[Item]]:
        """Yield a session's items in order, a few at a time. Raise Unavailable where they can't be read."""
        for at in range(0, len(kept.item_ids), _AT_ONCE):
            names = [_item_name(kept.id, id) for id in kept.item_ids[at : at + _AT_ONCE]]
            # Where there is none, others needed its room.
            yield [item_of(record) for record in await self._get_all(tenant, *names) if record is not None]

    async def take(self, tenant: str, session_id: str, owner: str) -> None:
        """Make `owner` the session's only writer."""
        await self._put(tenant, _owner_name(session_id), owner.encode())

    async def is_owner(self, tenant: str, session_id: str, owner: str) -> bool:
        (found,) = await self._get_all(tenant, _owner_name(session_id))
        return found in (owner.encode(), None)

    async def put_item(self, tenant: str, session_id: str, item: Item) -> bool:
        """Return whether there is room for it."""
        return await self._put(tenant, _item_name(session_id, item.id), record_of(item))

    async def delete_item(self, tenant: str, session_id: str, item_id: str) -> None:
        await self._store.delete(tenant, _item_name(session_id, item_id))

    async def put_uncommitted(self, tenant: str, session_id: str, held: Uncommitted) -> bool:
        """Return whether there is room for it."""
        return await self._put(tenant, _uncommitted_name(session_id), uncommitted_record(held))

    async def uncommitted(self, tenant: str, session_id: str) -> Uncommitted | None:
        """Return what the connection before left in its buffer. Raise Unavailable where it can't be read."""
        (record,) = await self._get_all(tenant, _uncommitted_name(session_id))
        return uncommitted_of(record) if record is not None else None

    async def delete_uncommitted(self, tenant: str, session_id: str) -> None:
        await self._store.delete(tenant, _uncommitted_name(session_id))

    async def put(self, tenant: str, kept: KeptSession) -> bool:
        """Keep all but the items. Return whether there is room for it."""
        described = {name: getattr(kept, name) for name in _WRITTEN} | {"usage": asdict(kept.usage)}
        return await self._put(tenant, kept.id, json.dumps(described, ensure_ascii=False).encode())

    async def _put(self, tenant: str, name: str, value: bytes) -> bool:
        is_small = len(value) <= _SMALL_BYTES
        seal = self._sealer.sealed
        sealed = seal(name, value) if is_small else await asyncio.to_thread(seal, name, value)
        return await self._store.put(tenant, name, sealed) is not None

    async def _get_all(self, tenant: str, *names: str) -> list[bytes | None]:
        found = zip(names, await self._store.get_many(tenant, names), strict=True)
        return [await self._opened(name, sealed) if sealed is not None else None for name, sealed in found]

    async def _opened(self, name: str, sealed: bytes) -> bytes | None:
        if len(sealed) <= _SMALL_BYTES:
            return self._sealer.opened(name, sealed)
        return await asyncio.to_thread(self._sealer.opened, name, sealed)


def no_kept_sessions() -> BadInput:
    return BadInput(
        "This server keeps no sessions: each ends with its connection. Open another one, without 'session_id'.",
        param="session_id",
        code="sessions_not_kept",
    )


def _session_of(value: bytes) -> KeptSession | None:
    """Return the session, as far as this version of the gateway knows what another one has written; None = it can't be
    read."""
    described = _known(json.loads(value), _WRITTEN)
    try:
        usage = _known(described.pop("usage", {}), _IN_USAGE)
        prompt = PromptUsage(**_known(usage.pop("prompt", {}), _IN_PROMPT))
        return KeptSession(**described, usage=Usage(prompt=prompt, **usage))
    except TypeError:
        return None


def _known(described: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: said for name, said in described.items() if name in names}


def _item_name(session_id: str, item_id: str) -> str:
    return f"{session_id}/item/{item_id}"


def _uncommitted_name(session_id: str) -> str:
    return f"{session_id}/uncommitted"


def _owner_name(session_id: str) -> str:
    return f"{session_id}/owner"
