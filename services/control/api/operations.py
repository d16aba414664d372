"""The operations of the Admin API: each translates a request into a call of the tenancy, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from services.control.api import schema
from services.control.api.operation import BASE, Call, Operation, StatusAndBody
from services.control.api.terms_operations import price_operations, terms_operations
from services.control.api.usage_operations import usage_operations
from services.control.tenancy.admin_keys import AdminKeys
from services.control.tenancy.api_keys import ApiKeys
from services.control.tenancy.audit import AuditLog
from services.control.tenancy.organisations import Organisations, Projects
from services.control.tenancy.prices import Prices
from services.control.tenancy.terms import TermsBook
from services.control.usage.report import UsageReport

R = TypeVar("R", bound=schema.Reply)


@dataclass(frozen=True, slots=True)
class Tenancy:
    organisations: Organisations
    projects: Projects
    keys: ApiKeys
    admin_keys: AdminKeys
    audit: AuditLog
    terms: TermsBook
    prices: Prices
    usage: UsageReport


def operations(tenancy: Tenancy) -> list[Operation]:
    """Return all operations. Lists are ordered by age."""
    return [
        *_organisations(tenancy),
        *_projects(tenancy),
        *_keys(tenancy),
        *terms_operations(tenancy.terms),
        *price_operations(tenancy.prices),
        *usage_operations(tenancy.usage),
        *_operators(tenancy),
    ]


def _organisations(tenancy: Tenancy) -> list[Operation]:
    async def create(call: Call) -> StatusAndBody:
        made, is_new = await tenancy.organisations.create(call.caller.actor, call.body.name)
        return 201 if is_new else 200, schema.OrganisationReply.model_validate(made)

    async def list_all(call: Call) -> StatusAndBody:
        rows, more = await tenancy.organisations.list(call.query.after, call.query.limit, call.query.name)
        return 200, schema.page_of(schema.OrganisationReply, rows, more)

    async def get(call: Call) -> StatusAndBody:
        return 200, schema.OrganisationReply.model_validate(await tenancy.organisations.get(call.ids["id"]))

    async def archive(call: Call) -> StatusAndBody:
        ended = await tenancy.organisations.archive(call.caller.actor, call.ids["id"])
        return 200, schema.OrganisationReply.model_validate(ended)

    reply, page = schema.OrganisationReply, schema.Page[schema.OrganisationReply]
    path = f"{BASE}/organisations"
    return [
        Operation(
            "createOrganisation", "POST", path, "Create an organisation, or return the one of that name (200)",
            create, {201: reply, 200: reply}, body=schema.NewOrganisation, errors=(409,),
        ),
        Operation(
            "listOrganisations", "GET", path, "List organisations", list_all, {200: page}, query=schema.NamedPaging
        ),
        Operation("getOrganisation", "GET", f"{path}/{{id}}", "Get an organisation", get, {200: reply}, errors=(404,)),
        Operation(
            "archiveOrganisation", "POST", f"{path}/{{id}}/archive", "Stop all keys of an organisation, for good",
            archive, {200: reply}, errors=(404,),
        ),
    ]  # fmt: skip


def _projects(tenancy: Tenancy) -> list[Operation]:
    async def create(call: Call) -> StatusAndBody:
        made, is_new = await tenancy.projects.create(
            call.caller.actor, call.ids["id"], call.body.name, call.body.tenant
        )
        return 201 if is_new else 200, schema.ProjectReply.model_validate(made)

    async def list_all(call: Call) -> StatusAndBody:
        query = call.query
        rows, more = await tenancy.projects.list(call.ids["id"], query.after, query.limit, query.name)
        return 200, schema.page_of(schema.ProjectReply, rows, more)

    async def get(call: Call) -> StatusAndBody:
        call.caller.check_may_read(call.ids["id"])
        return 200, schema.ProjectReply.model_validate(await tenancy.projects.get(call.ids["id"]))

    async def archive(call: Call) -> StatusAndBody:
        ended = await tenancy.projects.archive(call.caller.actor, call.ids["id"])
        return 200, schema.ProjectReply.model_validate(ended)

    reply, page = schema.ProjectReply, schema.Page[schema.ProjectReply]
    path, path_of_all = f"{BASE}/projects/{{id}}", f"{BASE}/organisations/{{id}}/projects"
    return [
        Operation(
            "createProject", "POST", path_of_all,
            "Create a project of an organisation, or return the one of that name (200)",
            create, {201: reply, 200: reply}, body=schema.NewProject, errors=(404, 409),
        ),
        Operation(
            "listProjects", "GET", path_of_all, "List an organisation's projects",
            list_all, {200: page}, query=schema.NamedPaging, errors=(404,),
        ),
        Operation("getProject", "GET", path, "Get a project", get, {200: reply}, errors=(404,), for_projects=True),
        Operation(
            "archiveProject", "POST", f"{path}/archive", "Stop all keys of a project, for good",
            archive, {200: reply}, errors=(404,),
        ),
    ]  # fmt: skip


def _keys(tenancy: Tenancy) -> list[Operation]:
    async def create(call: Call) -> StatusAndBody:
        new = call.body
        made, secret = await tenancy.keys.create(
            call.caller.actor, call.ids["id"], new.name, set(new.scopes), new.expires_at
        )
        return 201, _with_secret(schema.NewKeyReply, made, secret)

    async def list_all(call: Call) -> StatusAndBody:
        call.caller.check_may_read(call.ids["id"])
        query = call.query
        rows, more = await tenancy.keys.list(call.ids["id"], query.after, query.limit, query.prefix)
        return 200, schema.page_of(schema.KeyReply, rows, more)

    async def find(call: Call) -> StatusAndBody:
        return 200, schema.page_of(schema.KeyReply, await tenancy.keys.find(call.query.prefix), more=False)

    async def get(call: Call) -> StatusAndBody:
        return 200, schema.KeyReply.model_validate(await tenancy.keys.get(call.ids["id"]))

    async def rotate(call: Call) -> StatusAndBody:
        made, secret, old = await tenancy.keys.rotate(
            call.caller.actor, call.ids["id"], call.body.overlap_s, call.body.expires_at
        )
        return 201, _with_secret(schema.RotationReply, made, secret, replaces=schema.KeyReply.model_validate(old))

    async def revoke(call: Call) -> StatusAndBody:
        return 200, schema.KeyReply.model_validate(await tenancy.keys.revoke(call.caller.actor, call.ids["id"]))

    reply, page = schema.KeyReply, schema.Page[schema.KeyReply]
    path, path_of_all = f"{BASE}/keys", f"{BASE}/projects/{{id}}/keys"
    return [
        Operation(
            "createKey", "POST", path_of_all, "Create a key of a project. The answer alone holds the key itself",
            create, {201: schema.NewKeyReply}, body=schema.NewKey, errors=(404, 409),
        ),
        Operation(
            "listKeys", "GET", path_of_all, "List a project's keys, also revoked ones",
            list_all, {200: page}, query=schema.KeyPaging, errors=(404,), for_projects=True,
        ),
        Operation("findKeys", "GET", path, "Find a key by its public part", find, {200: page}, query=schema.KeySearch),
        Operation("getKey", "GET", f"{path}/{{id}}", "Get a key", get, {200: reply}, errors=(404,)),
        Operation(
            "rotateKey", "POST", f"{path}/{{id}}/rotate", "Make the successor of a key, and let the old one expire",
            rotate, {201: schema.RotationReply}, body=schema.Rotation, errors=(404, 409),
        ),
        Operation(
            "revokeKey", "POST", f"{path}/{{id}}/revoke", "Stop a key, for good", revoke, {200: reply}, errors=(404,)
        ),
    ]  # fmt: skip


def _operators(tenancy: Tenancy) -> list[Operation]:
    async def create(call: Call) -> StatusAndBody:
        made, secret = await tenancy.admin_keys.create(call.caller.actor, call.body.name, call.body.expires_at)
        return 201, _with_secret(schema.NewAdminKeyReply, made, secret)

    async def list_all(call: Call) -> StatusAndBody:
        rows, more = await tenancy.admin_keys.list(call.query.after, call.query.limit)
        return 200, schema.page_of(schema.AdminKeyReply, rows, more)

    async def revoke(call: Call) -> StatusAndBody:
        ended = await tenancy.admin_keys.revoke(call.caller.actor, call.ids["id"])
        return 200, schema.AdminKeyReply.model_validate(ended)

    async def audit(call: Call) -> StatusAndBody:
        query = call.query
        rows, more = await tenancy.audit.list(
            after=query.after, limit=query.limit, order=query.order, action=query.action, target=query.target
        )
        return 200, schema.page_of(schema.AuditReply, rows, more)

    path = f"{BASE}/admin_keys"
    return [
        Operation(
            "createAdminKey", "POST", path, "Create an admin key. The answer alone holds the key itself",
            create, {201: schema.NewAdminKeyReply}, body=schema.NewAdminKey, errors=(409,),
        ),
        Operation(
            "listAdminKeys", "GET", path, "List admin keys, also revoked ones",
            list_all, {200: schema.Page[schema.AdminKeyReply]}, query=schema.Paging,
        ),
        Operation(
            "revokeAdminKey", "POST", f"{path}/{{id}}/revoke", "Stop an admin key, for good",
            revoke, {200: schema.AdminKeyReply}, errors=(404,),
        ),
        Operation(
            "listAudit", "GET", f"{BASE}/audit", "List what was done, and which admin keys were refused",
            audit, {200: schema.Page[schema.AuditReply]}, query=schema.AuditPaging,
        ),
    ]  # fmt: skip


def _with_secret(reply: type[R], row: object, secret: str, **more: Any) -> R:
    shown = {name: getattr(row, name) for name in reply.model_fields if hasattr(row, name)}
    return reply.model_validate({**shown, "secret": secret, **more})
