"""Sessions that are kept, so that their clients go on with them on any gateway: one value for each item, one for the
session, and one that says who has it now."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from services.common.errors import BadInput, NotFound
from services.gateway.kept.store import KeptStore
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.kept.records import item_of, record_of
from services.gateway.realtime.kept.sealer import Sealer
from services.gateway.turn.intent import Principal

# Items that are read at a time.
_AT_ONCE = 16
# Larger values are sealed and opened in a thread, so that the event loop goes on.
_SMALL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class KeptSession:
    """What is kept of a session beside its items, in order. `settings`: what its dialect made it of."""

    id: str
    model: str
    settings: str
    project_id: str
    expires_unix_s: int
    item_ids: Sequence[str] = ()
    items: Sequence[Item] = field(default=(), compare=False)


class KeptSessions:
    def __init__(self, store: KeptStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    async def find(self, principal: Principal, session_id: str) -> KeptSession:
        """Return a session with its items. Raise NotFound where the principal has none of this id, Unavailable where it
        can't be read."""
        value = await self._get(principal.tenant, session_id)
        kept = _session_of(value) if value is not None else None
        if kept is None or kept.project_id != principal.project_id or kept.expires_unix_s <= time.time():
            raise NotFound(
                f"There is no session '{session_id[:100]}'. Open another one, without 'session_id'.",
                param="session_id",
                code="session_not_found",
            )
        items: list[Item] = []
        for at in range(0, len(kept.item_ids), _AT_ONCE):
            names = [_item_name(session_id, id) for id in kept.item_ids[at : at + _AT_ONCE]]
            for name, sealed in zip(names, await self._store.get_many(principal.tenant, names), strict=True):
                record = await self._opened(name, sealed) if sealed is not None else None
                if record is not None:  # else others needed its room
                    items.append(item_of(record))
        return replace(kept, items=items)

    async def take(self, tenant: str, session_id: str) -> str:
        """Make the caller the session's only writer. Return what `is_owner` knows it by."""
        owner = secrets.token_hex(8)
        await self._put(tenant, _owner_name(session_id), owner.encode())
        return owner

    async def is_owner(self, tenant: str, session_id: str, owner: str) -> bool:
        return await self._get(tenant, _owner_name(session_id)) in (owner.encode(), None)

    async def put_item(self, tenant: str, session_id: str, item: Item) -> bool:
        """Return whether there is room for it."""
        return await self._put(tenant, _item_name(session_id, item.id), record_of(item))

    async def delete_item(self, tenant: str, session_id: str, item_id: str) -> None:
        await self._store.delete(tenant, _item_name(session_id, item_id))

    async def put(self, tenant: str, kept: KeptSession) -> bool:
        """Keep all but the items. Return whether there is room for it."""
        described = {one.name: getattr(kept, one.name) for one in fields(kept) if one.name != "items"}
        return await self._put(tenant, kept.id, json.dumps(described, ensure_ascii=False).encode())

    async def _put(self, tenant: str, name: str, value: bytes) -> bool:
        is_small = len(value) <= _SMALL_BYTES
        seal = self._sealer.sealed
        sealed = seal(name, value) if is_small else await asyncio.to_thread(seal, name, value)
        return await self._store.put(tenant, name, sealed) is not None

    async def _get(self, tenant: str, name: str) -> bytes | None:
        sealed = await self._store.get(tenant, name)
        return await self._opened(name, sealed) if sealed is not None else None

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
    try:
        return KeptSession(**json.loads(value))
    except TypeError:  # of another version of the gateway
        return None


def _item_name(session_id: str, item_id: str) -> str:
    return f"{session_id}/item/{item_id}"


def _owner_name(session_id: str) -> str:
    return f"{session_id}/owner"
