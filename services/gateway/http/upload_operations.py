"""The operations of DashScope's uploads."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp

from services.common.key_scopes import Scope
from services.gateway.http.dashscope.reply import DashScopeError
from services.gateway.http.dashscope.uploads.endpoint import OBJECTS
from services.gateway.http.dashscope.uploads.fields import FILE, UploadFields
from services.gateway.http.dashscope.uploads.reply import PolicyReply, UploadedReply
from services.gateway.http.operation import Form, Operation, ResponseDoc

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class UploadEndpoints:
    """Their ASGI applications. `post`: None where there is no object store; then `policy` says so."""

    policy: ASGIApp
    post: ASGIApp | None = None


def upload_operations(endpoints: UploadEndpoints) -> list[Operation]:
    policy = Operation(
        "getUploadPolicy", "GET", "/api/v1/uploads", "Get leave to upload files: DashScope's clients do",
        endpoints.policy, {200: ResponseDoc("The policy, for five minutes.", {_JSON: PolicyReply})},
        description="404 also where the server keeps no files.",
        scope=Scope.FILES, errors=(400, 404), error=DashScopeError,
        query_parameters={"action": "getPolicy", "model": "may be left out where one model is served"},
    )  # fmt: skip
    if endpoints.post is None:
        return [policy]
    post = Operation(
        "postUpload", "POST", OBJECTS, "Upload a file as a policy allows it", endpoints.post,
        {200: ResponseDoc("The file is there, and `oss://` with its key names it.", {_JSON: UploadedReply})},
        description="No key is needed: the policy was signed for one. The file comes last in the form.",
        body=Form(UploadFields, FILE), needs_key=False, errors=(403, 409, 500, 503), error=DashScopeError,
    )  # fmt: skip
    return [policy, post]
