"""Control: what gateways receive, and the sums of quotas that they ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from pydantic import ValidationError

from antiphon.v1 import control_pb2, control_pb2_grpc, usage_pb2
from services.common.errors import BadInput, Unavailable
from services.common.http.errors import bad_input_from
from services.common.usage_sums import UsageReply, UsageSumsQuery
from services.control.api.usage_schema import usage_page
from services.control.gateway_token import check_gateway_token
from services.control.metrics import WATCHERS
from services.control.store.models import Price
from services.control.tenancy.audit import AuditLog, RefusedKey
from services.control.tenancy.feed import Change, FeedKey, TenantFeed
from services.control.tenancy.terms import Terms
from services.control.usage.records import AMOUNTS
from services.control.usage.report import UsageReport
from services.control.usage.used import Used, UsedSums

KEYS_A_MESSAGE = 1000


class ControlServicer(control_pb2_grpc.ControlServicer):
    """`token` is what gateways must show."""

    def __init__(
        self, feed: TenantFeed, used: UsedSums, report: UsageReport, audit: AuditLog, token: str, heartbeat_s: float
    ) -> None:
        self._feed = feed
        self._used = used
        self._report = report
        self._audit = audit
        self._token = token
        self._heartbeat_s = heartbeat_s

    async def WatchTenants(
        self, request: control_pb2.WatchTenantsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[control_pb2.WatchTenantsResponse]:
        check_gateway_token(context, self._token)
        with WATCHERS.track_inprogress():
            async with aclosing(self._feed.watch(request.epoch, request.version, self._heartbeat_s)) as changes:
                async for change in changes:
                    for message in messages_of(change):
                        yield message
        raise Unavailable("The control plane shuts down.", retry_after_s=1)

    async def GetUsed(
        self, request: control_pb2.GetUsedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> control_pb2.GetUsedResponse:
        check_gateway_token(context, self._token)
        return control_pb2.GetUsedResponse(
            used=[
                control_pb2.SubjectUsed(
                    subject=each.subject,
                    day=_used(each.day),
                    month=_used(each.month),
                    as_of_unix_ms=_unix_ms(each.as_of),
                )
                for each in await self._used.of(request.subjects)
            ]
        )

    async def SumUsage(
        self, request: control_pb2.SumUsageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> control_pb2.SumUsageResponse:
        check_gateway_token(context, self._token)
        if not request.project_id:
            raise BadInput("Missing required parameter: 'project_id'.", param="project_id")
        try:
            query = UsageSumsQuery.model_validate(dict(request.query))
        except ValidationError as error:
            raise bad_input_from(error, dict(request.query)) from None
        page = await usage_page(self._report, query, request.project_id)
        return control_pb2.SumUsageResponse(sums=map(_sum, page.data), next_after=page.next_after or "")

    async def ReportRefusedKeys(
        self, request: control_pb2.ReportRefusedKeysRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> control_pb2.ReportRefusedKeysResponse:
        check_gateway_token(context, self._token)
        await self._audit.refused_by_gateway(request.gateway, [_refused(one) for one in request.refused])
        return control_pb2.ReportRefusedKeysResponse()


def _sum(row: UsageReply) -> control_pb2.UsageSum:
    told = row.model_dump(mode="json", exclude_none=True, exclude={"object", "tokens", "cost"})
    amounts = {name: told.pop(name) for name in AMOUNTS}
    return control_pb2.UsageSum(**told, amounts=usage_pb2.Amounts(**amounts))


def _refused(one: control_pb2.RefusedKey) -> RefusedKey:
    at = datetime.fromtimestamp(one.last_unix_ms / 1000, UTC)
    return RefusedKey(one.prefix, one.code, one.count, at, one.request_id, one.path, one.remote)


def messages_of(change: Change) -> Iterator[control_pb2.WatchTenantsResponse]:
    """Yield the messages of one change, none of them large. The first has the prices; the last is `complete`."""
    lists = (change.put, change.removed, change.put_terms, change.removed_terms)
    starts = range(0, max(*map(len, lists), 1), KEYS_A_MESSAGE)
    for start in starts:
        part = slice(start, start + KEYS_A_MESSAGE)
        prices = change.prices if start == 0 else None
        yield control_pb2.WatchTenantsResponse(
            epoch=change.epoch,
            version=change.version,
            snapshot=change.snapshot and start == 0,
            put=map(_key, change.put[part]),
            removed_key_ids=change.removed[part],
            put_terms=[_terms(subject, terms) for subject, terms in change.put_terms[part]],
            removed_term_subjects=change.removed_terms[part],
            prices=map(_price, prices or ()),
            has_prices=prices is not None,
            complete=start == starts[-1],
        )


def _key(key: FeedKey) -> control_pb2.TenantKey:
    return control_pb2.TenantKey(
        key_id=key.id,
        sha256=bytes.fromhex(key.sha256),
        tenant=key.tenant,
        scopes=[control_pb2.KeyScope.Value(f"KEY_SCOPE_{scope.upper()}") for scope in key.scopes],
        expires_unix_ms=_unix_ms(key.expires_at),
        project_id=key.project_id,
        organisation_id=key.organisation_id,
    )


def _terms(subject: str, terms: Terms) -> control_pb2.SubjectTerms:
    return control_pb2.SubjectTerms(
        subject=subject,
        limits=[
            control_pb2.Limit(
                kind=control_pb2.LimitKind.Value(f"LIMIT_KIND_{kind.upper()}"),
                amount=limit.amount,
                passes_without_redis=limit.passes_without_redis,
            )
            for kind, limit in terms.limits.items()
        ],
        models=terms.models,
        voices=terms.voices,
        weight=terms.weight,
        priority=terms.priority,
        max_slots=terms.max_slots,
        max_share=terms.max_share,
    )


def _price(price: Price) -> control_pb2.Price:
    return control_pb2.Price(
        model=price.model,
        kind=price.kind,
        micros_per_million=price.micros_per_million,
        from_unix_ms=_unix_ms(price.from_at),
        id=price.id,
    )


def _used(used: Used) -> control_pb2.Used:
    return control_pb2.Used(
        requests=used.requests, tokens=used.tokens, audio_ms=used.audio_ms, money_micros=used.money_micros
    )


def _unix_ms(at: datetime | None) -> int:
    return round(at.timestamp() * 1000) if at else 0
