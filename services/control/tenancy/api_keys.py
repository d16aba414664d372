"""API keys of projects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import BadInput, Conflict, NotFound
from services.common.key_prefixes import API_KEY
from services.common.key_scopes import Scope
from services.control.keys import new_key, sha256_of
from services.control.store.database import Database, Write
from services.control.store.models import ApiKey, Organisation, Project
from services.control.tenancy import ids
from services.control.tenancy.audit import Actor, record, utc_now
from services.control.tenancy.organisations import organisation_of, project_of
from services.control.tenancy.terms import copy_terms


class ApiKeys:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def create(
        self, actor: Actor, project_id: str, name: str, scopes: Collection[Scope], expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """Make a key. Return it and its secret, which is nowhere else.

        Raise NotFound; BadInput where it has expired; Conflict where a key of that name is in use: a secret can't be
        shown twice, so that a repeated call must not answer as the first one.
        """
        now = self._now()
        _check_expiry(expires_at, now)
        async with self._database.write() as write:
            await _check_is_open(write.session, await project_of(write.session, project_id))
            in_use = ApiKey.revoked_at.is_(None) & ApiKey.rotated_to.is_(None)
            same_name = (ApiKey.project_id == project_id) & (ApiKey.name == name)
            found = await write.session.scalar(select(ApiKey.id).where(same_name & in_use))
            if found is not None:
                raise Conflict(
                    f"The project has a key of this name already: '{found}'. Rotate or revoke it, or choose another"
                    " name.",
                    code="name_taken",
                    param="name",
                )
            made, secret = _add(write, project_id, name, scopes, now, expires_at)
            record(write.session, actor, "key.create", made.id, now, **_told(made))
        return made, secret

    async def rotate(
        self, actor: Actor, id: str, overlap_s: float, expires_at: datetime | None
    ) -> tuple[ApiKey, str, ApiKey]:
        """Make a key with the same name, scopes and limits. The old one expires after `overlap_s`, or earlier where
        it does so.

        Return the new key, its secret and the old key. Raise NotFound, BadInput or Conflict.
        """
        now = self._now()
        _check_expiry(expires_at, now)
        async with self._database.write() as write:
            old = await key_of(write.session, id)
            if old.revoked_at is not None:
                raise Conflict("The key is revoked. Create another one.", code="key_revoked")
            if old.rotated_to is not None:
                raise Conflict(f"The key was rotated before: '{old.rotated_to}' replaced it.", code="key_rotated")
            await _check_is_open(write.session, await project_of(write.session, old.project_id))
            made, secret = _draft(
                write, old.project_id, old.name, [Scope(scope) for scope in old.scopes], now, expires_at
            )
            ends_at = now + timedelta(seconds=overlap_s)
            if old.expires_at is None or old.expires_at > ends_at:
                old.expires_at = ends_at
            old.version = write.next_version()
            # The unique name is free only once the old key is marked, and its mark needs the new row: two statements.
            await _hand_over(write.session, old, made)
            await copy_terms(write, old.id, made.id, now)
            record(
                write.session, actor, "key.rotate", old.id, now, new_key=made.id, old_expires_at=_iso(old.expires_at)
            )
        return made, secret, old

    async def revoke(self, actor: Actor, id: str) -> ApiKey:
        """Stop the key, for good. A key that is revoked already stays as it is."""
        async with self._database.write() as write:
            found = await key_of(write.session, id)
            if found.revoked_at is None:
                now = found.revoked_at = self._now()
                found.version = write.next_version()
                record(write.session, actor, "key.revoke", id, now)
        return found

    async def get(self, id: str) -> ApiKey:
        async with self._database.read() as session:
            return await key_of(session, id)

    async def list(
        self, project_id: str, after: str | None, limit: int, prefix: str | None = None
    ) -> tuple[Sequence[ApiKey], bool]:
        """Return a project's keys by age, and whether there are more behind them."""
        query = select(ApiKey).where(ApiKey.project_id == project_id).order_by(ApiKey.id).limit(limit + 1)
        if after is not None:
            query = query.where(ApiKey.id > after)
        if prefix is not None:
            query = query.where(ApiKey.prefix == prefix)
        async with self._database.read() as session:
            await project_of(session, project_id)
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit

    async def find(self, prefix: str) -> Sequence[ApiKey]:
        """Return the keys with this public part, whoever's they are. There is one at most, but for a huge chance."""
        async with self._database.read() as session:
            return (await session.scalars(select(ApiKey).where(ApiKey.prefix == prefix).limit(10))).all()

    async def valid(self, secret: str) -> ApiKey | None:
        """Return the key, if it is valid at the moment."""
        query = (
            select(ApiKey)
            .join(Project, ApiKey.project_id == Project.id)
            .join(Organisation, Project.organisation_id == Organisation.id)
            .where(ApiKey.sha256 == sha256_of(secret), is_live())
        )
        async with self._database.read() as session:
            found = await session.scalar(query)
        return found if found is not None and not _is_over(found.expires_at, self._now()) else None


def is_live() -> ColumnElement[bool]:
    """Return the condition on ApiKey, Project and Organisation that nothing but its expiry stops a key."""
    return ApiKey.revoked_at.is_(None) & Project.archived_at.is_(None) & Organisation.archived_at.is_(None)


async def key_of(session: AsyncSession, id: str) -> ApiKey:
    found = await session.get(ApiKey, id)
    if found is None:
        raise NotFound(f"There is no key '{id}'.")
    return found


def _draft(
    write: Write,
    project_id: str,
    name: str,
    scopes: Collection[Scope],
    now: datetime,
    expires_at: datetime | None,
) -> tuple[ApiKey, str]:
    key = new_key(API_KEY)
    made = ApiKey(
        id=ids.new_id(ids.API_KEY),
        project_id=project_id,
        name=name,
        prefix=key.prefix,
        sha256=key.sha256,
        scopes=sorted(scopes),
        created_at=now,
        expires_at=expires_at,
        version=write.next_version(),
    )
    return made, key.secret


def _add(
    write: Write,
    project_id: str,
    name: str,
    scopes: Collection[Scope],
    now: datetime,
    expires_at: datetime | None,
) -> tuple[ApiKey, str]:
    made, secret = _draft(write, project_id, name, scopes, now, expires_at)
    write.session.add(made)
    return made, secret


async def _hand_over(session: AsyncSession, old: ApiKey, made: ApiKey) -> None:
    """Put `made` in the place of `old`."""
    name, made.name = made.name, f"{made.id}"
    session.add(made)
    await session.flush()
    old.rotated_to = made.id
    await session.flush()
    made.name = name


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if _is_over(expires_at, now):
        raise BadInput("The key would have expired already. Give a time in the future.", param="expires_at")


async def _check_is_open(session: AsyncSession, project: Project) -> None:
    if project.archived_at or (await organisation_of(session, project.organisation_id)).archived_at:
        raise Conflict("The project is archived: it gets no keys.", code="project_archived")


def _is_over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def _told(key: ApiKey) -> dict[str, object]:
    return {
        "name": key.name,
        "prefix": key.prefix,
        "project": key.project_id,
        "scopes": key.scopes,
        "expires_at": _iso(key.expires_at),
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
