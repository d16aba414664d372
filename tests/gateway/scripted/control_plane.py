"""A control plane that tells gateways what a test says, over real gRPC: keys, terms, prices and what was used."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from pydantic import SecretStr

from antiphon.v1 import control_pb2, control_pb2_grpc

TOKEN = "the-token-of-the-gateways-0123456789"
KEY, OTHER_KEY = "key-of-one", "key-of-another"
HEARTBEAT_S = 1.0
ALL_SCOPES = [scope for scope in control_pb2.KeyScope.values() if scope]


def limit(kind: str, amount: int, *, passes: bool = False) -> control_pb2.Limit:
    return control_pb2.Limit(
        kind=control_pb2.LimitKind.Value(f"LIMIT_KIND_{kind.upper()}"), amount=amount, passes_without_redis=passes
    )


def price(kind: str, micros_per_million: int, model: str = "") -> control_pb2.Price:
    return control_pb2.Price(model=model, kind=kind, micros_per_million=micros_per_million, id=f"price_{kind}")


def tenant_key(
    number: int, secret: str, *, scopes: Sequence[control_pb2.KeyScope.ValueType] = ALL_SCOPES
) -> control_pb2.TenantKey:
    return control_pb2.TenantKey(
        key_id=f"key_{number}",
        sha256=hashlib.sha256(secret.encode()).digest(),
        tenant="acme.prod",
        scopes=scopes,
        project_id="proj_1",
        organisation_id="org_1",
    )


def two_keys() -> list[control_pb2.TenantKey]:
    return [tenant_key(1, KEY), tenant_key(2, OTHER_KEY)]


@dataclass
class ScriptedControl(control_pb2_grpc.ControlServicer):
    """Keys of one project. `terms` by subject. Call `tell` after a change."""

    keys: list[control_pb2.TenantKey] = field(default_factory=two_keys)
    terms: dict[str, control_pb2.SubjectTerms] = field(default_factory=dict[str, control_pb2.SubjectTerms])
    prices: list[control_pb2.Price] = field(default_factory=list[control_pb2.Price])
    used: dict[str, control_pb2.SubjectUsed] = field(default_factory=dict[str, control_pb2.SubjectUsed])
    asked: list[str] = field(default_factory=list[str])
    sums: list[control_pb2.UsageSum] = field(default_factory=list[control_pb2.UsageSum])
    refused: list[control_pb2.RefusedKey] = field(default_factory=list[control_pb2.RefusedKey])
    refusals_lost: int = 0
    is_away: bool = False
    address: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def limit(self, subject: str, *limits: control_pb2.Limit, **terms: Any) -> None:
        self.terms[subject] = control_pb2.SubjectTerms(subject=subject, limits=limits, **terms)

    def tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()  # of the next change, for each gateway that watches

    async def WatchTenants(
        self, request: control_pb2.WatchTenantsRequest, context: Any
    ) -> AsyncIterator[control_pb2.WatchTenantsResponse]:
        version = 0
        while True:
            version += 1
            changed = self._changed
            yield control_pb2.WatchTenantsResponse(
                epoch="scripted",
                version=version,
                snapshot=True,
                put=self.keys,
                put_terms=self.terms.values(),
                prices=self.prices,
                has_prices=True,
                complete=True,
            )
            while not changed.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await changed.wait()
                if not changed.is_set():
                    yield control_pb2.WatchTenantsResponse(epoch="scripted", version=version, complete=True)

    async def GetUsed(self, request: control_pb2.GetUsedRequest, context: Any) -> control_pb2.GetUsedResponse:
        if self.is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.asked += request.subjects
        empty = control_pb2.SubjectUsed
        return control_pb2.GetUsedResponse(
            used=[self.used.get(subject, empty(subject=subject)) for subject in request.subjects]
        )

    async def SumUsage(self, request: control_pb2.SumUsageRequest, context: Any) -> control_pb2.SumUsageResponse:
        if self.is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return control_pb2.SumUsageResponse(sums=self.sums)

    async def ReportRefusedKeys(
        self, request: control_pb2.ReportRefusedKeysRequest, context: Any
    ) -> control_pb2.ReportRefusedKeysResponse:
        if self.is_away:
            self.refusals_lost += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.refused += request.refused
        return control_pb2.ReportRefusedKeysResponse()

    @property
    def settings(self) -> dict[str, Any]:
        """What a gateway needs to follow it."""
        return {"api_key": "", "control_address": self.address, "control_token": SecretStr(TOKEN)}


@asynccontextmanager
async def scripted_control() -> AsyncGenerator[ScriptedControl]:
    control = ScriptedControl()
    server = grpc.aio.server()
    control_pb2_grpc.add_ControlServicer_to_server(control, server)
    control.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield control
    finally:
        await server.stop(0)
