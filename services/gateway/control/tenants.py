"""Tenants of the control plane: a stream of changes, kept in memory and in a file while the control plane is away."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping

import grpc
import grpc.aio

from antiphon.v1 import control_pb2, control_pb2_grpc
from services.common.channels import open_channel
from services.common.key_scopes import Scope
from services.common.queues.tickets import Group
from services.gateway.auth import ApiKey
from services.gateway.control.cache_file import TenantCacheFile
from services.gateway.control.terms import group_of, prices_of, queue_terms_of, subject_terms_of
from services.gateway.tenants import TenantTermsSettings, TenantUpdate, UseTenants

SILENCE_S = 15.0
"""A stream without a message for so long is dead: the control plane sends one every few seconds."""
FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 5.0
KEEP_EVERY_S = 60.0
"""How often the file is written though no key changed: it says when the control plane was last heard of."""

logger = logging.getLogger(__name__)


class ControlTenants:
    """Follows the control plane at `address`. `max_age_s` after it was last heard of, its keys are not used any more.

    `terms` are those of the settings, for tenants whose project has none of its own.
    """

    def __init__(
        self,
        address: str,
        token: str,
        cache: TenantCacheFile | None,
        *,
        max_age_s: float,
        terms: Mapping[str, TenantTermsSettings],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._cache = cache
        self._max_age_s = max_age_s
        self._terms = terms
        self._clock = clock
        self.epoch = ""
        self.version = 0
        self._keys: dict[str, control_pb2.TenantKey] = {}
        self._subjects: dict[str, control_pb2.SubjectTerms] = {}
        self._prices: list[control_pb2.Price] = []
        self._heard_s = -math.inf
        self._kept_s = -math.inf
        self._to_keep = asyncio.Event()
        self._is_away = False

    def start(self) -> TenantUpdate:
        """Return the tenants of the file; none where there is no file."""
        cached = self._cache.read() if self._cache else None
        if cached is not None:
            self.epoch, self.version = cached.epoch, cached.version
            self._keys = {key.key_id: key for key in cached.keys}
            self._subjects = {terms.subject: terms for terms in cached.terms}
            self._prices = list(cached.prices)
            # A clock that was wrong must not make them last longer.
            self._heard_s = min(cached.heard_unix_ms / 1000, self._clock())
            logger.info("%d keys as of %.0f s ago", len(self._keys), self._clock() - self._heard_s)
        return TenantUpdate(
            [api_key_of(key) for key in self._keys.values()],
            whole=True,
            terms=self._queue_terms(),
            groups=self._queue_groups(),
            good_until_unix_s=self._until_s,
            put_subjects={name: subject_terms_of(terms) for name, terms in self._subjects.items()},
            prices=prices_of(self._prices),
        )

    async def follow(self, use: UseTenants) -> None:
        """`use` what the control plane tells, until cancelled. Connect again whenever the stream ends."""
        async with open_channel(self._address) as channel, asyncio.TaskGroup() as tasks:
            if self._cache is not None:
                tasks.create_task(self._keep(self._cache), name="tenants-cache")
            stub = control_pb2_grpc.ControlStub(channel)
            backoff_s = FIRST_BACKOFF_S
            while True:
                before_s = self._heard_s
                reason = await self._listen(stub, use)
                if self._heard_s > before_s:
                    backoff_s = FIRST_BACKOFF_S
                self._is_gone(reason)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1))
                backoff_s = min(LAST_BACKOFF_S, 2 * backoff_s)

    @property
    def _until_s(self) -> float:
        return self._heard_s + self._max_age_s

    async def _listen(self, stub: control_pb2_grpc.ControlAsyncStub, use: UseTenants) -> str:
        """Follow one stream to its end. Return why it ended."""
        request = control_pb2.WatchTenantsRequest(epoch=self.epoch, version=self.version)
        call = stub.WatchTenants(request, metadata=self._metadata)
        parts: list[control_pb2.WatchTenantsResponse] = []
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    message = await call.read()
                if not isinstance(message, control_pb2.WatchTenantsResponse):  # gRPC's mark of the end
                    return "the stream ended"
                parts.append(message)
                if message.complete:
                    self._apply(parts, use)
                    parts = []
        except TimeoutError:
            return f"it was silent for {SILENCE_S:g} s"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        finally:
            call.cancel()

    def _apply(self, parts: list[control_pb2.WatchTenantsResponse], use: UseTenants) -> None:
        self._heard_s = self._clock()
        self._is_here()
        whole = parts[0].snapshot
        changed = whole or parts[-1].version != self.version
        if whole:
            self._keys, self._subjects = {}, {}
        put = {key.key_id: key for part in parts for key in part.put}
        removed = [self._keys.pop(id) for part in parts for id in part.removed_key_ids if id in self._keys]
        self._keys |= put
        put_subjects = {terms.subject: terms for part in parts for terms in part.put_terms}
        gone_subjects = [subject for part in parts for subject in part.removed_term_subjects]
        for subject in gone_subjects:
            self._subjects.pop(subject, None)
        self._subjects |= put_subjects
        priced = [part for part in parts if part.has_prices]
        if priced:
            self._prices = [price for part in priced for price in part.prices]
        self.epoch, self.version = parts[-1].epoch, parts[-1].version
        use(
            TenantUpdate(
                [api_key_of(key) for key in put.values()],
                [key.sha256 for key in removed],
                whole=whole,
                terms=self._queue_terms() if changed else None,
                groups=self._queue_groups() if changed else {},
                good_until_unix_s=self._until_s,
                put_subjects={name: subject_terms_of(terms) for name, terms in put_subjects.items()},
                gone_subjects=gone_subjects,
                prices=prices_of(self._prices) if priced else None,
            )
        )
        if changed or self._heard_s - self._kept_s >= KEEP_EVERY_S:
            self._to_keep.set()

    async def _keep(self, cache: TenantCacheFile) -> None:
        """Write the file after each change. Changes during a write go together into the next one."""
        while True:
            await self._to_keep.wait()
            self._to_keep.clear()
            self._kept_s = self._heard_s
            kept = control_pb2.TenantCache(
                epoch=self.epoch,
                version=self.version,
                keys=self._keys.values(),
                heard_unix_ms=round(self._heard_s * 1000),
                terms=self._subjects.values(),
                prices=self._prices,
            )
            await asyncio.to_thread(cache.write, kept)

    def _queue_terms(self) -> dict[str, TenantTermsSettings]:
        """Return the terms in the queues: by tenant, its project's in place of the settings'."""
        found = dict(self._terms)
        own = {name: terms for name, terms in self._subjects.items() if queue_terms_of(terms) is not None}
        if own:
            for key in self._keys.values():
                if key.project_id in own and (terms := queue_terms_of(own[key.project_id])) is not None:
                    found[key.tenant] = terms
        return found

    def _queue_groups(self) -> dict[str, Group]:
        """Return the organisations that have a limit in the queues, by tenant."""
        known = {subject: group_of(terms) for subject, terms in self._subjects.items()}
        groups = {key.tenant: known.get(key.organisation_id) for key in self._keys.values()}
        return {tenant: group for tenant, group in groups.items() if group is not None}

    def _is_here(self) -> None:
        if self._is_away:
            logger.info("the control plane is back")
        self._is_away = False

    def _is_gone(self, reason: str) -> None:
        if not self._is_away:
            held = f"{len(self._keys)} keys stay for {self._max_age_s:g} s" if self._keys else "no key is known yet"
            logger.warning("the control plane at %s is away (%s): %s", self._address, reason, held)
        self._is_away = True


def api_key_of(key: control_pb2.TenantKey) -> ApiKey:
    return ApiKey(
        key.sha256,
        key.tenant,
        key.key_id,
        frozenset(_scopes(key.scopes)),
        key.expires_unix_ms / 1000 if key.expires_unix_ms else math.inf,
        key.project_id,
        key.organisation_id,
    )


def _scopes(scopes: Iterable[control_pb2.KeyScope.ValueType]) -> Iterable[Scope]:
    """Yield the scopes that this version knows: a newer control plane may send others."""
    for scope in scopes:
        try:
            yield Scope(control_pb2.KeyScope.Name(scope).removeprefix("KEY_SCOPE_").lower())
        except ValueError:
            continue
