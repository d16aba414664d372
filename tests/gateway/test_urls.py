"""URLs: slashes at their end, those that are not served here, and those that nobody has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import INSTRUCT, RunningGateway, absent_workers, running_gateway
from tests.gateway.http_server import CHAT, error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    async with absent_workers(store.url, INSTRUCT), running_gateway(store.url) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/model", 404, "unknown_url"),
        ("POST", "/chat/completions", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "url_not_served"),
        ("POST", "/v1/responses/resp_1/other", 404, "url_not_served"),
        ("POST", "/v1/responses/compact", 404, "url_not_served"),
        ("POST", "/compatible-mode/v1/responses/input_tokens", 404, "url_not_served"),
        ("POST", "/v1/responses/resp_1", 405, "method_not_allowed"),
        ("GET", "/v1/responses", 405, "method_not_allowed"),
        ("POST", "/v1/audio/voices", 404, "url_not_served"),
        ("GET", "/v1/audio/speech/", 405, "method_not_allowed"),
        ("GET", "/compatible-mode/v1/files/file-1", 404, "url_not_served"),
        ("GET", CHAT + "/chatcmpl-1", 404, "url_not_served"),
        ("POST", "/tokenize", 404, "url_not_served"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny-instruct", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
    ],
)
async def test_wrong_paths_and_methods_get_openai_errors(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    response = await gateway.client.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "allowed"), [(CHAT, "POST"), ("/v1/responses/resp_1", "DELETE, GET, HEAD"), ("/health/live", "GET, HEAD")]
)
async def test_a_refused_method_gets_told_the_others(gateway: RunningGateway, path: str, allowed: str) -> None:
    response = await gateway.client.request("PATCH", path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert error_of(response)["message"].endswith(f"Send {' or '.join(allowed.split(', '))}.")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny-instruct", "/compatible-mode/v1/models", "/health"])
async def test_a_slash_at_the_end_changes_nothing(gateway: RunningGateway, path: str) -> None:
    with_one = await gateway.client.get(path + "/")
    assert (with_one.status_code, with_one.json()) == (200, (await gateway.client.get(path)).json())
    assert (await gateway.client.post(CHAT + "/", json={})).json()["error"]["param"] == "messages"


async def test_a_path_with_a_slash_at_the_end_needs_the_key_too(gateway: RunningGateway) -> None:
    for path in ("/v1/models/", "/v1/models//", "/health/../v1/models/"):
        response = await gateway.client.get(path, headers={"authorization": ""})
        assert response.status_code == 401


async def test_an_unknown_url_gets_told_what_is_served(gateway: RunningGateway) -> None:
    for path in ("/chat/completions", "/v1/embeddings"):
        error = error_of(await gateway.client.post(path, json={}))
        assert path in error["message"]
        assert "POST /v1/chat/completions" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/api/v1/services/aigc/image-generation/generation", 404, "NotFound"),
        ("GET", "/api/v1/tasks/1?wait=no", 404, "NotFound"),
        ("GET", "/api/v1/services/aigc/multimodal-generation/generation", 405, "MethodNotAllowed"),
    ],
)
async def test_below_dashscopes_path_errors_are_flat(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    response = await gateway.client.request(method, path)
    assert response.status_code == status
    error = response.json()
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    assert path.partition("?")[0] in error["message"]
