"""Builds what files and batches need: the object store, the control plane's records, and the runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from services.common.channels import ChannelPool
from services.common.key_scopes import Scope
from services.common.queues import QueueClient
from services.gateway.batches.execute import Endpoint, LineExecutor
from services.gateway.batches.line import ENDPOINTS
from services.gateway.batches.lines import Lines
from services.gateway.batches.object_store import ObjectStore, open_object_store
from services.gateway.batches.room import Room
from services.gateway.batches.runner import BatchRunner, RunnerLimits, new_runner_id
from services.gateway.control.batches import ControlBatches
from services.gateway.http.batch_operations import BatchEndpoints
from services.gateway.http.batches.endpoint import CancelBatch, CreateBatch, ListBatches, OneBatch
from services.gateway.http.dashscope.uploads.endpoint import PostObject, UploadPolicies
from services.gateway.http.files.endpoint import CreateFile, DeleteFile, FileContent, ListFiles, OneFile
from services.gateway.http.operation import Operation
from services.gateway.http.upload_operations import UploadEndpoints
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory
from services.gateway.settings import GatewaySettings
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import Principal
from services.gateway.uploads.policy import Policies

_SCOPES = {
    "/v1/chat/completions": Scope.CHAT,
    "/v1/responses": Scope.CHAT,
    "/v1/audio/speech": Scope.SPEECH,
    "/v1/audio/transcriptions": Scope.TRANSCRIPTION,
    "/v1/audio/translations": Scope.TRANSCRIPTION,
}


@dataclass(frozen=True, slots=True)
class BatchParts:
    """What the endpoints and the runner share. `wake` is set where there may be work."""

    store: ObjectStore
    control: ControlBatches
    wake: asyncio.Event

    def endpoints(self, settings: GatewaySettings, limits: RequestLimits, memory: GatewayMemory) -> BatchEndpoints:
        records = self.control
        return BatchEndpoints(
            create_file=CreateFile(records, self.store, limits, memory, settings.max_file_bytes),
            files=ListFiles(records),
            file=OneFile(records),
            file_content=FileContent(records, self.store, memory),
            delete_file=DeleteFile(records, self.wake.set),
            create_batch=CreateBatch(records, limits, memory, _SCOPES, self.wake.set),
            batches=ListBatches(records),
            batch=OneBatch(records),
            cancel_batch=CancelBatch(records),
        )

    def uploads(
        self,
        settings: GatewaySettings,
        limits: RequestLimits,
        memory: GatewayMemory,
        admission: Admission,
        holder_of: Callable[[str, str], Principal | None],
    ) -> UploadEndpoints:
        """Return the endpoints of DashScope's uploads. All gateways sign policies with the control plane's token."""
        policies = Policies(settings.control_token.get_secret_value().encode())
        max_bytes = min(settings.max_file_bytes, limits.max_media_bytes)
        return UploadEndpoints(
            policy=UploadPolicies(admission, policies, settings.uploads_url, max_bytes),
            post=PostObject(
                self.control,
                self.store,
                policies,
                holder_of,
                limits,
                memory,
                max_bytes=max_bytes,
                expiry_s=settings.upload_expiry_s,
            ),
        )

    def runner(
        self,
        settings: GatewaySettings,
        served: Iterable[Operation],
        admission: Admission,
        queues: QueueClient,
        holder_of: Callable[[str, str], Principal | None],
        memory: GatewayMemory,
    ) -> BatchRunner:
        endpoints = {each.path: Endpoint(each.app, _SCOPES[each.path]) for each in served if each.path in ENDPOINTS}

        def holder(key_id: str, tenant: str) -> Principal | None:
            principal = holder_of(key_id, tenant)
            return replace(principal, is_batch=True) if principal is not None else None

        id = new_runner_id()
        room = Room(queues, settings.batch_share, settings.batch_share_beside, settings.batch_quiet_s)
        queues.on_ticket = room.note_ticket
        lines = Lines(
            id,
            self.control,
            self.store,
            LineExecutor(endpoints),
            admission,
            room,
            holder,
            memory,
            kept_response_bytes=settings.kept_response_bytes,
        )
        limits = RunnerLimits(settings.batch_concurrency, settings.batch_line_bytes, settings.kept_response_bytes)
        return BatchRunner(id, self.control, self.store, lines, limits, self.wake, memory)


def open_batches(settings: GatewaySettings, channels: ChannelPool) -> BatchParts | None:
    """Return the parts; None where the settings name no object store. Raise SettingsError."""
    if not settings.object_store_url:
        return None
    store = open_object_store(
        settings.object_store_url,
        endpoint=settings.object_store_endpoint,
        key=settings.object_store_key,
        secret=settings.object_store_secret.get_secret_value(),
    )
    address = settings.batches_address or settings.control_address
    control = ControlBatches(address, settings.control_token.get_secret_value(), channels)
    return BatchParts(store, control, asyncio.Event())
