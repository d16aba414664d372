"""Each route and each call of gRPC asks for its scope. One that is missing here is a failure."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from antiphon.v1 import control_pb2, gateway_pb2
from services.common.grpc_errors import error_from_rpc
from services.common.key_scopes import Scope
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import RunningGateway, running_gateway
from tests.gateway.requests import PAGE_SCRIPT
from tests.gateway.scripted.control_plane import scripted_control, tenant_key
from tests.gateway.scripted.stages import Stages
from tests.gateway.turn.test_converse import gateway_stub, requests

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPENAI = {
    "POST /chat/completions": Scope.CHAT,
    "POST /audio/speech": Scope.SPEECH,
    "POST /audio/transcriptions": Scope.TRANSCRIPTION,
    "POST /audio/translations": Scope.TRANSCRIPTION,
    "POST /audio/captions": Scope.TRANSCRIPTION,
    "POST /responses": Scope.CHAT,
    "GET /responses/{id}": Scope.CHAT,
    "DELETE /responses/{id}": Scope.CHAT,
    "GET /responses/{id}/input_items": Scope.CHAT,
    "POST /responses/{id}/cancel": Scope.CHAT,
    "POST /files": Scope.FILES,
    "GET /files": Scope.FILES,
    "GET /files/{id}": Scope.FILES,
    "GET /files/{id}/content": Scope.FILES,
    "DELETE /files/{id}": Scope.FILES,
    "POST /batches": Scope.BATCHES,
    "GET /batches": Scope.BATCHES,
    "GET /batches/{id}": Scope.BATCHES,
    "POST /batches/{id}/cancel": Scope.BATCHES,
    "GET /models": None,
    "GET /models/{id:path}": None,
}
OPEN = ("/health", "/health/live", "/health/ready", "/openapi.json", "/docs")
ROUTES: dict[str, Scope | None] = {
    **{route.replace(" ", " /v1"): scope for route, scope in OPENAI.items()},
    **{route.replace(" ", " /compatible-mode/v1"): scope for route, scope in OPENAI.items()},
    "POST /api/v1/services/aigc/multimodal-generation/generation": Scope.CHAT,
    "POST /api/v1/services/aigc/text-generation/generation": Scope.CHAT,
    "GET /api/v1/uploads": Scope.FILES,
    "POST /api/v1/uploads/objects": None,  # the policy says whose it is: tests/gateway/dashscope/test_uploads.py
    "GET /v1/usage": Scope.ADMIN_READ,
    "WebSocket /v1/realtime": Scope.REALTIME,
    "GET /v1/realtime": None,  # it only says that a WebSocket is needed
    "WebSocket /v1/live/sessions": Scope.REALTIME,
    "GET /v1/live/sessions": None,
    "WebSocket /api-ws/v1/realtime": Scope.REALTIME,
    "GET /api-ws/v1/realtime": None,
    "POST /v1/realtime/client_secrets": Scope.REALTIME,  # or what the secret is to have
    "POST /v1/realtime/calls": Scope.REALTIME,
    "POST /v1/realtime/calls/{id}/hangup": Scope.REALTIME,
    **{f"GET {path}": None for path in (*OPEN, "/", "/assets/{name}", "/v1/presets")},
}
"""All routes → the scope that a key needs for them; None = every key may."""
CALLS = {"Converse": Scope.CHAT}
"""The calls of gRPC's Gateway, likewise."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """Run a gateway with a key of each scope alone, by the scope's name."""
    objects = f"file://{tmp_path_factory.mktemp('objects')}"
    async with scripted_control() as control:
        control.keys = [tenant_key(number, scope) for number, scope in enumerate(Scope)]
        for key, scope in zip(control.keys, Scope, strict=True):
            key.ClearField("scopes")
            key.scopes.append(control_pb2.KeyScope.Value(f"KEY_SCOPE_{scope.upper()}"))
        calls = {"webrtc": True, "webrtc_host": "127.0.0.1", "webrtc_port": 0}
        async with running_gateway(
            store.url, page=True, object_store_url=objects, **calls, **control.settings
        ) as running:

            async def knows_the_keys() -> bool:
                return (await running.client.get("/v1/models", headers=as_key(Scope.CHAT))).status_code == 200

            await wait_until(knows_the_keys)
            yield running


def as_key(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def routes_of(gateway: RunningGateway) -> set[str]:
    """Return those of all operations: that nothing else is served, test_openapi.py shows."""
    found: set[str] = set()
    for each in gateway.gateway.operations:
        methods = [each.method, *(["WebSocket"] if each.web_socket else [])]
        found |= {f"{method} {prefix}{each.path}" for method in methods for prefix in each.prefixes}
    return found


async def test_the_readme_says_what_each_endpoint_asks_for() -> None:
    page = (Path(__file__).parents[2] / "services/gateway/README.md").read_text()
    asked: dict[str, set[Scope | None]] = {}
    for route, scope in ROUTES.items():
        asked.setdefault(route.split()[1].replace(":path", ""), set()).add(scope)
    # Of each row the first path, and the scope that its last cell begins with, if any.
    rows = re.findall(
        r"^\| [^|]*?`?(/(?:v1|api|api-ws)/[\w/{}.-]+)`.* \|(?: `(\w+)`[^|]*| no key| )?\|$", page, re.MULTILINE
    )
    assert len(rows) >= 16
    for path, scope in rows:
        assert (Scope(scope) if scope else None) in asked[path], path


async def test_every_route_and_call_is_in_the_table(gateway: RunningGateway) -> None:
    assert routes_of(gateway) == set(ROUTES)
    assert {method.name for method in gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].methods} == set(CALLS)


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_key_reaches_the_routes_of_its_scope_alone(gateway: RunningGateway, scope: Scope) -> None:
    for route, needed in ROUTES.items():
        status, code = await answer(gateway, route, scope)
        assert status != 401, route
        assert code not in ("unknown_url", "url_not_served"), route
        is_refused = (status, code) in ((403, "missing_scope"), (403, "AccessDenied"))  # DashScope's form has its own
        assert is_refused == (needed not in (None, scope)), (route, status, code)


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_key_calls_what_its_scope_allows(gateway: RunningGateway, scope: Scope) -> None:
    stages: Any = Stages(gateway, "", None, 0, None, None)  # pyright: ignore[reportArgumentType]  # only its gateway
    async with gateway_stub(stages) as stub:
        for call, needed in CALLS.items():
            answers = getattr(stub, call)(metadata=(("authorization", f"Bearer {scope}"),))
            if needed == scope:  # a client that still writes may not hear why it was refused
                await answers.write(requests()[0])
                await answers.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await answers.read()
            assert (error_from_rpc(failed.value, "gateway").code == "missing_scope") == (needed != scope)


async def answer(gateway: RunningGateway, route: str, secret: str) -> tuple[int, str | None]:
    """Return the status of an empty request, and the code of its error. No model is served."""
    method, path = route.split()
    path = path.replace("{id:path}", "none").replace("{id}", "none").replace("{name}", PAGE_SCRIPT)
    if method == "WebSocket":
        url = gateway.url.replace("http", "ws") + path
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers=as_key(secret)):
                pass
        body = refused.value.response.body or b""
        code = re.search(rb'"(missing_scope|AccessDenied)"', body)
        return refused.value.response.status_code, code[1].decode() if code else None
    response = await gateway.client.request(method, path, headers=as_key(secret), json={} if method == "POST" else None)
    is_json = response.headers["content-type"] == "application/json"
    body = response.json() if is_json else {}
    return response.status_code, body.get("error", body).get("code")
