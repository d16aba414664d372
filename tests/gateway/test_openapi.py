"""The gateway's OpenAPI document and its page: they hold what is served, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from pydantic import SecretStr
from starlette.routing import Route, WebSocketRoute

from services.gateway.http.chat.neutral import ENGINE_FIELDS, FIELDS
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.responses import neutral
from services.gateway.http.responses.schema import ResponseRequest
from tests.fixtures.documented import Documented
from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import INSTRUCT, RunningGateway, absent_workers, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    batches: dict[str, Any] = {
        "object_store_url": f"file://{tmp_path_factory.mktemp('objects')}",
        "batches_address": "127.0.0.1:1",
        "control_token": SecretStr("nobody listens there"),
        "batch_concurrency": 0,
    }
    async with absent_workers(store.url, INSTRUCT), running_gateway(store.url, **batches) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def document(gateway: RunningGateway) -> dict[str, Any]:
    return (await gateway.client.get("/openapi.json")).json()


def routes_of(gateway: RunningGateway) -> Iterator[Route | WebSocketRoute]:
    """Yield the routes of the application that uvicorn serves, whoever added them."""
    app: Any = gateway.gateway.http.config.app
    while not hasattr(app, "_router"):
        app = app._app
    yield from app._router.routes


async def test_every_route_is_in_the_document_and_the_reverse(
    gateway: RunningGateway, document: dict[str, Any]
) -> None:
    described = {
        (method.upper(), path) for path, item in Documented(document).served() for method in item if method != "servers"
    }
    served: set[tuple[str, str]] = set()
    for route in routes_of(gateway):
        path = re.sub(r":\w+}", "}", route.path)
        methods = (route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"GET"}
        served |= {(method, path) for method in methods}
    assert served == described


async def test_what_needs_a_key_says_so(gateway: RunningGateway, document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "servers":
                answer = await gateway.client.request(
                    method, path.replace("{id}", "x"), headers={"authorization": ""}, json={}
                )
                assert (answer.status_code == 401) == ("security" not in operation), path


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    names = [o["operationId"] for i in document["paths"].values() for m, o in i.items() if m != "servers"]
    assert len(set(names)) == len(names)
    assert not [name for name in document["components"]["schemas"] if "__" in name], "two models have one name"


async def test_the_schemas_have_every_field_that_is_read(document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]["ChatRequest"]
    assert described["properties"].keys() == ChatRequest.model_fields.keys() | FIELDS
    assert described["additionalProperties"] is False
    described = document["components"]["schemas"]["ResponseRequest"]
    responses = neutral.NEUTRAL.keys() | neutral.IGNORED
    assert described["properties"].keys() == ResponseRequest.model_fields.keys() | responses | ENGINE_FIELDS.keys()
    assert "written" not in document["components"]["schemas"]["Tool"]["properties"]


async def test_the_page_shows_each_operation_and_loads_nothing(
    gateway: RunningGateway, document: dict[str, Any]
) -> None:
    answer = await gateway.client.get("/docs", headers={"authorization": ""})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for path, item in document["paths"].items():
        assert path in answer.text
        assert all(o["summary"].replace("'", "&#x27;") in answer.text for m, o in item.items() if m != "servers")
    targets = set(re.findall(r'(?:href|src)="([^"]*)"', answer.text))
    assert {target for target in targets if not target.startswith("#")} == {"openapi.json"}
    anchors = set(re.findall(r' id="([^"]*)"', answer.text))
    assert {target.removeprefix("#") for target in targets if target.startswith("#")} <= anchors
    assert "<script" not in answer.text
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


async def test_the_document_is_the_same_for_everyone(gateway: RunningGateway, document: dict[str, Any]) -> None:
    answer = await gateway.client.get("/openapi.json", headers={"authorization": ""})
    assert answer.json() == document
    assert "max-age" in answer.headers["cache-control"]
    assert INSTRUCT.name not in answer.text


async def test_both_can_be_turned_off(store: RedisServer) -> None:
    async with running_gateway(store.url, api_docs=False) as gateway:
        for path in ("/openapi.json", "/docs"):
            assert (await gateway.client.get(path)).json()["error"]["code"] == "unknown_url"
            assert (await gateway.client.get(path, headers={"authorization": ""})).status_code == 401
