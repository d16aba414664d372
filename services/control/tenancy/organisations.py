"""Organisations and their projects. A project is a tenant of the queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import Conflict, NotFound
from services.control.store.database import Database, Write
from services.control.store.models import ApiKey, Organisation, Project
from services.control.tenancy import ids
from services.control.tenancy.audit import Actor, record, utc_now


class Organisations:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def create(self, actor: Actor, name: str) -> tuple[Organisation, bool]:
        """Return the organisation of that name, and whether it is new. Raise Conflict where it is archived."""
        async with self._database.write() as write:
            found = await write.session.scalar(select(Organisation).where(Organisation.name == name))
            if found is not None:
                if found.archived_at is not None:
                    raise Conflict(f"'{name}' is an archived organisation. Choose another name.", param="name")
                return found, False
            made = Organisation(id=ids.new_id(ids.ORGANISATION), name=name, created_at=self._now())
            write.session.add(made)
            record(write.session, actor, "organisation.create", made.id, made.created_at, name=name)
        return made, True

    async def get(self, id: str) -> Organisation:
        async with self._database.read() as session:
            return await organisation_of(session, id)

    async def list(self, after: str | None, limit: int, name: str | None = None) -> tuple[Sequence[Organisation], bool]:
        """Return organisations by age, and whether there are more behind them."""
        query = select(Organisation).order_by(Organisation.id).limit(limit + 1)
        if after is not None:
            query = query.where(Organisation.id > after)
        if name is not None:
            query = query.where(Organisation.name == name)
        async with self._database.read() as session:
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit

    async def archive(self, actor: Actor, id: str) -> Organisation:
        """End the organisation: the keys of its projects stop working, for good."""
        async with self._database.write() as write:
            found = await organisation_of(write.session, id)
            if found.archived_at is None:
                now = found.archived_at = self._now()
                projects = select(Project.id).where(Project.organisation_id == id)
                await _touch_keys(write, ApiKey.project_id.in_(projects))
                record(write.session, actor, "organisation.archive", id, now)
        return found


class Projects:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def create(
        self, actor: Actor, organisation_id: str, name: str, tenant: str | None = None
    ) -> tuple[Project, bool]:
        """Return the organisation's project of that name, and whether it is new.

        `tenant` is its name in the queues; None = made of both names, which no other project has. Raise NotFound or
        Conflict.
        """
        async with self._database.write() as write:
            organisation = await organisation_of(write.session, organisation_id)
            if organisation.archived_at is not None:
                raise Conflict("The organisation is archived.", param="organisation_id")
            wanted = tenant or f"{organisation.name}.{name}"
            same_name = (Project.organisation_id == organisation_id) & (Project.name == name)
            found = await write.session.scalar(select(Project).where(same_name))
            if found is not None:
                if found.archived_at is not None:
                    raise Conflict(f"'{name}' is an archived project. Choose another name.", param="name")
                if tenant is not None and found.tenant != tenant:
                    raise Conflict(f"'{name}' exists already, as the tenant '{found.tenant}'.", param="tenant")
                return found, False
            if await write.session.scalar(select(Project.id).where(Project.tenant == wanted)):
                raise Conflict(f"Another project is the tenant '{wanted}'. Choose another one.", param="tenant")
            made = Project(
                id=ids.new_id(ids.PROJECT),
                organisation_id=organisation_id,
                name=name,
                tenant=wanted,
                created_at=self._now(),
            )
            write.session.add(made)
            record(write.session, actor, "project.create", made.id, made.created_at, name=name, tenant=wanted)
        return made, True

    async def get(self, id: str) -> Project:
        async with self._database.read() as session:
            return await project_of(session, id)

    async def list(
        self, organisation_id: str, after: str | None, limit: int, name: str | None = None
    ) -> tuple[Sequence[Project], bool]:
        """Return an organisation's projects by age, and whether there are more behind them."""
        query = select(Project).where(Project.organisation_id == organisation_id).order_by(Project.id).limit(limit + 1)
        if after is not None:
            query = query.where(Project.id > after)
        if name is not None:
            query = query.where(Project.name == name)
        async with self._database.read() as session:
            await organisation_of(session, organisation_id)
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit

    async def archive(self, actor: Actor, id: str) -> Project:
        """End the project: its keys stop working, for good."""
        async with self._database.write() as write:
            found = await project_of(write.session, id)
            if found.archived_at is None:
                now = found.archived_at = self._now()
                await _touch_keys(write, ApiKey.project_id == id)
                record(write.session, actor, "project.archive", id, now)
        return found


async def organisation_of(session: AsyncSession, id: str) -> Organisation:
    found = await session.get(Organisation, id)
    if found is None:
        raise NotFound(f"There is no organisation '{id}'.")
    return found


async def project_of(session: AsyncSession, id: str) -> Project:
    found = await session.get(Project, id)
    if found is None:
        raise NotFound(f"There is no project '{id}'.")
    return found


async def _touch_keys(write: Write, which: ColumnElement[bool]) -> None:
    """Give keys a new version, so that gateways hear of them."""
    await write.session.execute(update(ApiKey).where(which).values(version=write.next_version()))
