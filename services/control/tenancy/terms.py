"""Terms of keys, projects and organisations: their limits, what they may use, and a project's place in the queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import NotFound
from services.common.limit_kinds import LimitKind
from services.control.store.database import Database, Write
from services.control.store.models import ApiKey, Organisation, Project, SubjectTerms
from services.control.tenancy import ids
from services.control.tenancy.audit import Actor, record, utc_now

_SUBJECTS: Mapping[str, tuple[type[Organisation | Project | ApiKey], str]] = {
    ids.ORGANISATION: (Organisation, "organisation"),
    ids.PROJECT: (Project, "project"),
    ids.API_KEY: (ApiKey, "key"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """`amount`: requests, tokens, milliseconds of audio, bytes, or millionths of the currency."""

    amount: int
    passes_without_redis: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What one subject is granted. The last four count for projects, of organisations the last two; see TenantTerms and
    Group of the queues."""

    limits: Mapping[LimitKind, Limit] = field(default_factory=dict[LimitKind, Limit])
    models: Sequence[str] = ()
    voices: Sequence[str] = ()
    weight: float = 1.0
    priority: int = 0
    max_slots: int = 0
    max_share: float = 1.0


NO_TERMS = Terms()


class TermsBook:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def get(self, subject: str) -> tuple[Terms, datetime | None]:
        """Return the terms of a subject's id, and when they were set; None = never. Raise NotFound."""
        async with self._database.read() as session:
            await _check_exists(session, subject)
            row = await session.get(SubjectTerms, subject)
        return (terms_of(row), row.updated_at) if row is not None else (NO_TERMS, None)

    async def set(self, actor: Actor, subject: str, terms: Terms) -> tuple[Terms, datetime | None]:
        """Put `terms` in the place of the subject's terms. The same terms again change nothing. Raise NotFound."""
        columns = _columns(terms)
        async with self._database.write() as write:
            await _check_exists(write.session, subject)
            row = await write.session.get(SubjectTerms, subject)
            before = _columns(terms_of(row)) if row is not None else _columns(NO_TERMS)
            if columns == before:
                return terms, row.updated_at if row is not None else None
            now = self._now()
            await _put(write, subject, columns, now)
            record(write.session, actor, "terms.set", subject, now, **columns)
        return terms, now


async def copy_terms(write: Write, old: str, new: str, now: datetime) -> None:
    """Give the successor of a key the limits of the old one: rotating must not lift them."""
    row = await write.session.get(SubjectTerms, old)
    if row is not None and row.is_set:
        await _put(write, new, _columns(terms_of(row)), now)


def terms_of(row: SubjectTerms) -> Terms:
    limits = {LimitKind(kind): Limit(**limit) for kind, limit in row.limits.items()}
    return Terms(limits, row.models, row.voices, row.weight, row.priority, row.max_slots, row.max_share)


def _columns(terms: Terms) -> dict[str, Any]:
    return asdict(terms) | {
        "limits": {kind.value: asdict(terms.limits[kind]) for kind in sorted(terms.limits)},
        "models": sorted(set(terms.models)),
        "voices": sorted(set(terms.voices)),
    }


async def _put(write: Write, subject: str, columns: Mapping[str, Any], now: datetime) -> None:
    row = SubjectTerms(
        subject=subject,
        is_set=columns != _columns(NO_TERMS),
        updated_at=now,
        version=write.next_version(),
        **columns,
    )
    await write.session.merge(row)


async def _check_exists(session: AsyncSession, subject: str) -> None:
    model, name = _SUBJECTS[subject.partition("_")[0]]
    if await session.get(model, subject) is None:
        raise NotFound(f"There is no {name} '{subject}'.")
