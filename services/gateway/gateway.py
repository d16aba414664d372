"""Builds the gateway of a process: queues, clients of the stages, turns, and the HTTP and gRPC servers' handlers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.common.channels import ChannelPool
from services.common.memory_budget import MemoryBudget, container_bytes
from services.common.queues import Group, QueueClient, QueueLimits, TenantTerms
from services.common.queues.tickets import EVERY_OTHER
from services.common.redis_client import RedisClient, connect
from services.common.scratch import ScratchDir
from services.common.settings import SettingsError
from services.gateway import metrics
from services.gateway.audio.encoding import Encoding
from services.gateway.auth import ApiKeys
from services.gateway.batches.open import open_batches
from services.gateway.batches.runner import BatchRunner
from services.gateway.control.cache_file import TenantCacheFile
from services.gateway.control.refused_keys import RefusedKeys
from services.gateway.control.tenants import ControlTenants
from services.gateway.control.usage import ControlUsage
from services.gateway.control.used import ControlUsed
from services.gateway.converse.servicer import GatewayServicer
from services.gateway.directory import ModelDirectory
from services.gateway.http.app import build_app, build_operations
from services.gateway.http.dashscope.uploads.endpoint import UploadPolicies
from services.gateway.http.health import Readiness
from services.gateway.http.keyed_requests import KeyedRequests
from services.gateway.http.operation import Operation
from services.gateway.http.presets.routes import RoutePreset
from services.gateway.http.server import HttpServer
from services.gateway.http.upload_operations import UploadEndpoints
from services.gateway.kept.audio import AnswerAudio
from services.gateway.kept.open import open_answers, open_idempotency, open_kept_sessions, open_responses
from services.gateway.lost_stages import LostStages
from services.gateway.memory import GatewayMemory, requests_bytes
from services.gateway.observe import QueueGauges
from services.gateway.realtime.sessions import Sessions
from services.gateway.realtime.turns.speech_pool import SpeechPool
from services.gateway.recordings.cutting import Recordings
from services.gateway.settings import GatewaySettings
from services.gateway.spill import SpillDisk
from services.gateway.stages.clients import StageClients
from services.gateway.tenant_files import TenantFiles
from services.gateway.tenants import TableTenants, TenantSource, TenantTermsSettings, TenantUpdate
from services.gateway.turn.admission import Admission
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.ports import Accounts
from services.gateway.turn.turns import Turns
from services.gateway.turn.unmetered import Unmetered
from services.gateway.uploads.files import NoUploads, Uploads
from services.gateway.usage.accounts import MeteredAccounts
from services.gateway.usage.books import Books, NothingUsed
from services.gateway.usage.limits import Terms
from services.gateway.usage.prices import PriceList
from services.gateway.usage.script import UsageScript
from services.gateway.usage.spool import Spool

if TYPE_CHECKING:
    from services.gateway.realtime.webrtc.calls import Calls
    from services.gateway.realtime.webrtc.udp_port import UdpPort


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that serves HTTP. `servicer` is to be added to a gRPC server."""

    servicer: GatewayServicer
    http: HttpServer
    operations: Sequence[Operation]
    readiness: Readiness
    turns: Turns
    memory: GatewayMemory
    gauges: QueueGauges
    encoding: Encoding
    # None = requests have no accounts.
    books: Books | None
    sessions: Sessions
    # None = there are no batches.
    batches: BatchRunner | None
    # None = the audio of answers is not kept.
    audio: AnswerAudio | None

    @property
    def http_port(self) -> int:
        return self.http.port

    def leave(self) -> None:
        """Be not ready, so that load balancers stop sending connections. New requests are served."""
        self.readiness.leaving = True
        self.http.end_connections_after_response()

    async def drain(self) -> None:
        """Refuse new turns and wait until the running ones have been delivered. The caller bounds the wait."""
        self.http.close_idle_connections()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.sessions.drain(), name="drain sessions")
            if self.batches is not None:
                tasks.create_task(self.batches.drain(), name="drain batches")
            await self.turns.drain()
        if self.audio is not None:  # what the turns said
            await self.audio.drain()


@asynccontextmanager
async def open_gateway(settings: GatewaySettings) -> AsyncGenerator[Gateway]:
    """Serve HTTP inside the block. Leaving it cancels the turns that still run."""
    async with AsyncExitStack() as stack:
        source = tenant_source(settings)
        first = await asyncio.to_thread(source.start)  # it reads files
        terms = queue_terms(first.terms or {}, first.groups)
        spill_folder = await asyncio.to_thread(open_spill_folder, settings)
        if spill_folder is not None:
            stack.callback(spill_folder.close)
        udp_port = await open_udp_port(settings)
        if udp_port is not None:
            stack.callback(udp_port.close)
        redis = connect(settings.redis)
        stack.push_async_callback(redis.aclose)
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        limits = queue_limits(settings, terms)
        gateway_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        queues = QueueClient(redis, gateway_id, limits)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = tasks.create_task(queues.run(), name="queues")
        stack.callback(background.cancel)
        subjects, prices = Terms(), PriceList()
        accounts: Accounts = Unmetered()
        books: Books | None = None
        if settings.meters:
            books = open_books(settings, redis, gateway_id, subjects, prices)
            stack.callback(tasks.create_task(books.run(), name="books").cancel)
            accounts = MeteredAccounts(books)
        stages = StageClients.over(channels)
        turns = await stack.enter_async_context(Turns(queues, stages, accounts))
        directory, catalogue = ModelDirectory(queues, LostStages(limits)), Catalogue()
        keys = ApiKeys(
            settings.api_key.get_secret_value(),
            shown_tenants=settings.metrics_tenants,
            needed=not settings.allow_anonymous,
            secret_root=settings.client_secret_root,
        )
        turns.has_key, turns.check_key = keys.has_key, keys.check_in_force
        readiness = Readiness(directory, turns, keys)
        admission = Admission(directory, catalogue, accounts, turns, settings.limits, settings.aliases)
        memory_bytes = settings.memory_bytes or container_bytes() // 2
        memory = GatewayMemory(
            MemoryBudget(requests_bytes(memory_bytes, settings.limits.max_message_bytes)),
            SpillDisk(spill_folder.path if spill_folder else None, settings.spill_bytes),
            settings.limits,
        )
        encoding = Encoding(memory.budget)
        stack.callback(encoding.close)
        speech_pool = SpeechPool()
        stack.push_async_callback(speech_pool.close)
        kept_sessions, presets = open_kept_sessions(settings, redis), settings.presets_of_routes
        sessions = Sessions(
            admission,
            memory,
            settings.realtime_limits,
            speech_pool,
            keys.has_key,
            kept_sessions,
            presets.get("realtime"),
        )

        requests, refused = KeyedRequests(keys.has_key), refused_keys(settings, gateway_id)
        if refused is not None:
            stack.callback(tasks.create_task(refused.run(), name="refused keys").cancel)

        def use(update: TenantUpdate) -> None:
            keys.good_until_unix_s = update.good_until_unix_s
            if update.whole:
                keys.replace(update.put)
            else:
                keys.change(update.put, update.gone)
            if update.whole or update.gone:
                turns.end_revoked()
                sessions.end_revoked()
                requests.end_revoked()
            if update.terms is not None:
                terms.clear()
                terms.update(queue_terms(update.terms, update.groups))
            if update.whole:
                subjects.by_subject.clear()
            for subject in update.gone_subjects:
                subjects.by_subject.pop(subject, None)
            subjects.by_subject.update(update.put_subjects)
            if update.prices is not None:
                prices.prices = update.prices

        use(first)
        for label in keys.labels:
            metrics.LIVE_TURNS.labels(label)  # shown from the start
        stack.callback(tasks.create_task(source.follow(use), name="tenants").cancel)
        batches = open_batches(settings, channels)
        audio: AnswerAudio | None = None
        if batches is not None and settings.kept_answers_audio:
            audio = AnswerAudio(batches.control, batches.store, memory)
            stack.callback(tasks.create_task(audio.run(), name="answer audio").cancel)
        calls = open_calls(settings, sessions, udp_port) if udp_port is not None else None
        if calls is not None:
            stack.push_async_callback(calls.close)
        served = build_operations(
            admission,
            readiness,
            keys,
            settings.limits,
            memory,
            encoding,
            sessions,
            Recordings(admission, turns, queues, stages, memory.spill, piece_s=settings.transcription_piece_s),
            open_responses(settings, redis),
            open_answers(settings, redis, audio),
            Uploads(batches.control, batches.store) if batches is not None else NoUploads(),
            batches.uploads(settings, settings.limits, memory, admission, keys.holder_of)
            if batches is not None
            else UploadEndpoints(UploadPolicies(admission)),
            api_docs=settings.api_docs,
            page=settings.page,
            batches=batches.endpoints(settings, settings.limits, memory) if batches is not None else None,
            calls=calls,
            usage=open_usage(settings, channels),
            presets=presets,
        )
        runner: BatchRunner | None = None
        if batches is not None:
            runner = batches.runner(settings, served, admission, queues, keys.holder_of, memory)
            stack.callback(tasks.create_task(runner.run(), name="batches").cancel)
        idempotency = open_idempotency(settings, redis, memory.budget)
        app = build_app(
            served, keys, idempotency, requests, refused, cors_origins=settings.cors_origins, has_page=settings.page
        )
        http = HttpServer(app, settings.http_host, settings.http_port, settings.connection_limits)
        serving = tasks.create_task(http.serve_http(), name="http")
        try:
            await http.wait_started()
            yield Gateway(
                servicer=GatewayServicer(
                    admission,
                    keys,
                    settings.limits,
                    memory,
                    RoutePreset(admission, presets.get("converse")),
                    refused,
                ),
                http=http,
                operations=served,
                readiness=readiness,
                turns=turns,
                memory=memory,
                gauges=QueueGauges(directory, queues, readiness),
                encoding=encoding,
                books=books,
                sessions=sessions,
                batches=runner,
                audio=audio,
            )
        finally:
            http.close()
            await serving


def open_spill_folder(settings: GatewaySettings) -> ScratchDir | None:
    """Return a folder of this process for inline media; None = none is to be written. Those of killed processes are
    removed. Raise SettingsError where there can be none."""
    if not settings.spill_bytes:
        return None
    try:
        return ScratchDir(settings.spill_dir)
    except OSError as error:
        raise SettingsError(
            f"ANTIPHON_SPILL_DIR: {error.strerror}. Name a folder that can be written, or set ANTIPHON_SPILL_BYTES=0"
        ) from None


async def open_udp_port(settings: GatewaySettings) -> UdpPort | None:
    """Return the port of calls; None = there are none. Raise SettingsError where there can be none."""
    if not settings.webrtc:
        return None
    try:
        from services.gateway.realtime.webrtc.calls import UdpPort
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"ANTIPHON_WEBRTC=true needs the package {error.name}: install antiphon[webrtc], or set it to false"
        ) from None
    try:
        return await UdpPort.open(settings.webrtc_host, settings.webrtc_port)
    except OSError as error:
        raise SettingsError(f"ANTIPHON_WEBRTC_PORT={settings.webrtc_port}: {error.strerror}") from None


def open_calls(settings: GatewaySettings, sessions: Sessions, port: UdpPort) -> Calls:
    from services.gateway.realtime.webrtc.calls import Calls

    return Calls(
        sessions,
        port,
        settings.webrtc_limits,
        settings.webrtc_servers,
        settings.webrtc_reachable_at,
        settings.webrtc_public_port,
    )


def refused_keys(settings: GatewaySettings, gateway_id: str) -> RefusedKeys | None:
    if not settings.control_address:
        return None
    return RefusedKeys(settings.control_address, settings.control_token.get_secret_value(), gateway_id)


def open_usage(settings: GatewaySettings, channels: ChannelPool) -> ControlUsage | None:
    """Return where a project's usage is summed up; None = nowhere."""
    if not settings.control_address:
        return None
    return ControlUsage(settings.control_address, settings.control_token.get_secret_value(), channels)


def open_books(
    settings: GatewaySettings, redis: RedisClient, gateway_id: str, terms: Terms, prices: PriceList
) -> Books:
    """Raise SettingsError where the spool's folder can't be used."""
    spool = Spool(settings.usage_spool_dir, settings.usage_spool_bytes)
    try:
        spool.start()
    except OSError as error:
        raise SettingsError(f"ANTIPHON_USAGE_SPOOL_DIR: {error.strerror}") from None
    address, token = settings.control_address, settings.control_token.get_secret_value()
    return Books(
        UsageScript(redis),
        gateway_id,
        terms,
        prices,
        spool,
        ControlUsed(address, token) if address else NothingUsed(),
        text_grant=settings.limit_text_tokens,
        audio_grant_ms=settings.limit_audio_ms,
    )


def tenant_source(settings: GatewaySettings) -> TenantSource:
    """Return where the settings say that tenants come from."""
    if settings.control_address:
        return ControlTenants(
            settings.control_address,
            settings.control_token.get_secret_value(),
            TenantCacheFile(settings.control_cache_file) if settings.control_cache_file else None,
            max_age_s=settings.control_max_age_s,
            terms=settings.tenant_terms,
        )
    if settings.tenants_file:
        return TenantFiles(settings.tenants_file, settings.api_key.get_secret_value())
    return TableTenants(settings.tenant_keys, settings.tenant_terms)


def queue_terms(terms: Mapping[str, TenantTermsSettings], groups: Mapping[str, Group]) -> dict[str, TenantTerms]:
    found = {name: TenantTerms(**own.model_dump()) for name, own in terms.items()}
    others = found.get(EVERY_OTHER, TenantTerms())
    return found | {tenant: replace(found.get(tenant, others), group=group) for tenant, group in groups.items()}


def queue_limits(settings: GatewaySettings, terms: Mapping[str, TenantTerms]) -> QueueLimits:
    """Return the limits. `terms` may change while they are used."""
    return QueueLimits(
        max_waiting=settings.max_waiting,
        max_waiting_per_tenant=settings.max_waiting_per_tenant or (0 if settings.has_tenants else settings.max_waiting),
        max_wait_s=settings.request_timeout_s,
        worker_wait_s=settings.worker_wait_s,
        cold_start_s=settings.cold_start_s,
        batch_share_beside=settings.batch_share_beside,
        batch_quiet_s=settings.batch_quiet_s,
        batch_every_s=settings.batch_every_s,
        tenants=terms,
    )
