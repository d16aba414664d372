"""The HTTP application: its routes and middleware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.http.routes import Routes
from services.gateway.audio.encoding import Encoding
from services.gateway.auth import ApiKeys
from services.gateway.control.refused_keys import RefusedKeys
from services.gateway.http.batch_operations import BatchEndpoints
from services.gateway.http.chat.endpoint import ChatCompletions
from services.gateway.http.chat.wire import OpenAiWire
from services.gateway.http.dashscope.wire import NativeWire, TextWire
from services.gateway.http.health import Live, Readiness, Ready
from services.gateway.http.idempotency import Idempotent
from services.gateway.http.keyed_requests import EndsWithKey, KeyedRequests
from services.gateway.http.middleware import (
    Authentication,
    RequestIds,
    Scoped,
    TrailingSlashes,
    WebSocketOrigins,
    open_to_origins,
)
from services.gateway.http.models import ListModels, OneModel
from services.gateway.http.open_paths import OpenPaths
from services.gateway.http.operation import Operation
from services.gateway.http.operations import Endpoints, api_docs_operations, operations, page_operations
from services.gateway.http.presets.endpoint import ListPresets
from services.gateway.http.presets.routes import RoutePreset, RoutePresets
from services.gateway.http.responses.endpoint import Responses
from services.gateway.http.responses.kept import KeptResponses
from services.gateway.http.responses.stored import CancelResponse, DeleteResponse, InputItems, OneResponse
from services.gateway.http.speech.endpoint import AudioSpeech
from services.gateway.http.transcription.endpoint import Transcriptions
from services.gateway.http.transcription.fields import CaptionFields, TranscriptionFields, TranslationFields
from services.gateway.http.unserved import BESIDE_IDS, Unserved
from services.gateway.http.upload_operations import UploadEndpoints
from services.gateway.http.usage import OwnUsage, UsageSource
from services.gateway.idempotency.keys import IdempotencyKeys
from services.gateway.inline_media import RequestFiles
from services.gateway.kept.answers import KeptAnswers
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory
from services.gateway.realtime.dashscope.endpoint import DashScopeRealtime
from services.gateway.realtime.live.endpoint import LiveSessions
from services.gateway.realtime.openai.client_secrets import ClientSecrets
from services.gateway.realtime.openai.endpoint import NoUpgrade, Realtime
from services.gateway.realtime.sessions import Sessions
from services.gateway.realtime.webrtc.endpoint import CreateCall, HangUpCall, RealtimeCalls
from services.gateway.recordings.cutting import Recordings
from services.gateway.turn.admission import Admission


def build_operations(
    admission: Admission,
    readiness: Readiness,
    keys: ApiKeys,
    limits: RequestLimits,
    memory: GatewayMemory,
    encoding: Encoding,
    sessions: Sessions,
    recordings: Recordings,
    kept_responses: KeptResponses,
    answers: KeptAnswers,
    files: RequestFiles,
    uploads: UploadEndpoints,
    *,
    api_docs: bool = True,
    page: bool = False,
    batches: BatchEndpoints | None = None,
    calls: RealtimeCalls | None = None,
    usage: UsageSource | None = None,
    presets: RoutePresets | None = None,
) -> list[Operation]:
    of_routes = presets or {}
    of_chat, of_responses, of_native = (
        RoutePreset(admission, of_routes.get(route)) for route in ("chat", "responses", "dashscope")
    )
    served = operations(
        Endpoints(
            chat=ChatCompletions(admission, limits, memory, encoding, answers, files, OpenAiWire(), of_chat),
            native_chat=ChatCompletions(admission, limits, memory, encoding, answers, files, NativeWire(), of_native),
            native_text=ChatCompletions(admission, limits, memory, encoding, answers, files, TextWire(), of_native),
            speech=AudioSpeech(admission, limits, memory, encoding),
            transcriptions=Transcriptions(TranscriptionFields, admission, limits, memory, recordings),
            translations=Transcriptions(TranslationFields, admission, limits, memory, recordings),
            captions=Transcriptions(CaptionFields, admission, limits, memory, recordings),
            responses=Responses(admission, limits, memory, kept_responses, files, of_responses),
            response=OneResponse(kept_responses),
            delete_response=DeleteResponse(kept_responses),
            input_items=InputItems(kept_responses),
            cancel_response=CancelResponse(kept_responses),
            models=ListModels(admission, limits),
            model=OneModel(admission, limits),
            presets=ListPresets(of_routes),
            realtime=Realtime(sessions),
            live_sessions=LiveSessions(sessions),
            dashscope_realtime=DashScopeRealtime(sessions),
            client_secrets=ClientSecrets(keys, admission, limits, memory),
            no_upgrade=NoUpgrade(),
            live=Live(),
            ready=Ready(readiness),
            uploads=uploads,
            usage=OwnUsage(usage) if usage is not None else None,
            batches=batches,
            create_call=CreateCall(calls, limits, memory) if calls is not None else None,
            hang_up_call=HangUpCall(calls) if calls is not None else None,
        )
    )
    if page:
        served += page_operations()
    return served + (api_docs_operations(served) if api_docs else [])


def build_app(
    served: Sequence[Operation],
    keys: ApiKeys,
    idempotency: IdempotencyKeys | None,
    requests: KeyedRequests,
    refused: RefusedKeys | None = None,
    *,
    cors_origins: Sequence[str] = (),
    has_page: bool = False,
) -> ASGIApp:
    routes = Routes(list(_routes(served, idempotency, requests)), Unserved(served), beside_ids=BESIDE_IDS)
    routed = Authentication(routes, keys, OpenPaths(served), refused)
    app = RequestIds(TrailingSlashes(WebSocketOrigins(routed, cors_origins, has_page=has_page)))
    return open_to_origins(app, cors_origins)


def _routes(
    served: Iterable[Operation], idempotency: IdempotencyKeys | None, requests: KeyedRequests
) -> Iterator[BaseRoute]:
    for each in served:
        app = each.app
        if each.takes_idempotency_key:
            app = Idempotent(app, idempotency, has_body=each.body is not None)
        if not each.has_turn:  # turns and sessions tell their clients themselves that the key was revoked
            app = EndsWithKey(requests, app)
        for prefix in each.prefixes:
            if each.web_socket is not None:
                yield WebSocketRoute(prefix + each.path, _scoped(each, each.web_socket))
                yield Route(prefix + each.path, _Plain(each.app), methods=[each.method])
            else:
                yield Route(prefix + each.path, _scoped(each, app), methods=[each.method])


def _scoped(operation: Operation, app: ASGIApp) -> ASGIApp:
    return Scoped(operation.scope, app) if operation.scope is not None else _Plain(app)


class _Plain:
    """An ASGI function as an object: Starlette takes a bare one for a function of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
