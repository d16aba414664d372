"""Keys of the Admin API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import select

from services.common.errors import BadInput, Conflict, NotFound
from services.common.key_prefixes import ADMIN_KEY, public_part
from services.control.keys import new_key, sha256_of
from services.control.store.database import Database
from services.control.store.models import AdminKey
from services.control.tenancy import ids
from services.control.tenancy.audit import Actor, record, utc_now

SETTINGS = Actor("settings")
_BOOTSTRAP = "bootstrap"


class AdminKeys:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def bootstrap(self, secret: str) -> None:
        """Make the key of the settings valid, and revoke the one that was there before it. A revoked one stays so."""
        sha256 = sha256_of(secret)
        async with self._database.write() as write:
            known = (await write.session.scalars(select(AdminKey).where(AdminKey.is_bootstrap))).all()
            for key in known:
                if key.sha256 != sha256 and key.revoked_at is None:
                    now = key.revoked_at = self._now()
                    record(write.session, SETTINGS, "admin_key.revoke", key.id, now, name=key.name)
            if any(key.sha256 == sha256 for key in known):
                return
            await write.session.flush()  # the name is free then
            made = AdminKey(
                id=ids.new_id(ids.ADMIN_KEY),
                name=_BOOTSTRAP,
                prefix=public_part(secret),
                sha256=sha256,
                is_bootstrap=True,
                created_at=self._now(),
            )
            write.session.add(made)
            record(write.session, SETTINGS, "admin_key.create", made.id, made.created_at, name=made.name)

    async def create(self, actor: Actor, name: str, expires_at: datetime | None) -> tuple[AdminKey, str]:
        """Make a key. Return it and its secret, which is nowhere else. Raise BadInput, or Conflict for its name."""
        now = self._now()
        if expires_at is not None and expires_at <= now:
            raise BadInput("The key would have expired already. Give a time in the future.", param="expires_at")
        async with self._database.write() as write:
            same_name = (AdminKey.name == name) & AdminKey.revoked_at.is_(None)
            found = await write.session.scalar(select(AdminKey.id).where(same_name))
            if found is not None or name == _BOOTSTRAP:
                raise Conflict(
                    "There is an admin key of this name already. Revoke it, or choose another name.",
                    code="name_taken",
                    param="name",
                )
            key = new_key(ADMIN_KEY)
            made = AdminKey(
                id=ids.new_id(ids.ADMIN_KEY),
                name=name,
                prefix=key.prefix,
                sha256=key.sha256,
                is_bootstrap=False,
                created_at=now,
                expires_at=expires_at,
            )
            write.session.add(made)
            record(write.session, actor, "admin_key.create", made.id, now, name=name, prefix=key.prefix)
        return made, key.secret

    async def revoke(self, actor: Actor, id: str) -> AdminKey:
        """Stop the key, for good. A key that is revoked already stays as it is."""
        async with self._database.write() as write:
            found = await write.session.get(AdminKey, id)
            if found is None:
                raise NotFound(f"There is no admin key '{id}'.")
            if found.revoked_at is None:
                now = found.revoked_at = self._now()
                record(write.session, actor, "admin_key.revoke", id, now, name=found.name)
        return found

    async def list(self, after: str | None, limit: int) -> tuple[Sequence[AdminKey], bool]:
        """Return admin keys by age, and whether there are more behind them."""
        query = select(AdminKey).order_by(AdminKey.id).limit(limit + 1)
        if after is not None:
            query = query.where(AdminKey.id > after)
        async with self._database.read() as session:
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit

    async def valid(self, secret: str) -> AdminKey | None:
        """Return the key, if it is valid at the moment."""
        async with self._database.read() as session:
            found = await session.scalar(select(AdminKey).where(AdminKey.sha256 == sha256_of(secret)))
        if found is None or found.revoked_at is not None:
            return None
        return found if found.expires_at is None or found.expires_at > self._now() else None
