"""What gateways are told: the valid keys, terms and prices, then each change of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import Unavailable
from services.control.metrics import KEYS
from services.control.store.database import Database
from services.control.store.models import ApiKey, Organisation, Price, Project, SubjectTerms, TenantVersion
from services.control.tenancy.api_keys import is_live
from services.control.tenancy.terms import Terms, terms_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FeedKey:
    """A key that is valid, or will be so until it expires."""

    id: str
    sha256: str
    tenant: str
    scopes: Sequence[str]
    expires_at: datetime | None
    project_id: str = ""
    organisation_id: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What leads to `version`. `snapshot`: it stands in the place of all before."""

    epoch: str
    version: int
    snapshot: bool
    put: Sequence[FeedKey] = ()
    removed: Sequence[str] = ()
    put_terms: Sequence[tuple[str, Terms]] = ()
    """Subjects and what they are granted."""
    removed_terms: Sequence[str] = ()
    prices: Sequence[Price] | None = None
    """All of them; None = as before."""


class TenantFeed:
    """Tells of changes. `run` looks for what other replicas wrote; this process's own writes wake it at once."""

    def __init__(self, database: Database, look_s: float) -> None:
        self._database = database
        self._look_s = look_s
        self._epoch = ""
        self._version = 0
        self._counted = 0
        self._looked = asyncio.Condition()
        self._ended = False
        self.is_away = False
        """Whether the last look at the database failed."""

    async def run(self) -> None:
        """Look at the version until cancelled. While the database is away, watchers hear nothing."""
        while True:
            self._database.changed.clear()
            try:
                async with self._database.read() as session:
                    row = (await session.scalars(select(TenantVersion))).one()
                    if row.version != self._counted:
                        KEYS.set(await _live_keys(session))
                        self._counted = row.version
            except Unavailable:
                if not self.is_away:
                    logger.warning("the database is away: gateways keep the tenants that they have")
                self.is_away = True
            else:
                if self.is_away:
                    logger.info("the database is back")
                self.is_away = False
                await self._tell(row.epoch, row.version)
            try:
                async with asyncio.timeout(self._look_s):
                    await self._database.changed.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """End all watches."""
        self._ended = True
        async with self._looked:
            self._looked.notify_all()

    async def watch(self, epoch: str, version: int, heartbeat_s: float) -> AsyncGenerator[Change]:
        """Yield what a watcher with this epoch and version lacks, then each change. An empty one every `heartbeat_s`
        says that the watcher has the latest.

        Raise Unavailable where the database is away as a change is read: the watcher comes again.
        """
        loop = asyncio.get_running_loop()
        while True:
            async with self._looked:  # what was found before the database went away says nothing about now
                await self._looked.wait_for(lambda: self._ended or not self.is_away)
            if self._ended:
                return
            told_s = loop.time()
            if (epoch, version) != (self._epoch, self._version) or not self._epoch:
                change = await self._read(epoch, version)
                epoch, version = change.epoch, change.version
                yield change
            else:
                yield Change(epoch, version, snapshot=False)
            async with self._looked:
                while not self._ended and (epoch, version) == (self._epoch, self._version):
                    # A look must follow: what was found before says nothing about now.
                    await self._looked.wait()
                    if loop.time() - told_s >= heartbeat_s:
                        break

    async def _tell(self, epoch: str, version: int) -> None:
        async with self._looked:
            self._epoch, self._version = epoch, version
            self._looked.notify_all()

    async def _read(self, epoch: str, version: int) -> Change:
        """Read what leads from a watcher's version to the latest, in one transaction."""
        async with self._database.read() as session:
            row = (await session.scalars(select(TenantVersion))).one()
            snapshot = epoch != row.epoch or version > row.version or version == 0
            columns = (
                ApiKey.id, ApiKey.sha256, Project.tenant, ApiKey.scopes, ApiKey.expires_at,
                Project.id, Project.organisation_id,
            )  # fmt: skip
            query = (
                select(*columns, is_live().label("is_live"))
                .join(Project, ApiKey.project_id == Project.id)
                .join(Organisation, Project.organisation_id == Organisation.id)
                .order_by(ApiKey.id)
            )
            query = query.where(is_live()) if snapshot else query.where(ApiKey.version > version)
            rows = (await session.execute(query)).all()
            changed = SubjectTerms.is_set if snapshot else SubjectTerms.version > version
            terms = (await session.scalars(select(SubjectTerms).where(changed).order_by(SubjectTerms.subject))).all()
            prices = None
            if snapshot or await session.scalar(select(Price.id).where(Price.version > version).limit(1)):
                prices = (await session.scalars(select(Price).order_by(Price.id))).all()
        self._epoch, self._version = row.epoch, row.version
        return Change(
            row.epoch,
            row.version,
            snapshot,
            [FeedKey(*found[:-1]) for found in rows if found.is_live],
            [found[0] for found in rows if not found.is_live],
            [(row.subject, terms_of(row)) for row in terms if row.is_set],
            [row.subject for row in terms if not row.is_set],
            prices,
        )


async def _live_keys(session: AsyncSession) -> int:
    query = (
        select(func.count())
        .select_from(ApiKey)
        .join(Project, ApiKey.project_id == Project.id)
        .join(Organisation, Project.organisation_id == Organisation.id)
        .where(is_live())
    )
    return await session.scalar(query) or 0
