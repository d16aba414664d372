"""CloudEvents of usage records, at a receiver that fails, and over restarts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update

from services.control.store.database import Database
from services.control.store.models import EventCursor
from services.control.usage import events
from services.control.usage.cursor import SentCursor
from services.control.usage.events import EventSender
from services.control.usage.ledger import UsageLedger
from tests.control.conftest import opened, running_control
from tests.control.usage_records import migrated, record
from tests.fixtures.wait import wait_until


@dataclass
class Receiver:
    """An HTTP server. It answers with `statuses`, then with 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list[int])
    requests: list[tuple[dict[str, str], Any]] = field(default_factory=list[tuple[dict[str, str], Any]])
    """Headers and bodies of the requests that were taken."""

    @property
    def ids(self) -> list[str]:
        return [event["id"] for _, body in self.requests for event in (body if isinstance(body, list) else [body])]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = found.statuses.pop(0) if found.statuses else 204
            if status < 300:
                found.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/events"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@asynccontextmanager
async def sending(
    database: Database, url: str, *, batch: int = 100, name: str = "sender", token: str = ""
) -> AsyncGenerator[None]:
    cursor = SentCursor(database, name, events.LEASE_S)
    async with EventSender(cursor, database.records_added, url, token, batch, look_s=0.05) as sender:
        task = asyncio.create_task(sender.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(events, "LAST_BACKOFF_S", 0.02)


async def add(database: Database, *names: str) -> None:
    await UsageLedger(database).add([record(name) for name in names])


async def test_an_event_tells_the_record(database_url: str, receiver: Receiver) -> None:
    amounts = {"prompt_text_tokens": 10, "audio_out_ms": 80}
    body = record("turn", datetime(2031, 1, 20, 12, tzinfo=UTC), amounts, cost_micros=7, price_ids=["price_1"])
    async with migrated(database_url) as database:
        await UsageLedger(database).add([body])
        async with sending(database, receiver.url, batch=1, token="secret"):
            await wait_until(lambda: receiver.requests)
    ((headers, event),) = receiver.requests
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert headers["authorization"] == "Bearer secret"
    data = event.pop("data")
    assert event == {
        "specversion": "1.0",
        "id": "turn",
        "source": "/antiphon/usage",
        "type": "antiphon.usage.turn",
        "subject": "proj_1",
        "time": "2031-01-20T12:00:00.000Z",
        "datacontenttype": "application/json",
    }
    assert (data["began_at"], data["ended_at"]) == ("2031-01-20T11:59:59.000Z", "2031-01-20T12:00:00.000Z")
    assert (data["cost_micros"], data["price_ids"], data["key_id"]) == (7, ["price_1"], "key_1")
    assert {name: amount for name, amount in data["amounts"].items() if amount} == amounts


async def test_batches_come_in_order_and_go_on_after_a_restart(database_url: str, receiver: Receiver) -> None:
    async with migrated(database_url) as database:

        async def all_are_noted() -> bool:
            return await SentCursor(database, "looker", 1).waiting() == 0

        await add(database, "1", "2", "3")
        async with sending(database, receiver.url, batch=2):
            await wait_until(lambda: receiver.ids == ["1", "2", "3"])
            assert [len(body) for _, body in receiver.requests] == [2, 1]
            assert receiver.requests[0][0]["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
            await add(database, "4", "1")
            await wait_until(lambda: receiver.ids == ["1", "2", "3", "4"])
            await wait_until(all_are_noted)
        await add(database, "5")
        async with sending(database, receiver.url, name="another"):
            await wait_until(lambda: receiver.ids == ["1", "2", "3", "4", "5"])


async def test_an_event_that_was_sent_and_not_noted_comes_again(database_url: str, receiver: Receiver) -> None:
    """A replica dies between the receiver's answer and its own transaction."""
    async with migrated(database_url) as database:
        await add(database, "1")
        async with sending(database, receiver.url):
            await wait_until(lambda: receiver.ids)
        async with database.writing() as connection:
            await connection.execute(update(EventCursor).values(sent_seq=0))
        async with sending(database, receiver.url, name="another"):
            await wait_until(lambda: receiver.ids == ["1", "1"])


@pytest.mark.parametrize("status", [302, 400, 401, 429, 500])
async def test_what_a_receiver_refuses_comes_again(sqlite_url: str, receiver: Receiver, status: int) -> None:
    receiver.statuses += [status] * 3
    async with migrated(sqlite_url) as database:
        await add(database, "1")
        async with sending(database, receiver.url):
            await wait_until(lambda: receiver.ids == ["1"])
            await add(database, "2")
            await wait_until(lambda: receiver.ids == ["1", "2"])
    assert not receiver.statuses


def failed() -> float:
    return REGISTRY.get_sample_value("antiphon_ledger_events_total", {"outcome": "failed"}) or 0


async def test_nobody_there_is_waited_for(sqlite_url: str, receiver: Receiver) -> None:
    async with migrated(sqlite_url) as database:
        await add(database, "1")
        async with sending(database, "http://127.0.0.1:1/events"):
            before = failed()
            await wait_until(lambda: failed() >= before + 2)
        async with sending(database, receiver.url):
            await wait_until(lambda: receiver.ids == ["1"])


async def test_one_of_two_replicas_sends(database_url: str, receiver: Receiver) -> None:
    async with migrated(database_url) as first, opened(database_url) as second:
        async with sending(first, receiver.url, name="first", batch=3), sending(second, receiver.url, name="second"):
            for number in range(20):
                await add(first if number % 2 else second, f"{number}")
            await wait_until(lambda: len(set(receiver.ids)) == 20)
        assert sorted(receiver.ids, key=int) == [str(number) for number in range(20)]


async def test_a_dead_replicas_lease_ends(database_url: str, receiver: Receiver) -> None:
    now = [datetime(2031, 1, 1, tzinfo=UTC)]
    async with migrated(database_url) as database:
        dead = SentCursor(database, "dead", 30, lambda: now[0])
        live = SentCursor(database, "live", 30, lambda: now[0])
        assert await dead.hold()
        assert not await live.hold()
        assert await dead.hold()
        now[0] += timedelta(seconds=31)
        assert await live.hold()
        assert not await dead.hold()
        await add(database, "1")
        await dead.sent(1)  # too late: it is the other's now
        assert [row.turn_id for row in await live.next(10)] == ["1"]
        await live.release()
        assert await dead.hold()


async def test_the_control_plane_sends_them(sqlite_url: str, receiver: Receiver) -> None:
    async with running_control(sqlite_url, events_url=receiver.url, events_token="t"), opened(sqlite_url) as database:
        await add(database, "1")
        await wait_until(lambda: receiver.ids == ["1"])
