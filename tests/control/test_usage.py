"""Usage over HTTP, the bill of a month, and the sums that gateways ask for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

import grpc
import grpc.aio
import pytest

from antiphon.v1 import control_pb2, control_pb2_grpc, usage_pb2
from services.common.errors import BadInput
from services.control.usage.ledger import UsageLedger
from services.control.usage.used import Used, UsedSums
from tests.control.conftest import RunningControl, opened
from tests.control.usage_records import NOON, migrated, record
from tests.control.watching import METADATA, Watcher

JANUARY = "from=2031-01-01&to=2031-02-01"


async def add(url: str, bodies: Iterable[bytes]) -> None:
    async with opened(url) as database:
        await UsageLedger(database).add(list(bodies))


async def pages(client: Any, path: str) -> list[dict[str, Any]]:
    """Return the rows of all pages."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        answer = await client.get(f"{path}{after}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = f"&after={page['next_after']}"


async def test_usage_is_grouped_and_paged(control: RunningControl, database_url: str) -> None:
    bodies = [
        record(
            f"{day}-{key}-{model}",
            NOON + timedelta(days=day),
            key_id=f"key_{key}",
            model=model,
            amounts={"prompt_audio_tokens": 7, "completion_audio_tokens": 2, "reasoning_tokens": 99, "audio_in_ms": 80},
            cost_micros=1_500_000,
            derailment="stall" if key else "",
            spoken_again=day,
        )
        for day in range(3)
        for key in range(2)
        for model in ("a", "b")
    ]
    await add(database_url, [*bodies, record("table", tenant="table", project_id="", organisation_id="", key_id="")])
    rows = await pages(control.client, f"/admin/v1/usage?{JANUARY}&group=model,day&limit=2&organisation=org_1")
    assert [(row["day"], row["model"], row["requests"], row["cost"]) for row in rows] == [
        (str((NOON + timedelta(days=day)).date()), model, 2, "3") for day in range(3) for model in ("a", "b")
    ]
    assert (rows[0]["tokens"], rows[0]["audio_in_ms"], rows[0]["cost_micros"]) == (18, 160, 3_000_000)
    assert [(row["derailed_requests"], row["spoken_again"]) for row in rows] == [
        (1, 2 * day) for day in range(3) for _ in range(2)
    ]
    assert {rows[0][name] for name in ("organisation_id", "project_id", "tenant", "key_id")} == {None}
    rows = await pages(control.client, f"/admin/v1/usage?{JANUARY}&group=project&limit=1")
    assert [(row["project_id"], row["tenant"], row["requests"]) for row in rows] == [
        ("", "table", 1), ("proj_1", "acme.prod", 12),
    ]  # fmt: skip
    for query, requests in (
        (f"{JANUARY}&group=", 13),
        (f"{JANUARY}&group=&key=key_1", 6),
        (f"{JANUARY}&group=&key=key_1&model=a", 3),
        ("from=2031-01-21&to=2031-01-22&group=", 4),
        ("from=2031-01-21&group=&project=proj_1", 8),
    ):
        assert [row["requests"] for row in await pages(control.client, f"/admin/v1/usage?{query}")] == [requests]
    for query in (f"{JANUARY}&group=&project=proj_2", "from=2031-02-01&group=", "from=2030-01-01&to=2031-01-01"):
        assert await pages(control.client, f"/admin/v1/usage?{query}") == []


async def test_wrong_queries_are_named(control: RunningControl, database_url: str) -> None:
    await add(database_url, [record("1"), record("2", NOON + timedelta(days=1))])
    cursor = (await control.get(f"/usage?{JANUARY}&limit=1"))["next_after"]
    for query, param in (
        ("group=week", "group"),
        ("group=day,day", "group"),
        ("from=yesterday", "from"),
        ("from=2031-01-01T00:00:01", "from"),
        ("from=2031-02-01&to=2031-02-01", "to"),
        ("after=x", "after"),
        ("after=bnVsbA==", "after"),
        ("after=WzFd", "after"),
        (f"group=key&after={cursor}&from=2031-01-01&group_by=x", "group_by"),
        (f"group=day,key&after={cursor}", "after"),
        ("limit=0", "limit"),
        ("first=2031-01-01", "first"),
    ):
        answer = await control.client.get(f"/admin/v1/usage?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), (query, answer.text)


async def test_a_tenant_sees_only_its_own_usage(control: RunningControl, database_url: str) -> None:
    mine, theirs = await control.new_project("acme", "prod"), await control.new_project("corp", "prod")
    reader = await control.new_key(mine, "reader", scopes=["admin_read"])
    other = await control.new_key(theirs, "reader", scopes=["admin_read"])
    caller = await control.new_key(mine, "caller")
    await add(
        database_url,
        [
            record("1", project_id=mine, tenant="acme.prod", key_id=caller["id"]),
            record("2", project_id=mine, tenant="acme.prod", key_id=reader["id"]),
            record("3", project_id=theirs, tenant="corp.prod", key_id=other["id"]),
        ],
    )
    for key, requests, tenant in ((reader, 2, "acme.prod"), (other, 1, "corp.prod")):
        async with control.as_key(key["secret"]) as client:
            (row,) = await pages(client, f"/v1/usage?{JANUARY}&group=project")
            assert (row["requests"], row["tenant"]) == (requests, tenant)
            for query in (f"project={theirs}", f"project={mine}", "organisation=org_1"):
                assert (await client.get(f"/v1/usage?{query}")).status_code == 400
            assert (await client.get("/admin/v1/usage")).json()["error"]["code"] == "admin_key_needed"
    async with control.as_key(reader["secret"]) as client:
        assert await pages(client, f"/v1/usage?{JANUARY}&key={other['id']}") == []
        rows = await pages(client, f"/v1/usage?{JANUARY}&group=key&limit=1")
        assert {row["key_id"] for row in rows} == {caller["id"], reader["id"]}
    async with control.as_key(caller["secret"]) as client:  # without the scope
        assert (await client.get("/v1/usage")).status_code == 401
    refused = await control.client.get("/v1/usage")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "project_key_needed")


def price_at(prices: Iterable[control_pb2.Price], kind: str, unix_ms: int) -> control_pb2.Price:
    """Return the price that holds, as control.proto says: of several the latest that has begun."""
    begun = [price for price in prices if price.kind == kind and price.from_unix_ms <= unix_ms]
    return max(begun, key=lambda price: price.from_unix_ms)


def priced(body: bytes, prices: Iterable[control_pb2.Price]) -> bytes:
    """Return the record with the cost that a gateway would write."""
    found = usage_pb2.UsageRecord.FromString(body)
    amounts = [(field.name, value) for field, value in found.amounts.ListFields()]
    used = [(price_at(prices, kind, found.began_unix_ms), amount) for kind, amount in amounts]
    cost = sum((Decimal(price.micros_per_million) * amount / 1_000_000 for price, amount in used), Decimal(0))
    found.cost_micros = int(cost.to_integral_value(ROUND_CEILING))
    found.price_ids.extend(price.id for price, _ in used)
    return found.SerializeToString()


async def test_the_bill_of_a_month_with_a_price_change(control: RunningControl, database_url: str) -> None:
    """Prices change in the middle of January, while a turn runs. One ends in its last millisecond, one in February."""
    project = await control.new_project()
    for kind, per_million, start in (
        ("prompt_text_tokens", "0.40", "2031-01-01T00:00:00Z"),
        ("completion_text_tokens", "1.60", "2031-01-01T00:00:00Z"),
        ("prompt_text_tokens", "0.50", "2031-01-15T12:00:00Z"),
    ):
        await control.post("/prices", {"kind": kind, "per_million": per_million, "from_at": start})
    watcher = Watcher()
    await watcher.catch_up(control.address)
    ends = {
        "old": datetime(2031, 1, 15, 12, 0, 0, 999_000, tzinfo=UTC),  # each takes a second
        "new": datetime(2031, 1, 15, 12, 0, 1, tzinfo=UTC),
        "last": datetime(2031, 1, 31, 23, 59, 59, 999_000, tzinfo=UTC),
        "next": datetime(2031, 2, 1, tzinfo=UTC),
    }
    amounts = {"prompt_text_tokens": 1_000_003, "completion_text_tokens": 500_000}
    bodies = [record(turn, end, amounts, project_id=project) for turn, end in ends.items()]
    await add(database_url, [priced(body, watcher.prices) for body in bodies])

    # 1,000,003 at 0.40 and 500,000 at 1.60 of a million, in millionths, rounded up: 400,001.2 + 800,000 → 1,200,002.
    # At 0.50: 500,001.5 + 800,000 → 1,300,002.
    (january,) = await pages(control.client, f"/admin/v1/usage?{JANUARY}&group=project&project={project}")
    assert (january["requests"], january["cost_micros"], january["cost"]) == (3, 3_800_006, "3.800006")
    (february,) = await pages(control.client, f"/admin/v1/usage?from=2031-02-01&group=&project={project}")
    assert (february["requests"], february["cost"]) == (1, "1.300002")
    days = await pages(control.client, f"/admin/v1/usage?from=2031-01-01&group=day&project={project}")
    assert [(row["day"], row["cost_micros"]) for row in days] == [
        ("2031-01-15", 2_500_004), ("2031-01-31", 1_300_002), ("2031-02-01", 1_300_002),
    ]  # fmt: skip
    assert sum(row["cost_micros"] for row in days) == january["cost_micros"] + february["cost_micros"]


async def test_quotas_count_the_day_and_month_of_utc(database_url: str) -> None:
    now = [datetime(2031, 1, 31, 23, 59, tzinfo=UTC)]
    mixed = {
        "prompt_text_tokens": 1, "prompt_audio_tokens": 2, "prompt_image_tokens": 4, "prompt_video_tokens": 8,
        "completion_text_tokens": 16, "completion_audio_tokens": 32, "cached_tokens": 1000, "reasoning_tokens": 1000,
        "audio_in_ms": 100, "audio_out_ms": 11,
    }  # fmt: skip
    async with migrated(database_url) as database:
        used = UsedSums(database, lambda: now[0])
        assert [each.as_of for each in await used.of(["org_1"])] == [None]
        await UsageLedger(database).add(
            [
                record("first", datetime(2031, 1, 1, tzinfo=UTC), mixed, cost_micros=5),
                record("today", datetime(2031, 1, 31, tzinfo=UTC), mixed, cost_micros=7, key_id="key_2"),
                record("before", datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC), mixed),
            ]
        )
        one, two = Used(1, 63, 111, 7), Used(2, 126, 222, 12)
        found = {each.subject: each for each in await used.of(["key_1", "key_2", "proj_1", "org_1", "org_2", "org_1"])}
        assert {subject: (each.day, each.month) for subject, each in found.items()} == {
            "key_1": (Used(), Used(1, 63, 111, 5)),
            "key_2": (one, one),
            "proj_1": (one, two),
            "org_1": (one, two),
            "org_2": (Used(), Used()),
        }
        assert found["org_2"].as_of == datetime(2031, 1, 31, tzinfo=UTC)
        now[0] += timedelta(minutes=1)
        assert [(each.day, each.month) for each in await used.of(["org_1"])] == [(Used(), Used())]
        with pytest.raises(BadInput, match="is no id"):
            await used.of(["acme"])


async def test_gateways_ask_for_used_sums(control: RunningControl, database_url: str) -> None:
    ended = datetime.now(UTC).replace(microsecond=0)
    await add(database_url, [record("turn", ended)])
    async with grpc.aio.insecure_channel(control.address) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        asked = control_pb2.GetUsedRequest(subjects=["key_1", "proj_2"])
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetUsed(asked, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = await stub.GetUsed(asked, metadata=METADATA)
        assert [each.subject for each in answer.used] == ["key_1", "proj_2"]
        assert {each.as_of_unix_ms for each in answer.used} == {round(ended.timestamp() * 1000)}
        if datetime.now(UTC).date() == ended.date():  # not over midnight
            assert answer.used[0].day == answer.used[0].month == control_pb2.Used(requests=1, tokens=15)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetUsed(control_pb2.GetUsedRequest(subjects=["acme"]), metadata=METADATA)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
