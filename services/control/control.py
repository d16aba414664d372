"""Builds the control plane of a process: database, tenancy, usage, the Admin API's server and the gateways' feed."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from sqlalchemy import select
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from antiphon.v1 import batches_pb2_grpc, control_pb2_grpc
from services.common.errors import Unavailable
from services.common.http.server import HttpServer
from services.common.redis_client import connect
from services.control.api.app import build_app
from services.control.api.auth import Callers
from services.control.api.operations import Tenancy, operations
from services.control.batches.servicer import BatchesServicer
from services.control.servicer import ControlServicer
from services.control.settings import ControlSettings
from services.control.store.database import Database
from services.control.store.migrate import check_schema, migrate
from services.control.store.models import TenantVersion
from services.control.tenancy.admin_keys import AdminKeys
from services.control.tenancy.api_keys import ApiKeys
from services.control.tenancy.audit import AuditLog
from services.control.tenancy.feed import TenantFeed
from services.control.tenancy.organisations import Organisations, Projects
from services.control.tenancy.prices import Prices
from services.control.tenancy.terms import TermsBook
from services.control.usage.cursor import SentCursor
from services.control.usage.events import LEASE_S, EventSender
from services.control.usage.ledger import UsageLedger
from services.control.usage.reader import UsageReader
from services.control.usage.report import UsageReport
from services.control.usage.stream import UsageStream
from services.control.usage.used import UsedSums

logger = logging.getLogger(__name__)

_IDLE_S = 75.0


@dataclass(frozen=True, slots=True)
class Control:
    """A control plane that serves HTTP. `add_to` adds its calls to a gRPC server."""

    servicer: ControlServicer
    batches: BatchesServicer
    http: HttpServer
    feed: TenantFeed

    def add_to(self, server: grpc.aio.Server) -> None:
        control_pb2_grpc.add_ControlServicer_to_server(self.servicer, server)
        batches_pb2_grpc.add_BatchesServicer_to_server(self.batches, server)

    async def drain(self) -> None:
        """End the streams: gateways come again, to another replica where there is one."""
        await self.feed.close()


@asynccontextmanager
async def open_control(settings: ControlSettings) -> AsyncGenerator[Control]:
    """Serve HTTP inside the block. Raise SchemaError, or Unavailable where the database is away."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(settings.database))
        if settings.migrate_on_start:
            await migrate(database)
        await check_schema(database)
        audit, keys, admin_keys = AuditLog(database), ApiKeys(database), AdminKeys(database)
        if secret := settings.bootstrap_admin_key.get_secret_value():
            await admin_keys.bootstrap(secret)
        feed = TenantFeed(database, settings.look_s)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(tasks.create_task(feed.run(), name="feed").cancel)
        await _record_usage(settings, database, stack, tasks)
        report = UsageReport(database)
        tenancy = Tenancy(
            Organisations(database),
            Projects(database),
            keys,
            admin_keys,
            audit,
            TermsBook(database),
            Prices(database),
            report,
        )

        async def reason() -> str:
            try:
                async with database.read() as session:
                    await session.scalars(select(TenantVersion))
            except Unavailable as error:
                return error.message
            return ""

        app = build_app(operations(tenancy), Callers(admin_keys, keys, audit), reason)
        http = HttpServer(
            app, settings.http_host, settings.http_port, idle_timeout_s=_IDLE_S, protocol=HttpToolsProtocol
        )
        serving = tasks.create_task(http.serve_http(), name="http")
        try:
            await http.wait_started()
            token = settings.gateway_token.get_secret_value()
            yield Control(
                ControlServicer(feed, UsedSums(database), report, audit, token, settings.heartbeat_s),
                BatchesServicer(database, settings.batch_limits, token),
                http,
                feed,
            )
        finally:
            http.close()
            await serving


async def _record_usage(
    settings: ControlSettings, database: Database, stack: AsyncExitStack, tasks: asyncio.TaskGroup
) -> None:
    """Start to read usage records, and to send events of them, as the settings say."""
    replica = uuid.uuid4().hex
    if settings.events_url:
        cursor = SentCursor(database, replica, LEASE_S)
        token = settings.events_token.get_secret_value()
        sender = EventSender(cursor, database.records_added, settings.events_url, token, settings.events_batch)
        await stack.enter_async_context(sender)
        _run_until_closed(stack, tasks.create_task(sender.run(), name="events"))
    if settings.redis is None:
        logger.warning("ANTIPHON_REDIS_URL is empty: usage is not recorded")
        return
    redis = connect(settings.redis)
    stack.push_async_callback(redis.aclose)
    reader = UsageReader(UsageStream(redis, replica), UsageLedger(database))
    stack.push_async_callback(reader.close)
    _run_until_closed(stack, tasks.create_task(reader.run(), name="usage-reader"))


def _run_until_closed(stack: AsyncExitStack, task: asyncio.Task[None]) -> None:
    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
