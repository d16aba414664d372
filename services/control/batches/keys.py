"""Under which key the lines of a batch run."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.control.store.models import ApiKey, Organisation, Project
from services.control.tenancy.api_keys import is_live

_MOST_SUCCESSORS = 100


async def key_in_force(session: AsyncSession, key_id: str, now: datetime) -> tuple[str, bool]:
    """Return the key, or the one that it was rotated to where it is over, and whether that is revoked.

    "" and a key that this database does not have are as they are: gateways check them.
    """
    for _ in range(_MOST_SUCCESSORS):
        key = await session.get(ApiKey, key_id) if key_id else None
        if key is None:
            return key_id, False
        live = select(ApiKey.id).join(Project, ApiKey.project_id == Project.id)
        live = live.join(Organisation, Project.organisation_id == Organisation.id).where(ApiKey.id == key_id, is_live())
        is_over = key.expires_at is not None and key.expires_at <= now
        if not is_over and await session.scalar(live) is not None:
            return key_id, False
        if key.rotated_to is None:
            return key_id, True
        key_id = key.rotated_to
    return key_id, True
