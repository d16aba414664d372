"""Slow names: they hold only lookups of the tenant that asked for them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from ipaddress import ip_address
from typing import Any

import pytest

from services.preprocess.fetching.resolver import NoHandleLeft, Resolver, UnknownName
from tests.fixtures.wait import wait_until
from tests.preprocess.test_exhaustion import file_handles


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


@pytest.mark.parametrize(
    ("reason", "times"),
    [(socket.EAI_NONAME, 1), (socket.EAI_NODATA, 1), (socket.EAI_AGAIN, 2), (socket.EAI_FAIL, 2)],
)
async def test_what_failed_for_the_moment_alone_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch, reason: int, times: int
):
    asked = failing_lookups(monkeypatch, reason)
    resolver = Resolver()
    with pytest.raises(UnknownName):
        await resolver.resolve("a", "some.test", 80)
    assert asked == ["some.test"] * times
    resolver.close()


async def test_an_unknown_name_is_looked_up_again_where_a_file_handle_was_missing(monkeypatch: pytest.MonkeyPatch):
    asked = failing_lookups(monkeypatch, socket.EAI_NONAME)
    resolver = Resolver(most=1)
    with pytest.raises(UnknownName):
        await resolver.resolve("a", "before.test", 80)  # starts the thread
    with file_handles(0), pytest.raises(NoHandleLeft):
        await resolver.resolve("a", "some.test", 80)
    assert asked == ["before.test", "some.test", "some.test"]
    resolver.close()


def failing_lookups(monkeypatch: pytest.MonkeyPatch, reason: int) -> list[str]:
    """Have the system's lookup fail. Return the names that it is asked for."""
    asked: list[str] = []

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(reason, "as the test has it")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked
