"""`antiphon admin`: organisations, projects, keys, their terms, prices and the audit log, through the Admin API."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from services.cli.acts import ABOUT, add_act, add_common_options, run_act, show, show_secret
from services.cli.admin_client import AdminClient, AdminError
from services.cli.admin_terms import add_limits, add_prices
from services.common.key_scopes import Scope

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_ORGANISATION = ("id", "name", "created_at", "archived_at")
_PROJECT = ("id", "name", "tenant", "created_at", "archived_at")
_KEY = ("id", "name", "prefix", "scopes", "created_at", "expires_at", "revoked_at", "rotated_to")
_ADMIN_KEY = ("id", "name", "prefix", "created_at", "expires_at", "revoked_at")
_AUDIT = ("id", "at", "action", "actor", "target", "remote", "detail")


def add_admin_command(commands: Any) -> None:
    """Add `admin` to the subparsers of `antiphon`."""
    admin = commands.add_parser("admin", help="organisations, projects, API keys and their terms", description=ABOUT)
    add_common_options(admin)
    kinds = admin.add_subparsers(required=True, metavar="KIND")
    _organisations(kinds.add_parser("orgs", help="organisations"))
    _projects(kinds.add_parser("projects", help="projects: the tenants of the queues"))
    _keys(kinds.add_parser("keys", help="API keys"))
    add_limits(kinds.add_parser("limits", help="limits and terms of a key, project or organisation"))
    add_prices(kinds.add_parser("prices", help="what models cost"))
    _admin_keys(kinds.add_parser("admin-keys", help="keys of this API"))
    audit = kinds.add_parser("audit", help="what was done, the latest last")
    audit.add_argument("--action", help="such as key.create")
    audit.add_argument("--target", help="id of what was acted on")
    audit.set_defaults(run=run_act, act=_audit)


def _organisations(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(required=True, metavar="ACT")

    def path(client: AdminClient, options: argparse.Namespace) -> str:
        return f"/organisations/{client.organisation_id(options.org)}"

    add_act(acts, "list", lambda client, o: show(o, client.rows("/organisations"), _ORGANISATION), "list all")
    add_act(
        acts, "create", lambda client, o: show(o, [client.post("/organisations", {"name": o.name})], _ORGANISATION),
        "create one, or show the one of that name", "NAME",
    )  # fmt: skip
    add_act(acts, "get", lambda client, o: show(o, [client.get(path(client, o))], _ORGANISATION), "show one", "ORG")
    add_act(
        acts, "archive", lambda client, o: show(o, [client.post(f"{path(client, o)}/archive")], _ORGANISATION),
        "stop all its keys, for good", "ORG",
    )  # fmt: skip


def _projects(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(required=True, metavar="ACT")

    def path(client: AdminClient, options: argparse.Namespace) -> str:
        return f"/projects/{client.project_id(options.project)}"

    def of_organisation(client: AdminClient, given: str) -> str:
        return f"/organisations/{client.organisation_id(given)}/projects"

    def create(client: AdminClient, options: argparse.Namespace) -> None:
        organisation, slash, name = options.project.partition("/")
        if not slash:
            raise AdminError(f"'{options.project}' is no name of a project: write organisation/project.")
        made = client.post(of_organisation(client, organisation), {"name": name, "tenant": options.tenant})
        show(options, [made], _PROJECT)

    add_act(
        acts, "list", lambda client, o: show(o, client.rows(of_organisation(client, o.org)), _PROJECT),
        "list an organisation's", "ORG",
    )  # fmt: skip
    parser = add_act(acts, "create", create, "create one, or show the one of that name", "PROJECT")
    parser.add_argument("--tenant", help="its name in queues and metrics (default: organisation.project)")
    add_act(acts, "get", lambda client, o: show(o, [client.get(path(client, o))], _PROJECT), "show one", "PROJECT")
    add_act(
        acts, "archive", lambda client, o: show(o, [client.post(f"{path(client, o)}/archive")], _PROJECT),
        "stop all its keys, for good", "PROJECT",
    )  # fmt: skip


def _keys(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(required=True, metavar="ACT")

    def of_project(client: AdminClient, options: argparse.Namespace) -> str:
        return f"/projects/{client.project_id(options.project)}/keys"

    def create(client: AdminClient, options: argparse.Namespace) -> None:
        body = {"name": options.name, "expires_at": _expiry(options)}
        if options.scope:
            body["scopes"] = options.scope
        show_secret(options, client.post(of_project(client, options), body))

    def rotate(client: AdminClient, options: argparse.Namespace) -> None:
        body = {"overlap_s": options.overlap, "expires_at": _expiry(options)}
        show_secret(options, client.post(f"/keys/{options.key}/rotate", body))

    add_act(acts, "list", lambda client, o: show(o, client.rows(of_project(client, o)), _KEY), "a project's", "PROJECT")
    making = add_act(acts, "create", create, "create one; prints the key itself, once", "PROJECT", "NAME")
    making.add_argument(
        "--scope", action="append", choices=[scope.value for scope in Scope],
        help="what it may be used for; repeatable (default: all but admin_read)",
    )  # fmt: skip
    rotating = add_act(acts, "rotate", rotate, "make its successor; prints the new key, once", "KEY")
    rotating.add_argument(
        "--overlap", type=_seconds, default=86400.0, metavar="TIME", help="how long the old key still works (1d)"
    )
    for each in (making, rotating):
        each.add_argument("--expires-in", type=_seconds, metavar="TIME", help="such as 90d, 12h (default: never)")
    add_act(acts, "get", lambda client, o: show(o, [client.get(f"/keys/{o.key}")], _KEY), "show one", "KEY")
    add_act(
        acts, "find", lambda client, o: show(o, client.get("/keys", {"prefix": o.prefix})["data"], _KEY),
        "find one by what is before its last _", "PREFIX",
    )  # fmt: skip
    add_act(
        acts, "revoke", lambda client, o: show(o, [client.post(f"/keys/{o.key}/revoke")], _KEY),
        "stop one, for good", "KEY",
    )  # fmt: skip


def _admin_keys(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(required=True, metavar="ACT")

    def create(client: AdminClient, options: argparse.Namespace) -> None:
        body = {"name": options.name, "expires_at": _expiry(options)}
        show_secret(options, client.post("/admin_keys", body))

    add_act(acts, "list", lambda client, o: show(o, client.rows("/admin_keys"), _ADMIN_KEY), "list all")
    making = add_act(acts, "create", create, "create one; prints the key itself, once", "NAME")
    making.add_argument("--expires-in", type=_seconds, metavar="TIME", help="such as 90d, 12h (default: never)")
    add_act(
        acts, "revoke", lambda client, o: show(o, [client.post(f"/admin_keys/{o.key}/revoke")], _ADMIN_KEY),
        "stop one, for good", "KEY",
    )  # fmt: skip


def _audit(client: AdminClient, options: argparse.Namespace) -> None:
    query = {"order": "asc", "action": options.action, "target": options.target}
    show(options, client.rows("/audit", query), _AUDIT)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: write a number and one of s, m, h, d")
    return float(int(found[1]) * _UNITS_S[found[2]])


def _expiry(options: argparse.Namespace) -> str | None:
    if options.expires_in is None:
        return None
    return (datetime.now(UTC) + timedelta(seconds=options.expires_in)).isoformat()
