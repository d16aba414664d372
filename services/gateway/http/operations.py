"""The operations of the HTTP API. app.py makes the routes of this list, openapi.py the document: what is not here is
neither served nor described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from services.common.key_scopes import Scope
from services.gateway.http.api_docs.endpoint import MAX_AGE_S, ApiDocs
from services.gateway.http.batch_operations import BatchEndpoints, batch_operations
from services.gateway.http.chat.reply import ChatCompletion, ChatCompletionChunk
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.dashscope.reply import DashScopeError, NativeReply, TextReply
from services.gateway.http.dashscope.schema import NativeRequest, TextRequest
from services.gateway.http.dashscope.wire import STREAM_HEADER
from services.gateway.http.health import Healthy, NotReady
from services.gateway.http.models import ModelReply, ModelsReply
from services.gateway.http.operation import Events, Form, Operation, ResponseDoc
from services.gateway.http.page.endpoint import Page
from services.gateway.http.page.files import ASSET_TYPES
from services.gateway.http.presets.endpoint import PresetsReply
from services.gateway.http.responses.event_reply import EVENTS
from services.gateway.http.responses.reply import DeletedResponse, InputItemsReply, ResponseObject
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.speech.reply import SpeechAudioDelta, SpeechAudioDone
from services.gateway.http.speech.schema import SpeechRequest
from services.gateway.http.speech.write import MEDIA_TYPES
from services.gateway.http.transcription.endpoint import FILE
from services.gateway.http.transcription.fields import CaptionFields, TranscriptionFields, TranslationFields
from services.gateway.http.transcription.reply import (
    CaptionTextDelta,
    CaptionTextDone,
    TranscriptionProgress,
    TranscriptTextDelta,
    TranscriptTextDone,
    WholeTranscription,
)
from services.gateway.http.upload_operations import UploadEndpoints, upload_operations
from services.gateway.http.usage import PARAMETERS, UsagePage
from services.gateway.realtime.openai.client_secrets import ClientSecretReply, ClientSecretRequest
from services.gateway.realtime.webrtc.endpoint import OFFER_FIELD, SDP, CallFields

_JSON, _EVENTS = "application/json", "text/event-stream"
_TRANSCRIPT_EVENTS = (TranscriptTextDelta, TranscriptionProgress, TranscriptTextDone)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The ASGI applications of the operations. `batches`: None where there is no object store."""

    chat: ASGIApp
    native_chat: ASGIApp
    native_text: ASGIApp
    speech: ASGIApp
    transcriptions: ASGIApp
    translations: ASGIApp
    captions: ASGIApp
    responses: ASGIApp
    response: ASGIApp
    delete_response: ASGIApp
    input_items: ASGIApp
    cancel_response: ASGIApp
    models: ASGIApp
    model: ASGIApp
    presets: ASGIApp
    realtime: ASGIApp
    live_sessions: ASGIApp
    dashscope_realtime: ASGIApp
    client_secrets: ASGIApp
    no_upgrade: ASGIApp
    live: ASGIApp
    ready: ASGIApp
    uploads: UploadEndpoints
    # None = no control plane sums it up.
    usage: ASGIApp | None = None
    batches: BatchEndpoints | None = None
    # None = there are no calls.
    create_call: ASGIApp | None = None
    hang_up_call: ASGIApp | None = None


def operations(endpoints: Endpoints) -> list[Operation]:
    return [
        *_turns(endpoints),
        *_responses(endpoints),
        *_models(endpoints),
        *_presets(endpoints),
        *_usage(endpoints),
        *(batch_operations(endpoints.batches) if endpoints.batches else ()),
        *upload_operations(endpoints.uploads),
        *_realtime(endpoints),
        *_calls(endpoints),
        *_health(endpoints),
    ]


def api_docs_operations(described: Sequence[Operation]) -> list[Operation]:
    """Return the operations that show the document of these, and of themselves."""
    docs = ApiDocs()
    own = [
        Operation(
            "getOpenapi", "GET", "/openapi.json", "This document", docs.send_document,
            {200: ResponseDoc(f"OpenAPI 3.1; it may be kept for {MAX_AGE_S} s.", {_JSON: None})}, needs_key=False,
        ),
        Operation(
            "getDocs", "GET", "/docs", "This document as a page", docs.send_page,
            {200: ResponseDoc("A page that loads nothing else.", {"text/html": None})}, needs_key=False,
        ),
    ]  # fmt: skip
    docs.describe([*described, *own])
    return own


def page_operations() -> list[Operation]:
    """Return the operations that send the page. Raise OSError where its files can't be read."""
    page = Page()
    unchanged = {304: ResponseDoc("The client has it: `if-none-match` names it.")}
    return [
        Operation(
            "getPage", "GET", "/", "A page to talk to the models", page.send_index,
            {200: ResponseDoc("The page. It loads nothing but its files.", {"text/html": None}), **unchanged},
            needs_key=False,
        ),
        Operation(
            "getPageFile", "GET", "/assets/{name}", "A file of the page", page.send_asset,
            {200: ResponseDoc("The file.", dict.fromkeys(ASSET_TYPES)), **unchanged},
            needs_key=False, errors=(404,), path_parameters={"name": "the file's name, which holds a hash of it"},
        ),
    ]  # fmt: skip


def _turns(endpoints: Endpoints) -> list[Operation]:
    return [
        Operation(
            "createChatCompletion", "POST", "/v1/chat/completions",
            "Answer a conversation, in text or in text and speech", endpoints.chat,
            {
                200: ResponseDoc(
                    "The answer; with `stream`, as it comes.",
                    {_JSON: ChatCompletion, _EVENTS: Events((ChatCompletionChunk,), ends="[DONE]")},
                )
            },
            body=ChatRequest, scope=Scope.CHAT, has_turn=True, is_compatible=True,
        ),
        Operation(
            "generateMultimodal", "POST", "/api/v1/services/aigc/multimodal-generation/generation",
            "Answer a conversation: DashScope's native form", endpoints.native_chat,
            {
                200: ResponseDoc(
                    "The answer; with `X-DashScope-SSE: enable`, as it comes.",
                    {_JSON: NativeReply, _EVENTS: Events((NativeReply,))},
                )
            },
            description="`parameters` are those of chat completions.",
            body=NativeRequest, scope=Scope.CHAT, has_turn=True, error=DashScopeError,
            header_parameters={STREAM_HEADER.decode(): "enable = the answer is streamed"},
        ),
        Operation(
            "generateText", "POST", "/api/v1/services/aigc/text-generation/generation",
            "Answer a prompt or a conversation: DashScope's native form of text", endpoints.native_text,
            {
                200: ResponseDoc(
                    "The answer; with `X-DashScope-SSE: enable`, as it comes.",
                    {_JSON: TextReply, _EVENTS: Events((TextReply,))},
                )
            },
            description="`parameters` are those of chat completions.",
            body=TextRequest, scope=Scope.CHAT, has_turn=True, error=DashScopeError,
            header_parameters={STREAM_HEADER.decode(): "enable = the answer is streamed"},
        ),
        Operation(
            "createSpeech", "POST", "/v1/audio/speech", "Say a text", endpoints.speech,
            {
                200: ResponseDoc(
                    "The file, as it is made; with `stream_format` sse, in events.",
                    {
                        **dict.fromkeys(sorted(MEDIA_TYPES.values())),
                        _EVENTS: Events((SpeechAudioDelta, SpeechAudioDone)),
                    },
                )
            },
            body=SpeechRequest, scope=Scope.SPEECH, has_turn=True, is_compatible=True,
        ),
        *(
            Operation(
                name, "POST", path, summary, app,
                {
                    200: ResponseDoc(
                        "The text; with `stream`, as it comes.",
                        {
                            _JSON: WholeTranscription,
                            "text/plain": None,
                            _EVENTS: Events(events),
                        },
                    )
                },
                body=Form(fields, FILE), scope=Scope.TRANSCRIPTION, has_turn=True, is_compatible=True,
            )
            for name, path, summary, app, fields, events in (
                (
                    "createTranscription", "/v1/audio/transcriptions", "Write what is said",
                    endpoints.transcriptions, TranscriptionFields, _TRANSCRIPT_EVENTS,
                ),
                (
                    "createTranslation", "/v1/audio/translations", "Write what is said in another language",
                    endpoints.translations, TranslationFields, _TRANSCRIPT_EVENTS,
                ),
                (
                    "createCaption", "/v1/audio/captions", "Describe what is to be heard, by a captioner",
                    endpoints.captions, CaptionFields, (CaptionTextDelta, CaptionTextDone),
                ),
            )
        ),
    ]  # fmt: skip


def _responses(endpoints: Endpoints) -> list[Operation]:
    id = {"id": "the response's id"}
    return [
        Operation(
            "createResponse", "POST", "/v1/responses",
            "Answer a conversation, which may go on from an earlier response", endpoints.responses,
            {
                200: ResponseDoc(
                    "The response; with `stream`, the events of its making.",
                    {_JSON: ResponseObject, _EVENTS: Events(EVENTS)},
                )
            },
            body=ResponseRequest, scope=Scope.CHAT, has_turn=True, is_compatible=True,
        ),
        Operation(
            "getResponse", "GET", "/v1/responses/{id}", "Get a response that is kept", endpoints.response,
            {200: ResponseDoc("The response.", {_JSON: ResponseObject})},
            scope=Scope.CHAT, errors=(400, 404), path_parameters=id, is_compatible=True,
        ),
        Operation(
            "deleteResponse", "DELETE", "/v1/responses/{id}", "Delete a response that is kept",
            endpoints.delete_response, {200: ResponseDoc("It is gone.", {_JSON: DeletedResponse})},
            scope=Scope.CHAT, errors=(404,), path_parameters=id, is_compatible=True,
        ),
        Operation(
            "listInputItems", "GET", "/v1/responses/{id}/input_items", "List the items that a response answered",
            endpoints.input_items, {200: ResponseDoc("A page of them.", {_JSON: InputItemsReply})},
            scope=Scope.CHAT, errors=(400, 404), path_parameters=id, is_compatible=True,
            query_parameters={
                "limit": "the most items of a page, 1 to 100 (20)",
                "order": "desc (the latest first) or asc",
                "after": "the id of the item that the page begins behind",
            },
        ),
        Operation(
            "cancelResponse", "POST", "/v1/responses/{id}/cancel",
            "Refused: only background responses can be cancelled, and there are none", endpoints.cancel_response,
            {}, scope=Scope.CHAT, errors=(400, 404), path_parameters=id, is_compatible=True,
        ),
    ]  # fmt: skip


def _models(endpoints: Endpoints) -> list[Operation]:
    return [
        Operation(
            "listModels", "GET", "/v1/models", "List the models that the key may use", endpoints.models,
            {200: ResponseDoc("The models, each with the voices that the key may use.", {_JSON: ModelsReply})},
            is_compatible=True,
        ),
        Operation(
            "getModel", "GET", "/v1/models/{id:path}", "Get a model that the key may use", endpoints.model,
            {200: ResponseDoc("The model.", {_JSON: ModelReply})},
            errors=(403, 404), path_parameters={"id": "the model's name; it may hold slashes"}, is_compatible=True,
        ),
    ]  # fmt: skip


def _presets(endpoints: Endpoints) -> list[Operation]:
    return [
        Operation(
            "listPresets", "GET", "/v1/presets", "List the named prompts that `antiphon_preset` can ask for",
            endpoints.presets, {200: ResponseDoc("The presets.", {_JSON: PresetsReply})}, needs_key=False,
        ),
    ]  # fmt: skip


def _usage(endpoints: Endpoints) -> list[Operation]:
    if endpoints.usage is None:
        return []
    return [
        Operation(
            "listOwnUsage", "GET", "/v1/usage", "Sum up what the key's own project used, and what it cost",
            endpoints.usage, {200: ResponseDoc("A page of sums.", {_JSON: UsagePage})},
            scope=Scope.ADMIN_READ, errors=(400,), query_parameters=PARAMETERS,
        ),
    ]  # fmt: skip


def _realtime(endpoints: Endpoints) -> list[Operation]:
    return [
        Operation(
            "connectRealtime", "GET", "/v1/realtime", "Open a live conversation: OpenAI's Realtime API",
            endpoints.no_upgrade, {101: ResponseDoc("The connection is a WebSocket now.")},
            description="A WebSocket: what it carries after the upgrade, OpenAPI can't describe. A browser's key may be"
            " among the subprotocols: `openai-insecure-api-key.<key>`.",
            scope=Scope.REALTIME, errors=(400, 404, 426, 429), web_socket=endpoints.realtime,
            query_parameters={
                "model": "may be left out where one model is served",
                "session_id": "an extension: a session to go on with, where they are kept",
            },
        ),
        Operation(
            "connectLive", "GET", "/v1/live/sessions", "Open a live conversation: OpenAI's Live API",
            endpoints.no_upgrade, {101: ResponseDoc("The connection is a WebSocket now: send session.start.")},
            description="A WebSocket, as of `connectRealtime`. Its model is named in `session.start`.",
            scope=Scope.REALTIME, errors=(400, 426, 429), web_socket=endpoints.live_sessions,
            query_parameters={"session_id": "an extension: a session to go on with, where they are kept"},
        ),
        Operation(
            "connectDashScopeRealtime", "GET", "/api-ws/v1/realtime",
            "Open a live conversation: DashScope's realtime API", endpoints.no_upgrade,
            {101: ResponseDoc("The connection is a WebSocket now.")},
            description="A WebSocket, as /v1/realtime.",
            scope=Scope.REALTIME, errors=(400, 404, 426, 429), web_socket=endpoints.dashscope_realtime,
            error=DashScopeError,
            query_parameters={
                "model": "may be left out where one model is served",
                "session_id": "an extension: a session to go on with, where they are kept",
            },
        ),
        Operation(
            "createRealtimeClientSecret", "POST", "/v1/realtime/client_secrets",
            "Make a short-lived secret of the key, for a page", endpoints.client_secrets,
            {200: ResponseDoc("The secret.", {_JSON: ClientSecretReply})},
            description="The key needs the scope that the secret is to have.",
            body=ClientSecretRequest, errors=(403, 404),
        ),
    ]  # fmt: skip


def _calls(endpoints: Endpoints) -> list[Operation]:
    if endpoints.create_call is None or endpoints.hang_up_call is None:
        return []
    return [
        Operation(
            "createRealtimeCall", "POST", "/v1/realtime/calls",
            "Open a live conversation over WebRTC: OpenAI's Realtime API", endpoints.create_call,
            {201: ResponseDoc("The SDP of the answer. `Location` names the call.", {SDP: None})},
            description="The offer is the body, or a field of a form. Audio goes over its tracks, events over the data"
            " channel `oai-events`.",
            body=Form(CallFields, OFFER_FIELD, alone=SDP), scope=Scope.REALTIME, errors=(404, 429),
            query_parameters={"model": "may be left out where one model is served, or where the session names it"},
        ),
        Operation(
            "hangUpRealtimeCall", "POST", "/v1/realtime/calls/{id}/hangup", "End a call", endpoints.hang_up_call,
            {200: ResponseDoc("It ends.")}, scope=Scope.REALTIME, errors=(404,),
            path_parameters={"id": "the call's id: the end of its `Location`"},
        ),
    ]  # fmt: skip


def _health(endpoints: Endpoints) -> list[Operation]:
    healthy = {200: ResponseDoc("It is.", {_JSON: Healthy})}
    return [
        Operation("getHealth", "GET", "/health", "Whether the process lives", endpoints.live, healthy, needs_key=False),
        Operation("getLive", "GET", "/health/live", "The same", endpoints.live, healthy, needs_key=False),
        Operation(
            "getReady", "GET", "/health/ready", "Whether a request could be served", endpoints.ready,
            {**healthy, 503: ResponseDoc("It is not; the reason says why.", {_JSON: NotReady})}, needs_key=False,
        ),
    ]  # fmt: skip
