"""The part of a gateway that follows the control plane, without its servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from services.common.errors import Unauthenticated, Unavailable
from services.gateway.auth import ApiKeys
from services.gateway.control.cache_file import TenantCacheFile
from services.gateway.control.tenants import ControlTenants
from services.gateway.tenants import TenantUpdate
from tests.control.conftest import TOKEN


class Follower:
    """The keys of a gateway that follows the control plane, without its servers. `now` is its clock."""

    def __init__(
        self, address: str, cache: Path | None = None, *, token: str = TOKEN, max_age_s: float = 86400
    ) -> None:
        self.late_s = 0.0
        self.keys = ApiKeys("", needed=True, clock=self.now)
        file = TenantCacheFile(cache) if cache else None
        self.source = ControlTenants(address, token, file, max_age_s=max_age_s, terms={}, clock=self.now)
        self.updates: list[TenantUpdate] = []

    def now(self) -> float:
        return time.time() + self.late_s

    def use(self, update: TenantUpdate) -> None:
        self.updates.append(update)
        self.keys.good_until_unix_s = update.good_until_unix_s
        if update.whole:
            self.keys.replace(update.put)
        else:
            self.keys.change(update.put, update.gone)

    @asynccontextmanager
    async def following(self) -> AsyncGenerator[None]:
        self.use(self.source.start())
        task = asyncio.create_task(self.source.follow(self.use))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def takes(self, secret: str) -> bool:
        try:
            self.keys.principal_of(f"Bearer {secret}".encode())
        except (Unauthenticated, Unavailable):
            return False
        return True
