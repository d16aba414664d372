"""Pages of other origins may call the API from a browser where the operator lets them."""

from __future__ import annotations

import httpx
import pytest
from pydantic import ValidationError

from services.gateway.settings import GatewaySettings
from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import running_gateway

CHAT = "/v1/chat/completions"
PAGE = "https://app.example.org"
# As Chrome sends it for openai-node with dangerouslyAllowBrowser. It has no key.
PREFLIGHT = {
    "authorization": "",
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-arch,x-stainless-retry-count",
}


def allowed(response: httpx.Response) -> str | None:
    return response.headers.get("access-control-allow-origin")


@pytest.mark.parametrize("origins", [[PAGE], ["http://localhost:3000", PAGE], ["*"]])
async def test_a_page_of_an_allowed_origin_may_ask(store: RedisServer, origins: list[str]) -> None:
    async with running_gateway(store.url, cors_origins=origins) as gateway:
        preflight = await gateway.client.options(CHAT, headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert allowed(preflight) in (PAGE, "*")
        assert {"GET", "POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
        assert "x-stainless-retry-count" in preflight.headers["access-control-allow-headers"]
        models = await gateway.client.get("/v1/models", headers={"origin": PAGE})
        assert (models.status_code, allowed(models)) == (200, preflight.headers["access-control-allow-origin"])
        shown = models.headers["access-control-expose-headers"]
        assert all(name in shown for name in ("x-request-id", "retry-after-ms", "x-should-retry"))


async def test_a_page_can_read_its_errors(store: RedisServer) -> None:
    async with running_gateway(store.url, cors_origins=[PAGE]) as gateway:
        wrong_key = {"origin": PAGE, "authorization": "Bearer wrong"}
        for response, status in (
            (await gateway.client.get("/v1/models", headers=wrong_key), 401),
            (await gateway.client.post(CHAT, headers={"origin": PAGE}, json={}), 400),
            (await gateway.client.get("/nothing", headers={"origin": PAGE}), 404),
        ):
            assert (response.status_code, allowed(response)) == (status, PAGE)


async def test_other_origins_get_nothing(store: RedisServer) -> None:
    async with running_gateway(store.url, cors_origins=["https://other.example.org"]) as gateway:
        preflight = await gateway.client.options(CHAT, headers=PREFLIGHT)
        assert (preflight.status_code, allowed(preflight)) == (400, None)
        assert allowed(await gateway.client.get("/v1/models", headers={"origin": PAGE})) is None


async def test_by_default_no_page_may_ask(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        preflight = await gateway.client.options(CHAT, headers=PREFLIGHT)
        assert (preflight.status_code, allowed(preflight)) == (401, None)
        assert allowed(await gateway.client.get("/v1/models", headers={"origin": PAGE})) is None


@pytest.mark.parametrize("origin", ["https://app.example.org/", "app.example.org", "https://a.org/x", "", "https://*"])
def test_a_wrong_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        GatewaySettings(redis_url="redis://x", allow_anonymous=True, cors_origins=[origin])
