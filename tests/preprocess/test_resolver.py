"""Slow names: they hold only lookups of the tenant that asked for them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from ipaddress import ip_address
from typing import Any

import pytest

from services.preprocess.fetching.resolver import Resolver, UnknownName
from tests.fixtures.wait import wait_until


class SlowNames:
    """The system's lookup, but for names under "slow.test": they answer when they are told to."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self._lookup = socket.getaddrinfo

    def getaddrinfo(self, host: str, *arguments: Any, **options: Any) -> Any:
        if not host.endswith("slow.test"):
            return self._lookup(host, *arguments, **options)
        self.asked.append(host)
        self.answer.wait()
        return self._lookup("127.0.0.1", *arguments, **options)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Generator[SlowNames]:
    names = SlowNames()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.answer.set()


async def test_slow_names_of_one_tenant_hold_no_other(slow: SlowNames):
    resolver = Resolver(most=8, most_of_a_tenant=4)
    waiting = [asyncio.create_task(resolver.resolve("a", f"{i}.slow.test", 80)) for i in range(16)]
    await wait_until(lambda: len(slow.asked) == 4)
    assert await resolver.resolve("b", "127.0.0.1", 80) == [ip_address("127.0.0.1")]
    assert not any(task.done() for task in waiting)
    assert len(slow.asked) == 4
    slow.answer.set()
    assert [await task for task in waiting] == [[ip_address("127.0.0.1")]] * 16
    resolver.close()


async def test_a_lookup_that_nobody_waits_for_still_counts(slow: SlowNames):
    resolver = Resolver(most=8, most_of_a_tenant=1)
    gone = asyncio.create_task(resolver.resolve("a", "gone.slow.test", 80))
    await wait_until(lambda: len(slow.asked) == 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    second = asyncio.create_task(resolver.resolve("a", "second.slow.test", 80))
    await resolver.resolve("b", "127.0.0.1", 80)
    assert slow.asked == ["gone.slow.test"]
    slow.answer.set()
    await second
    resolver.close()


async def test_a_name_that_does_not_exist_is_unknown():
    resolver = Resolver()
    with pytest.raises(UnknownName):
        await resolver.resolve("a", "no-such-host.invalid", 80)
    resolver.close()
