"""DashScope's uploads: GET /api/v1/uploads gives a policy, and POST /api/v1/uploads/objects takes a file for it.

The POST shows no API key. Its policy is the authority: it was signed for a key of a tenant, and says which names the
files have and how large each may be.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing

from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput, Conflict, Forbidden, NotFound, TooLarge, Unavailable
from services.common.http.respond import header, send_bytes
from services.common.key_scopes import Scope as KeyScope
from services.gateway.batches.object_store import CHUNK_BYTES, ObjectStore, file_object
from services.gateway.batches.records import USER_DATA, Records
from services.gateway.http.dashscope.uploads.fields import FILE, UploadFields, upload_fields_from
from services.gateway.http.dashscope.uploads.reply import PolicyData, PolicyReply, UploadedReply
from services.gateway.http.files.upload import Upload, upload_limits
from services.gateway.http.form import read_form
from services.gateway.http.query import query_of
from services.gateway.http.reply import Reply
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import Principal
from services.gateway.uploads.files import file_id_of, folder_key, parts_of
from services.gateway.uploads.policy import VALID_S, Policies, UploadPolicy

OBJECTS = "/api/v1/uploads/objects"
_MIB = 1 << 20
_COMPARED_BYTES = 2 * CHUNK_BYTES
"""What comparing a file with one that is there takes at most: a chunk, and what is left of the one before."""
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


class UploadPolicies:
    """GET /api/v1/uploads?action=getPolicy. `policies`: None where the server keeps no files. `url`: what clients reach
    this server at; "" = as each request says. `max_bytes`: of one file."""

    def __init__(
        self, admission: Admission, policies: Policies | None = None, url: str = "", max_bytes: int = 0
    ) -> None:
        self._admission = admission
        self._policies = policies
        self._url = url
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = query_of(scope, "action", "model")
        if query.get("action") != "getPolicy":
            raise BadInput("Invalid 'action': it should be 'getPolicy'.", param="action")
        if self._policies is None:
            raise NotFound(
                "This server keeps no uploaded files. Send media as data: or http(s) URLs. The operator sets"
                " ANTIPHON_OBJECT_STORE_URL, with a control plane.",
                code="uploads_not_served",
            )
        principal: Principal = scope["state"]["principal"]
        model = await self._admission.find(principal, query.get("model") or None)
        policy = self._policies.new(principal, model.name, self._max_bytes)
        encoded, signature = self._policies.signed(policy)
        data = PolicyData(
            policy=encoded,
            signature=signature,
            upload_dir=folder_key(policy.folder),
            upload_host=(self._url.rstrip("/") or _url_of(scope)) + OBJECTS,
            expire_in_seconds=str(VALID_S),
            max_file_size_mb=f"{self._max_bytes / _MIB:g}",
            capacity_limit_mb=f"{self._max_bytes / _MIB:g}",
            oss_access_key_id="antiphon",
        )
        await _send(send, PolicyReply(request_id=scope["state"]["request_id"], data=data))


class PostObject:
    """POST /api/v1/uploads/objects. The file goes into the object store as it arrives, and expires `expiry_s` later.
    `holder_of` returns who asks with a key, given its id and tenant; None = it is not valid any more."""

    def __init__(
        self,
        records: Records,
        store: ObjectStore,
        policies: Policies,
        holder_of: Callable[[str, str], Principal | None],
        limits: RequestLimits,
        memory: GatewayMemory,
        *,
        max_bytes: int,
        expiry_s: int,
    ) -> None:
        self._records = records
        self._store = store
        self._policies = policies
        self._holder_of = holder_of
        self._limits = upload_limits(limits, max_bytes)
        self._memory = memory
        self._expiry_s = expiry_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]

        def allow(fields: UploadFields) -> UploadPolicy:
            policy = self._allowed(fields)
            if "authenticated" in state:
                state["authenticated"]()  # see connections.py
            return policy

        # Of the form's file no more than a piece is here. What the store takes for it counts once the tenant is known.
        async with AsyncExitStack() as stack, self._memory.request("") as memory:
            posted = _Posted(self._records, self._store, self._memory, stack, allow)
            try:
                form = await read_form(scope, receive, self._limits, memory, file_field=FILE, sink=posted)
                policy = posted.policy or allow(upload_fields_from(form.fields))
                posted.check(FILE, is_there=form.file is not None)
                self._check_holder(policy)  # its key may have been revoked while the file came
                await posted.end(self._expiry_s)
            except BaseException as error:
                await asyncio.shield(posted.abandon(error))
                raise
        await _send(send, UploadedReply(request_id=state["request_id"]))

    def _allowed(self, fields: UploadFields) -> UploadPolicy:
        """Return the policy. Raise Forbidden where it does not allow this upload, or not any more."""
        policy = self._policies.verified(fields.policy, fields.signature)
        if policy is None:
            raise Forbidden("The policy's signature is wrong. Send policy and signature as they were given.")
        if self._policies.has_expired(policy):
            raise Forbidden("The policy has expired. Ask for another one.", code="expired_policy")
        self._check_holder(policy)
        parts = parts_of(fields.key)
        if parts is None or parts[0] != policy.folder:
            raise Forbidden(
                f"Invalid 'key': the policy allows names below '{folder_key(policy.folder)}/', of at most 255"
                " characters and without another slash.",
                param="key",
            )
        return policy

    def _check_holder(self, policy: UploadPolicy) -> None:
        holder = self._holder_of(policy.key_id, policy.tenant)
        if holder is None:
            raise Forbidden("The API key that the policy was made for is not valid any more.")
        holder.check_scope(KeyScope.FILES)


class _Posted(Upload):
    """A file that comes once more under its name, as a client sends one that a conversation names twice, is compared
    with the one that is there."""

    def __init__(
        self,
        records: Records,
        store: ObjectStore,
        memory: GatewayMemory,
        stack: AsyncExitStack,
        allow: Callable[[UploadFields], UploadPolicy],
    ) -> None:
        super().__init__(records, store, memory, stack)
        self._allow = allow
        self._largest_bytes = 0
        self._there: _Comparison | None = None
        self.policy: UploadPolicy | None = None
        """Once the file has begun."""

    @property
    def bytes(self) -> int:
        return self._there.bytes if self._there is not None else super().bytes

    async def begin(self, filename: str, fields: Mapping[str, Sequence[str]]) -> None:
        given = upload_fields_from(fields)
        self.policy = policy = self._allow(given)
        self._largest_bytes = policy.max_bytes
        _, name = parts_of(given.key) or ("", "")
        id = file_id_of(policy.tenant, given.key) or ""
        try:
            file = await self.begin_file(policy.tenant, name, USER_DATA, id)
        except Conflict:
            self._there = await self._begun_before(policy.tenant, id)
            return
        if file.id != id:
            raise Unavailable("The control plane is older than this server, and can't take uploads yet.")

    async def write(self, data: bytes) -> None:
        if self.bytes + len(data) > self._largest_bytes:
            raise TooLarge(
                f"Invalid '{FILE}': the file is larger than {self._largest_bytes} bytes. Send less.",
                param=FILE,
                code="media_too_large",
            )
        if self._there is not None:
            await self._there.add(data)
        else:
            await super().write(data)

    async def end(self, expires_after_s: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._there is not None:
            self._there.end()
        else:
            await super().end(expires_after_s)

    async def _begun_before(self, tenant: str, id: str) -> _Comparison:
        try:
            file = await self._records.file(tenant, id)
        except NotFound:  # it is still coming
            raise _exists() from None
        await self.take_memory(tenant, _COMPARED_BYTES - self._store.buffer_bytes)
        chunks = await self._outer.enter_async_context(aclosing(self._store.chunks(file_object(id), 0, file.bytes)))
        return _Comparison(chunks, file.bytes)


class _Comparison:
    """Compares what comes with an object. Raises Conflict where they differ."""

    def __init__(self, chunks: AsyncGenerator[bytes], size_bytes: int) -> None:
        self._chunks = chunks
        self._size_bytes = size_bytes
        self._ahead = bytearray()
        self.bytes = 0

    async def add(self, data: bytes) -> None:
        self.bytes += len(data)
        while len(self._ahead) < len(data) and (chunk := await anext(self._chunks, b"")):
            self._ahead += chunk
        if not self._ahead.startswith(data):
            raise _exists()
        del self._ahead[: len(data)]

    def end(self) -> None:
        if self.bytes != self._size_bytes:
            raise _exists()


def _exists() -> Conflict:
    return Conflict(
        "There is another file with this name already. Ask for another policy, or name the file otherwise.",
        param="key",
        code="file_exists",
    )


def _url_of(scope: Scope) -> str:
    """Return the URL that the client reached this server at. A proxy that ends TLS says so in X-Forwarded-Proto."""
    host = (header(scope, b"host") or b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        raise BadInput("The Host header is missing or invalid.", code="invalid_host")
    forwarded = (header(scope, b"x-forwarded-proto") or b"").decode("latin-1").partition(",")[0].strip().lower()
    scheme = forwarded if forwarded in ("http", "https") else scope["scheme"]
    return f"{scheme}://{host}"


async def _send(send: Send, reply: Reply) -> None:
    await send_bytes(send, 200, reply.model_dump_json().encode(), "application/json")
