"""Who calls the Admin API: an admin key, or an API key that may read its own project."""

from __future__ import annotations

from services.common.errors import Unauthenticated
from services.common.key_prefixes import public_part
from services.common.key_scopes import Scope
from services.control.api.operation import Caller
from services.control.tenancy.admin_keys import AdminKeys
from services.control.tenancy.api_keys import ApiKeys
from services.control.tenancy.audit import Actor, AuditLog

_LONGEST_HEADER = 4096


class Callers:
    def __init__(self, admin_keys: AdminKeys, keys: ApiKeys, audit: AuditLog) -> None:
        self._admin_keys = admin_keys
        self._keys = keys
        self._audit = audit

    async def caller_of(self, authorization: bytes | None, request_id: str, remote: str, path: str) -> Caller:
        """Return who sent an `authorization` header. Raise Unauthenticated, as the audit log notes, or Unavailable."""
        scheme, _, token = (authorization or b"")[:_LONGEST_HEADER].partition(b" ")
        secret = token.strip().decode("latin-1")
        if authorization is None or scheme.lower() != b"bearer" or not secret:
            await self._audit.refused(Actor("", request_id, remote), "", "no key", path)
            raise Unauthenticated(
                "You didn't provide an admin key. Send it in the header: Authorization: Bearer YOUR_ADMIN_KEY.",
                code="missing_api_key",
            )
        if admin := await self._admin_keys.valid(secret):
            return Caller(Actor(admin.id, request_id, remote))
        key = await self._keys.valid(secret)
        if key is not None and Scope.ADMIN_READ in key.scopes:
            return Caller(Actor(key.id, request_id, remote), key.project_id)
        reason = "unknown, expired or revoked" if key is None else "an API key without the scope admin_read"
        actor = Actor(key.id if key is not None else "", request_id, remote)
        await self._audit.refused(actor, public_part(secret), reason, path)
        raise Unauthenticated("Incorrect admin key provided. Send a valid one: Authorization: Bearer YOUR_ADMIN_KEY.")
