"""A request of each operation of the HTTP API that is served, by the operation's name in the OpenAPI document.

Whoever adds an operation adds its request here: test_documented_statuses.py brings about each of its statuses.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from services.gateway.http.dashscope.uploads.endpoint import OBJECTS
from services.gateway.http.page.files import ASSETS, STATIC
from tests.gateway.conftest import INSTRUCT, RunningGateway

UPGRADE = (
    "connection: upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


# A file of the page: its name changes with its content.
PAGE_SCRIPT = min(path.name for path in (STATIC / ASSETS).glob("index-*.js"))
# The ids of no response, file, batch and call.
NO_RESPONSE, NO_FILE, NO_BATCH, NO_CALL = (f"{kind}{'0' * 32}" for kind in ("resp_", "file-", "batch_", "rtc_"))


@dataclass(frozen=True, slots=True)
class Asked:
    """`model` is where the model's name stands: in the body, in the form, in a session, in the path, in the query or in
    that of a policy. `wrong_query`: one that is refused."""

    method: str
    path: str
    model: str = ""
    # Arguments of httpx: json, data, files.
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_upgrade: bool = False
    wrong_query: str = ""

    @property
    def nothing(self) -> str:
        """The id of no response, file, batch or call that its path has in place of one; "" = it names none."""
        return next((id for id in (NO_RESPONSE, NO_FILE, NO_BATCH, NO_CALL) if id in self.path), "")

    def of(self, id: str) -> Asked:
        """Return the request for a response, file, batch or call that is there."""
        return replace(self, path=self.path.replace(self.nothing, id))

    def of_file(self, id: str) -> Asked:
        """Return the request for a batch with this input."""
        return replace(self, body={"json": {**self.body["json"], "input_file_id": id}})

    def of_model(self, name: str) -> Asked:
        match self.model:
            case "json" | "data":
                return replace(self, body={**self.body, self.model: {**self.body.get(self.model, {}), "model": name}})
            case "session":
                return replace(self, body={"json": {"session": {"type": "realtime", "model": name}}})
            case "policy":
                return replace(self, path=f"{self.path.partition('&')[0]}&model={name}")
            case "path":
                return replace(self, path=f"{self.path.rpartition('/')[0]}/{name}")
            case _:
                return replace(self, path=f"{self.path.partition('?')[0]}?model={name}")


_CHAT = {"model": INSTRUCT.name, "messages": [{"role": "user", "content": "hello"}]}
_NATIVE = {"model": INSTRUCT.name, "input": {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}}
_SESSION = {"session": {"type": "realtime", "model": INSTRUCT.name}}
_FILE = {"files": {"file": ("a.wav", b"sound")}}
_SOUND = {**_FILE, "data": {"model": INSTRUCT.name}}
_KEPT = f"/v1/responses/{NO_RESPONSE}"
_LINE = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": _CHAT})
_UPLOAD = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", _LINE.encode())}}
# What made_for and `posted` put a policy's fields into.
_POST = {"data": {"policy": "none", "Signature": "none", "key": "none"}, "files": {"file": ("a.png", b"image")}}
_BATCH = {"input_file_id": NO_FILE, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
# Of a client that never connects.
_OFFER = "\r\n".join(
    [
        *("v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "a=group:BUNDLE 0"),
        *("m=audio 9 UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", "a=mid:0", "a=sendrecv", "a=rtcp-mux"),
        *("a=rtpmap:111 opus/48000/2", "a=setup:actpass", "a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 24}"),
        *(f"a=fingerprint:sha-256 {':'.join(['AB'] * 32)}", ""),
    ]
)

REQUESTS: Mapping[str, Asked] = {
    "createChatCompletion": Asked("POST", "/v1/chat/completions", "json", {"json": _CHAT}),
    "generateMultimodal": Asked(
        "POST", "/api/v1/services/aigc/multimodal-generation/generation", "json", {"json": _NATIVE}
    ),
    "generateText": Asked("POST", "/api/v1/services/aigc/text-generation/generation", "json", {"json": _NATIVE}),
    "createSpeech": Asked("POST", "/v1/audio/speech", "json", {"json": {"model": INSTRUCT.name, "input": "hello"}}),
    "createTranscription": Asked("POST", "/v1/audio/transcriptions", "data", _SOUND),
    "createTranslation": Asked("POST", "/v1/audio/translations", "data", _SOUND),
    "createCaption": Asked("POST", "/v1/audio/captions", "data", _FILE),
    "createResponse": Asked("POST", "/v1/responses", "json", {"json": {"model": INSTRUCT.name, "input": "hello"}}),
    "getResponse": Asked("GET", _KEPT, wrong_query="?stream=true"),
    "deleteResponse": Asked("DELETE", _KEPT),
    "listInputItems": Asked("GET", f"{_KEPT}/input_items", wrong_query="?limit=0"),
    "cancelResponse": Asked("POST", f"{_KEPT}/cancel"),
    "createFile": Asked("POST", "/v1/files", body=_UPLOAD),
    "listFiles": Asked("GET", "/v1/files", wrong_query="?limit=0"),
    "getFile": Asked("GET", f"/v1/files/{NO_FILE}"),
    "getFileContent": Asked("GET", f"/v1/files/{NO_FILE}/content"),
    "deleteFile": Asked("DELETE", f"/v1/files/{NO_FILE}"),
    "createBatch": Asked("POST", "/v1/batches", body={"json": _BATCH}),
    "listBatches": Asked("GET", "/v1/batches", wrong_query="?limit=0"),
    "getBatch": Asked("GET", f"/v1/batches/{NO_BATCH}"),
    "cancelBatch": Asked("POST", f"/v1/batches/{NO_BATCH}/cancel"),
    "getUploadPolicy": Asked(
        "GET", f"/api/v1/uploads?action=getPolicy&model={INSTRUCT.name}", "policy", wrong_query="&more=1"
    ),
    "postUpload": Asked("POST", OBJECTS, body=_POST),
    "listModels": Asked("GET", "/v1/models"),
    "getModel": Asked("GET", f"/v1/models/{INSTRUCT.name}", "path"),
    "listPresets": Asked("GET", "/v1/presets"),
    "listOwnUsage": Asked("GET", "/v1/usage", wrong_query="?limit=0"),
    "connectRealtime": Asked("GET", f"/v1/realtime?model={INSTRUCT.name}", "query", is_upgrade=True),
    "connectLive": Asked("GET", "/v1/live/sessions", is_upgrade=True, wrong_query=f"?model={INSTRUCT.name}"),
    "connectDashScopeRealtime": Asked("GET", f"/api-ws/v1/realtime?model={INSTRUCT.name}", "query", is_upgrade=True),
    "createRealtimeClientSecret": Asked("POST", "/v1/realtime/client_secrets", "session", {"json": _SESSION}),
    "createRealtimeCall": Asked(
        "POST",
        f"/v1/realtime/calls?model={INSTRUCT.name}",
        "query",
        {"files": {"sdp": (None, _OFFER)}},
        wrong_query="&model=another",
    ),
    "hangUpRealtimeCall": Asked("POST", f"/v1/realtime/calls/{NO_CALL}/hangup"),
    "getPage": Asked("GET", "/"),
    "getPageFile": Asked("GET", f"/assets/{PAGE_SCRIPT}", "path"),
    "getHealth": Asked("GET", "/health"),
    "getLive": Asked("GET", "/health/live"),
    "getReady": Asked("GET", "/health/ready"),
    "getOpenapi": Asked("GET", "/openapi.json"),
    "getDocs": Asked("GET", "/docs"),
}


async def ask(gateway: RunningGateway, asked: Asked, key: str, **headers: str) -> httpx.Response:
    """Send a request, and return the response."""
    given = {"authorization": f"Bearer {key}" if key else "", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if not asked.is_upgrade:
        return await gateway.client.request(asked.method, asked.path, headers=given, **asked.body)
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return await ask_raw(gateway, f"GET {asked.path} HTTP/1.1\r\nhost: x\r\n{UPGRADE}{lines}\r\n".encode())


async def kept_response(gateway: RunningGateway, key: str, words: str = "hello") -> str:
    """Return the id of a response to these words. It is kept for the key's tenant."""
    body = {"json": {"model": INSTRUCT.name, "input": words}}
    answer = await ask(gateway, replace(REQUESTS["createResponse"], body=body), key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["store"]
    return answer.json()["id"]


async def uploaded_file(gateway: RunningGateway, key: str) -> str:
    """Return the id of a file of the key's tenant."""
    answer = await ask(gateway, REQUESTS["createFile"], key)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def made_batch(gateway: RunningGateway, key: str) -> str:
    """Return the id of a batch of the key's tenant."""
    asked = REQUESTS["createBatch"].of_file(await uploaded_file(gateway, key))
    answer = await ask(gateway, asked, key)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def made_call(gateway: RunningGateway, key: str) -> str:
    """Return the id of a call of the key's tenant, which waits for its client."""
    answer = await ask(gateway, REQUESTS["createRealtimeCall"], key)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].rpartition("/")[2]


async def upload_policy(gateway: RunningGateway, key: str) -> dict[str, Any]:
    """Return a policy of the key's tenant, as DashScope's client reads it."""
    answer = await ask(gateway, REQUESTS["getUploadPolicy"], key)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def posted(policy: Mapping[str, Any], name: str = "a.png", data: bytes = b"image") -> Asked:
    """Return the upload of a file as a policy allows it."""
    key = f"{policy['upload_dir']}/{name}"
    fields = {"policy": policy["policy"], "Signature": policy["signature"], "key": key}
    return replace(REQUESTS["postUpload"], body={"data": fields, "files": {"file": (name, data)}})


async def made_for(gateway: RunningGateway, asked: Asked, key: str) -> Asked:
    """Return the request for a response, file, batch, call or policy that is made for it, where it names one."""
    makers = {NO_RESPONSE: kept_response, NO_FILE: uploaded_file, NO_BATCH: made_batch, NO_CALL: made_call}
    if asked.body is _POST:
        return posted(await upload_policy(gateway, key))
    if asked.body.get("json") is _BATCH:
        return asked.of_file(await uploaded_file(gateway, key))
    return asked.of(await makers[asked.nothing](gateway, key)) if asked.nothing else asked


async def ask_raw(gateway: RunningGateway, request: bytes) -> httpx.Response:
    """Send bytes, and return the response, which must be as documented."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = httpx.Headers([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    finally:
        writer.close()
    method, path, *_ = request.split(b"\r\n")[0].decode().split(" ")
    sent = httpx.Request(method, gateway.url + path)
    response = httpx.Response(int(first.split(" ")[1]), headers=headers, content=body, request=sent)
    for check in gateway.client.event_hooks["response"]:
        await check(response)
    return response
