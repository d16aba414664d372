"""Requests without a turn end with their key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.errors import Unauthenticated
from services.gateway.http.keyed_requests import EndsWithKey, KeyedRequests
from services.gateway.turn.intent import Principal


async def never(*_: Any) -> None:
    await asyncio.Event().wait()


async def test_only_requests_of_the_revoked_key_end() -> None:
    revoked = set[str]()
    requests = KeyedRequests(lambda principal: principal.key_id not in revoked)
    app = EndsWithKey(requests, never)

    def ask(key_id: str = "") -> asyncio.Task[None]:
        principal = Principal("acme", "acme", key_id)
        return asyncio.create_task(app({"type": "http", "state": {"principal": principal}}, never, never))  # type: ignore[arg-type]

    first, other, of_a_table = ask("key_1"), ask("key_2"), ask()
    await asyncio.sleep(0)
    revoked.add("key_1")
    requests.end_revoked()
    await asyncio.sleep(0)
    requests.end_revoked()  # another key may be revoked before the first request has ended
    with pytest.raises(Unauthenticated) as caught:
        await first
    assert caught.value.code == "revoked_api_key"
    assert not any(task.done() for task in (other, of_a_table))
    for task in (other, of_a_table):
        task.cancel()
    await asyncio.gather(other, of_a_table, return_exceptions=True)


async def test_a_timeout_of_the_application_stays_its_own() -> None:
    async def fail(*_: Any) -> None:
        raise TimeoutError

    app = EndsWithKey(KeyedRequests(lambda _: True), fail)
    principal = Principal("acme", "acme", "key_1")
    with pytest.raises(TimeoutError):
        await app({"type": "http", "state": {"principal": principal}}, never, never)  # type: ignore[arg-type]
