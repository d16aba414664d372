"""Terms and prices: what an operator sets, and what gateways are told of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from antiphon.v1 import control_pb2, usage_pb2
from services.common.limit_kinds import LimitKind
from services.common.usage_sums import decimal_text
from services.control.tenancy.prices import PriceKind
from tests.control.conftest import RunningControl, opened, running_control
from tests.control.watching import Watcher

LIMITS = {
    "requests_per_minute": {"amount": 60, "passes_without_redis": False},
    "money_per_month": {"amount": 250_000_000, "passes_without_redis": True},
}
LATER = "2031-01-01T00:00:00Z"


def test_kinds_are_those_of_the_wire() -> None:
    wire = [name.removeprefix("LIMIT_KIND_").lower() for name, _ in control_pb2.LimitKind.items()]
    assert [kind.value for kind in LimitKind] == wire[1:]
    assert set(get_args(PriceKind)) == {"requests", *(field.name for field in usage_pb2.Amounts.DESCRIPTOR.fields)}


async def test_terms_are_replaced_and_gateways_hear_of_it(control: RunningControl) -> None:
    project = await control.new_project()
    organisation = (await control.get(f"/projects/{project}"))["organisation_id"]
    key = await control.new_key(project)
    watcher = Watcher()
    await watcher.catch_up(control.address)
    assert (watcher.keys[key["id"]].project_id, watcher.keys[key["id"]].organisation_id) == (project, organisation)
    assert (watcher.terms, watcher.prices) == ({}, [])
    path = f"/projects/{project}/terms"
    assert (await control.get(path))["updated_at"] is None
    given = {
        "limits": LIMITS, "models": ["omni"], "voices": ["chelsie", "ethan"],
        "weight": 2.5, "priority": 1, "max_slots": 8, "max_share": 0.5,
    }  # fmt: skip
    put = await control.put(path, given)
    assert {name: put[name] for name in given} == given
    assert await control.get(path) == put
    await control.put(f"/keys/{key['id']}/terms", {"limits": {"concurrent_requests": {"amount": 2}}})
    await control.put(f"/organisations/{organisation}/terms", {"voices": ["ethan"]})
    (change,) = await watcher.catch_up(control.address)
    assert not change.snapshot
    assert not change.has_prices
    terms = watcher.terms[project]
    assert [(limit.kind, limit.amount, limit.passes_without_redis) for limit in terms.limits] == [
        (control_pb2.LIMIT_KIND_MONEY_PER_MONTH, 250_000_000, True),
        (control_pb2.LIMIT_KIND_REQUESTS_PER_MINUTE, 60, False),
    ]
    assert (terms.weight, terms.priority, terms.max_slots, terms.max_share) == (2.5, 1, 8, 0.5)
    assert (list(terms.models), list(terms.voices)) == (["omni"], ["chelsie", "ethan"])
    assert set(watcher.terms) == {project, key["id"], organisation}

    await control.put(path, {})
    (change,) = await watcher.catch_up(control.address)
    assert (list(change.put_terms), list(change.removed_term_subjects)) == ([], [project])
    late = Watcher()
    await late.catch_up(control.address)
    assert set(late.terms) == set(watcher.terms) == {key["id"], organisation}
    assert [entry["target"] for entry in (await control.get("/audit?order=asc&action=terms.set"))["data"]] == [
        project, key["id"], organisation, project,
    ]  # fmt: skip


async def test_the_same_terms_again_change_nothing(control: RunningControl) -> None:
    path = f"/projects/{await control.new_project()}/terms"
    first = await control.put(path, {"limits": LIMITS, "models": ["b", "a", "a"]})
    watcher = Watcher()
    await watcher.catch_up(control.address)
    before = watcher.version
    again = await control.put(path, {"models": ["a", "b"], "limits": LIMITS})
    assert again["updated_at"] == first["updated_at"]
    await control.put(path, {})
    await watcher.catch_up(control.address)
    assert watcher.version == before + 1
    assert len((await control.get("/audit?action=terms.set"))["data"]) == 2


async def test_a_rotated_key_keeps_its_limits(control: RunningControl) -> None:
    old = await control.new_key(await control.new_project())
    await control.put(f"/keys/{old['id']}/terms", {"limits": LIMITS})
    new = await control.post(f"/keys/{old['id']}/rotate", {})
    assert (await control.get(f"/keys/{new['id']}/terms"))["limits"] == LIMITS
    watcher = Watcher()
    await watcher.catch_up(control.address)
    assert watcher.terms[new["id"]].limits == watcher.terms[old["id"]].limits


async def test_many_terms_come_in_several_messages(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.control.servicer.KEYS_A_MESSAGE", 2)
    async with running_control(sqlite_url) as control:
        project = await control.new_project()
        keys = [await control.new_key(project, f"key {number}") for number in range(5)]
        for key in keys:
            await control.put(f"/keys/{key['id']}/terms", {"limits": LIMITS})
        await control.post("/prices", {"kind": "requests", "per_million": "1"})
        watcher = Watcher()
        assert len(await watcher.catch_up(control.address)) == 3
        assert set(watcher.terms) == {key["id"] for key in keys}
        assert len(watcher.prices) == 1


WRONG: list[tuple[str, Any, int, str | None]] = [
    ("/projects/{proj}/terms", {"limits": {"requests_per_hour": {"amount": 1}}}, 400, "limits.requests_per_hour"),
    ("/projects/{proj}/terms", {"limits": {"requests_per_day": {"amount": -1}}}, 400, "limits.requests_per_day.amount"),
    ("/projects/{proj}/terms", {"limits": {"requests_per_day": {}}}, 400, "limits.requests_per_day.amount"),
    ("/projects/{proj}/terms", {"limits": {"requests_per_day": 1}}, 400, "limits.requests_per_day"),
    ("/projects/{proj}/terms", {"weight": 0}, 400, "weight"),
    ("/projects/{proj}/terms", {"priority": 4}, 400, "priority"),
    ("/projects/{proj}/terms", {"max_share": 1.5}, 400, "max_share"),
    ("/projects/{proj}/terms", {"models": [""]}, 400, "models[0]"),
    ("/projects/{proj}/terms", {"voices": ["a"] * 101}, 400, "voices"),
    ("/keys/{key}/terms", {"weight": 2}, 400, "weight"),
    ("/organisations/{org}/terms", {"max_slots": 2}, 400, "max_slots"),
    ("/organisations/{proj}/terms", {}, 404, None),
    ("/projects/{key}/terms", {}, 404, None),
    ("/keys/key_{none}/terms", {}, 404, None),
]
WRONG_PRICES: list[tuple[dict[str, Any], int, str]] = [
    ({"kind": "minutes"}, 400, "kind"),
    ({"per_million": 0.4}, 400, "per_million"),
    ({"per_million": "-1"}, 400, "per_million"),
    ({"per_million": "0.0000001"}, 400, "per_million"),
    ({"per_million": "NaN"}, 400, "per_million"),
    ({"per_million": "1e99"}, 400, "per_million"),
    ({"from_at": "2020-01-01T00:00:00Z"}, 400, "from_at"),
    ({"from_at": "2031-01-01T00:00:00"}, 400, "from_at"),
    ({"model": "a\nb"}, 400, "model"),
    ({"from_at": LATER, "per_million": "0.5"}, 409, "from_at"),
]


async def test_wrong_terms_and_prices_are_named_and_change_nothing(control: RunningControl) -> None:
    project = await control.new_project()
    organisation = (await control.get(f"/projects/{project}"))["organisation_id"]
    key = (await control.new_key(project))["id"]
    price = {"kind": "requests", "per_million": "0.4"}
    await control.post("/prices", price | {"from_at": LATER})
    before = (await control.get("/audit"))["data"]
    names = {"{proj}": project, "{org}": organisation, "{key}": key, "{none}": "0" * 32}
    for path, body, status, param in WRONG:
        for name, id in names.items():
            path = path.replace(name, id)
        answer = await control.client.put(f"/admin/v1{path}", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), (path, body, answer.text)
    for body, status, param in WRONG_PRICES:
        answer = await control.client.post("/admin/v1/prices", json=price | body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), (body, answer.text)
    assert (await control.get("/audit"))["data"] == before


async def test_a_later_price_supersedes_and_none_is_changed(control: RunningControl, database_url: str) -> None:
    watcher = Watcher()
    await watcher.catch_up(control.address)
    before = datetime.now(UTC)
    first = await control.post("/prices", {"kind": "prompt_text_tokens", "per_million": "0.40"})
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(first["from_at"]) <= datetime.now(UTC)
    assert (first["per_million"], first["micros_per_million"], first["model"]) == ("0.4", 400_000, "")
    later = {"kind": "prompt_text_tokens", "per_million": "1234567.654321", "model": "omni", "from_at": LATER}
    assert (await control.post("/prices", later, status=400))["error"]["param"] == "per_million"
    later["per_million"] = "0.654321"
    second = await control.post("/prices", later)
    assert await control.post("/prices", later, status=200) == second
    (change,) = await watcher.catch_up(control.address)
    assert change.has_prices
    assert [(price.id, price.model, price.micros_per_million, price.from_unix_ms) for price in watcher.prices] == [
        (first["id"], "", 400_000, round(datetime.fromisoformat(first["from_at"]).timestamp() * 1000)),
        (second["id"], "omni", 654_321, round(datetime.fromisoformat(LATER).timestamp() * 1000)),
    ]
    assert [row["id"] for row in (await control.get("/prices"))["data"]] == [first["id"], second["id"]]
    assert [row["id"] for row in (await control.get("/prices?model=omni"))["data"]] == [second["id"]]
    assert [row["id"] for row in (await control.get("/prices?model="))["data"]] == [first["id"]]
    assert [row["detail"]["micros_per_million"] for row in (await control.get("/audit?action=price.add"))["data"]] == [
        654_321, 400_000,
    ]  # fmt: skip
    async with opened(database_url) as database:
        for statement in ("DELETE FROM prices", "UPDATE prices SET micros_per_million = 1"):
            with pytest.raises(DBAPIError, match="append-only"):
                async with database.writing() as connection:
                    await connection.execute(text(statement))


def test_money_is_shown_exactly() -> None:
    assert [decimal_text(micros) for micros in (0, 1, 400_000, 1_000_000, 10_000_000, 123_456_789_012)] == [
        "0", "0.000001", "0.4", "1", "10", "123456.789012",
    ]  # fmt: skip
