"""Terms and prices as the control plane sends them, in the gateway's own types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from antiphon.v1 import control_pb2
from services.common.limit_kinds import LimitKind
from services.common.queues.tickets import Group, PriorityClass
from services.gateway.tenants import TenantTermsSettings
from services.gateway.usage.limits import Limit, SubjectTerms
from services.gateway.usage.prices import Price


def subject_terms_of(terms: control_pb2.SubjectTerms) -> SubjectTerms:
    return SubjectTerms(
        limits=tuple(_limits(terms)),
        models=frozenset(terms.models),
        voices=frozenset(voice.lower() for voice in terms.voices),
    )


def queue_terms_of(terms: control_pb2.SubjectTerms) -> TenantTermsSettings | None:
    """Return a project's place in the queues; None = the default. What is out of bounds is brought within them."""
    if not (terms.weight or terms.priority or terms.max_slots or terms.max_share):
        return None
    return TenantTermsSettings(
        weight=min(terms.weight, 1e6) if terms.weight > 0 else 1.0,
        priority=min(max(terms.priority, PriorityClass.LOWEST), PriorityClass.HIGHEST),
        max_slots=terms.max_slots,
        max_share=min(terms.max_share, 1.0) if terms.max_share > 0 else 1.0,
    )


def group_of(terms: control_pb2.SubjectTerms) -> Group | None:
    """Return an organisation as its projects' group in the queues; None = they hold together what each may."""
    max_share = min(terms.max_share, 1.0) if terms.max_share > 0 else 1.0
    if not terms.max_slots and max_share == 1.0:
        return None
    return Group(terms.subject, terms.max_slots, max_share)


def prices_of(prices: Iterable[control_pb2.Price]) -> list[Price]:
    return [Price(price.id, price.model, price.kind, price.micros_per_million, price.from_unix_ms) for price in prices]


def _limits(terms: control_pb2.SubjectTerms) -> Iterator[Limit]:
    """Yield the limits that this version knows: a newer control plane may send others."""
    for limit in terms.limits:
        try:
            kind = LimitKind(control_pb2.LimitKind.Name(limit.kind).removeprefix("LIMIT_KIND_").lower())
        except ValueError:
            continue
        yield Limit(terms.subject, kind, limit.amount, limit.passes_without_redis)
