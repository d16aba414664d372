"""The Admin API, over HTTP. The client of the fixture compares every answer with the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.common.key_scopes import DEFAULT_SCOPES
from services.control.store.models import Base
from services.control.tenancy import audit
from tests.control.conftest import ADMIN_KEY, RunningControl, opened, running_control


async def test_a_key_is_shown_once_and_found_by_its_prefix(control: RunningControl) -> None:
    project = await control.new_project()
    made = await control.new_key(project)
    assert made["secret"].startswith(made["prefix"] + "_")
    assert set(made["scopes"]) == set(DEFAULT_SCOPES)
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert await control.get(f"/keys/{made['id']}") == shown
    assert (await control.get(f"/projects/{project}/keys"))["data"] == [shown]
    assert (await control.get(f"/keys?prefix={made['prefix']}"))["data"] == [shown]
    assert (await control.get("/keys?prefix=ap_unknown"))["data"] == []


async def test_no_secret_is_stored(control: RunningControl, database_url: str) -> None:
    project = await control.new_project()
    first = await control.new_key(project)
    second = await control.post(f"/keys/{first['id']}/rotate", {})
    admin = await control.post("/admin_keys", {"name": "second operator"})
    async with control.as_key("ap_abcdefghij_a-secret-that-nobody-made") as stranger:
        assert (await stranger.get("/admin/v1/organisations")).status_code == 401
    secrets = [each["secret"] for each in (first, second, admin)] + [ADMIN_KEY, "a-secret-that-nobody-made"]
    async with opened(database_url) as database, database.reading() as connection:
        for table in Base.metadata.sorted_tables:
            stored = repr((await connection.execute(table.select())).all())
            assert not [secret for secret in secrets if secret.rpartition("_")[2] in stored], table.name


async def test_creation_is_idempotent_by_name(control: RunningControl) -> None:
    first = await control.post("/organisations", {"name": "acme"})
    assert await control.post("/organisations", {"name": "acme"}, status=200) == first
    path = f"/organisations/{first['id']}/projects"
    project = await control.post(path, {"name": "prod"})
    assert project["tenant"] == "acme.prod"
    assert await control.post(path, {"name": "prod"}, status=200) == project
    assert (await control.post(path, {"name": "prod", "tenant": "x"}, status=409))["error"]["param"] == "tenant"
    assert (await control.post(path, {"name": "test", "tenant": "acme.prod"}, status=409))["error"]["param"] == "tenant"
    await control.new_key(project["id"])
    refused = (await control.post(f"/projects/{project['id']}/keys", {"name": "first"}, status=409))["error"]
    assert (refused["code"], refused["param"]) == ("name_taken", "name")
    assert len((await control.get(f"/projects/{project['id']}/keys"))["data"]) == 1
    assert [entry["action"] for entry in (await control.get("/audit?order=asc"))["data"]] == [
        "admin_key.create", "organisation.create", "project.create", "key.create",
    ]  # fmt: skip


async def test_pages_follow_each_other(control: RunningControl) -> None:
    names = [f"org-{number:02}" for number in range(7)]
    for name in names:
        await control.post("/organisations", {"name": name})
    for path, name_of, wanted in (
        ("/organisations?", lambda row: row["name"], names),
        ("/audit?order=asc&action=organisation.create&", lambda row: row["detail"]["name"], names),
        ("/audit?action=organisation.create&", lambda row: row["detail"]["name"], names[::-1]),
    ):
        found: list[str] = []
        after = ""
        while True:
            page = await control.get(f"{path}limit=3{after}")
            found += map(name_of, page["data"])
            assert page["has_more"] == (page["next_after"] is not None)
            if not page["has_more"]:
                break
            after = f"&after={page['next_after']}"
        assert sorted(found) == sorted(wanted)
        assert len(found) == len(names)
    assert [row["name"] for row in (await control.get("/organisations"))["data"]] == found[::-1]


async def test_two_projects_cannot_see_each_other(control: RunningControl) -> None:
    mine, theirs = await control.new_project("acme", "prod"), await control.new_project("corp", "prod")
    reader = await control.new_key(mine, "reader", scopes=["admin_read"])
    other = await control.new_key(theirs)
    async with control.as_key(reader["secret"]) as client:
        assert (await client.get(f"/admin/v1/projects/{mine}")).json()["tenant"] == "acme.prod"
        assert [row["id"] for row in (await client.get(f"/admin/v1/projects/{mine}/keys")).json()["data"]] == [
            reader["id"]
        ]
        hidden = await client.get(f"/admin/v1/projects/{theirs}")
        absent = await client.get(f"/admin/v1/projects/{theirs[:-4]}0000")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace(theirs, "") == absent.text.replace(f"{theirs[:-4]}0000", "")
        for more in ("keys", "terms"):
            assert (await client.get(f"/admin/v1/projects/{mine}/{more}")).status_code == 200
            assert (await client.get(f"/admin/v1/projects/{theirs}/{more}")).status_code == 404
        described = (await client.get("/openapi.json")).json()
        for path, methods in described["paths"].items():
            for method in methods:
                if method == "get" and path in OF_PROJECTS:
                    continue
                for id in (theirs, other["id"]):
                    answer = await client.request(method, path.replace("{id}", id), json={})
                    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_key_needed")
    async with control.as_key(other["secret"]) as client:  # without the scope
        for path, methods in described["paths"].items():
            for method in methods:
                answer = await client.request(method, path.replace("{id}", theirs), json={})
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path


async def test_a_rotated_key_overlaps_with_its_successor(control: RunningControl) -> None:
    project = await control.new_project()
    old = await control.new_key(project, scopes=["chat"])
    before = datetime.now(UTC)
    new = await control.post(f"/keys/{old['id']}/rotate", {"overlap_s": 600})
    assert (new["name"], new["scopes"], new["expires_at"]) == (old["name"], ["chat"], None)
    assert new["replaces"]["rotated_to"] == new["id"]
    ends_at = datetime.fromisoformat(new["replaces"]["expires_at"])
    assert before + timedelta(seconds=600) <= ends_at <= datetime.now(UTC) + timedelta(seconds=600)
    again = (await control.post(f"/keys/{old['id']}/rotate", {}, status=409))["error"]
    assert again["code"] == "key_rotated"
    assert new["id"] in again["message"]
    newest = await control.post(f"/keys/{new['id']}/rotate", {"overlap_s": 0})
    await control.post(f"/keys/{newest['id']}/revoke", status=200)
    assert (await control.post(f"/keys/{newest['id']}/rotate", {}, status=409))["error"]["code"] == "key_revoked"
    await control.new_key(project)  # the name is free again


async def test_revoking_twice_changes_nothing(control: RunningControl) -> None:
    made = await control.new_key(await control.new_project())
    first = await control.post(f"/keys/{made['id']}/revoke", status=200)
    assert first["revoked_at"] is not None
    assert await control.post(f"/keys/{made['id']}/revoke", status=200) == first
    assert len((await control.get("/audit?action=key.revoke"))["data"]) == 1


async def test_an_archived_project_gets_no_keys(control: RunningControl) -> None:
    project = await control.new_project()
    organisation = (await control.get(f"/projects/{project}"))["organisation_id"]
    key = await control.new_key(project)
    await control.post(f"/projects/{project}/archive", status=200)
    for path, body in (
        (f"/projects/{project}/keys", {"name": "x"}),
        (f"/keys/{key['id']}/rotate", {}),
        (f"/organisations/{organisation}/projects", {"name": "prod"}),
    ):
        await control.post(path, body, status=409)
    await control.post(f"/organisations/{organisation}/archive", status=200)
    await control.post(f"/organisations/{organisation}/projects", {"name": "new"}, status=409)
    await control.post("/organisations", {"name": "acme"}, status=409)


OF_PROJECTS = (
    "/admin/v1/projects/{id}",
    "/admin/v1/projects/{id}/keys",
    "/admin/v1/projects/{id}/terms",
    "/v1/usage",
)
LATE = "2500-01-01T00:00:00+00:00"
WRONG: list[tuple[str, Any, int, str | None]] = [
    ("/organisations", {}, 400, "name"),
    ("/organisations", {"name": "Acme & Co"}, 400, "name"),
    ("/organisations", {"name": "a" * 32}, 400, "name"),
    ("/organisations", {"name": 1}, 400, "name"),
    ("/organisations", {"name": "a", "plan": "gold"}, 400, "plan"),
    ("/organisations", [], 400, None),
    ("/organisations/{org}/projects", {"name": "a", "tenant": "other"}, 400, "tenant"),
    ("/organisations/{org}/projects", {"name": "a", "tenant": "default"}, 400, "tenant"),
    ("/projects/{proj}/keys", {"name": "a", "scopes": []}, 400, "scopes"),
    ("/projects/{proj}/keys", {"name": "a", "scopes": ["root"]}, 400, "scopes[0]"),
    ("/projects/{proj}/keys", {"name": "a\0"}, 400, "name"),
    ("/projects/{proj}/keys", {"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
    ("/projects/{proj}/keys", {"name": "a", "expires_at": "2500-01-01T00:00:00"}, 400, "expires_at"),
    ("/projects/{proj}/keys", {"name": "a", "expires_at": "9999-12-31T23:59:59-12:00"}, 400, "expires_at"),
    ("/projects/{org}/keys", {"name": "a"}, 404, None),
    ("/projects/proj_%00/keys", {"name": "a"}, 404, None),
    ("/keys/{proj}/rotate", {}, 404, None),
    ("/keys/{proj}/revoke", None, 404, None),
    ("/admin_keys", {"name": "bootstrap"}, 409, "name"),
    ("/admin_keys", {"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
]


async def test_wrong_input_is_named_and_changes_nothing(control: RunningControl) -> None:
    project = await control.new_project()
    organisation = (await control.get(f"/projects/{project}"))["organisation_id"]
    before = (await control.get("/audit"))["data"]
    for path, body, status, param in WRONG:
        answer = await control.client.post(
            "/admin/v1" + path.replace("{org}", organisation).replace("{proj}", project), json=body
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), (path, body, answer.text)
    for query in ("limit=0", "limit=201", "limit=x", "before=1", "limit=1&limit=2", "after=%00", "after=%ff"):
        assert (await control.client.get(f"/admin/v1/organisations?{query}")).status_code == 400, query
    for query in ("after=x", f"after={10**30}", "order=up"):
        assert (await control.client.get(f"/admin/v1/audit?{query}")).status_code == 400, query
    for content, code in (
        (b"{", "invalid_json"),
        (b'{"name": "\xff"}', "invalid_json"),
        (b"[]", "invalid_type"),
        (b" " * 65_537, "too_large"),
    ):
        answer = await control.client.post("/admin/v1/organisations", content=content)
        assert answer.json()["error"]["code"] == code
    answer = await control.client.post("/admin/v1/organisations", content=b"a", headers={"content-type": "text/plain"})
    assert answer.json()["error"]["code"] == "invalid_content_type"
    assert (await control.client.put("/admin/v1/organisations")).status_code == 405
    assert (await control.client.get("/admin/v2/organisations")).status_code == 404
    assert (await control.get("/audit"))["data"] == before


async def test_refused_admin_keys_are_in_the_audit_log(
    control: RunningControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_REFUSED_A_MINUTE", 4)
    api_key = await control.new_key(await control.new_project())
    revoked = await control.post("/admin_keys", {"name": "operator"})
    await control.post(f"/admin_keys/{revoked['id']}/revoke", status=200)
    bearers = [f"Bearer {secret}" for secret in (revoked["secret"], api_key["secret"], "hunter2")]
    for authorization in (*bearers, "Basic hunter2", "Bearer hunter2"):
        answer = await control.client.get("/admin/v1/organisations", headers={"authorization": authorization})
        assert answer.status_code == 401
        assert answer.headers["x-request-id"].startswith("req_")
    rows = (await control.get("/audit?order=asc&action=admin_key.refused"))["data"]
    assert [(row["actor"], row["detail"]["prefix"], row["detail"]["reason"]) for row in rows] == [
        ("", revoked["prefix"], "unknown, expired or revoked"),
        (api_key["id"], api_key["prefix"], "an API key without the scope admin_read"),
        ("", "", "unknown, expired or revoked"),  # what is not in our form may be a password
        ("", "", "no key"),
    ]
    assert {row["remote"] for row in rows} == {"127.0.0.1"}


async def test_the_audit_log_is_append_only(control: RunningControl, database_url: str) -> None:
    await control.new_project()
    async with opened(database_url) as database:
        for statement in ("DELETE FROM audit_log", "UPDATE audit_log SET actor = 'nobody'"):
            with pytest.raises(DBAPIError, match="append-only"):
                async with database.writing() as connection:
                    await connection.execute(text(statement))
    assert len((await control.get("/audit"))["data"]) == 3


async def test_another_bootstrap_key_replaces_the_first(database_url: str) -> None:
    other = "another-admin-key-of-the-tests-0123456789"
    async with running_control(database_url):
        pass
    async with running_control(database_url, bootstrap_admin_key=other) as control:
        assert (await control.client.get("/admin/v1/organisations")).status_code == 401
        async with control.as_key(other) as client:
            keys = (await client.get("/admin/v1/admin_keys")).json()["data"]
            assert [key["revoked_at"] is None for key in keys] == [False, True]
            await client.post(f"/admin/v1/admin_keys/{keys[1]['id']}/revoke")
            assert (await client.get("/admin/v1/admin_keys")).status_code == 401
    async with running_control(database_url, bootstrap_admin_key=other) as control, control.as_key(other) as client:
        assert (await client.get("/admin/v1/admin_keys")).status_code == 401  # revoked keys stay so


async def test_health_and_the_document_need_no_key(control: RunningControl) -> None:
    async with control.as_key("none") as client:
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await client.get(path)).json() == {"status": "ok"}
        described = (await client.get("/openapi.json")).json()
    names = [each["operationId"] for methods in described["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names)) == 28
