"""DashScope's errors: `{code, message, request_id}`, with its own codes. They name no field but in the message."""

from __future__ import annotations

import json
import re

from services.common.errors import AntiphonError

_PREFIXES = ("/api/v1/", "/api-ws/v1/")
# The stack's code, or the status → DashScope's code.
_BY_CODE = {
    "model_not_found": "Model.NotExist",
    "model_not_allowed": "Model.AccessDenied",
    "insufficient_quota": "Throttling.AllocationQuota",
    "rate_limit_exceeded": "Throttling.RateQuota",
}
_BY_STATUS = {
    400: "InvalidParameter",
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeOut",
    409: "Conflict",
    413: "BadRequest.TooLarge",
    429: "Throttling",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
CODES = frozenset({*_BY_CODE.values(), *_BY_STATUS.values()})
# What chat calls a part's media, below the part.
_MEDIA = re.compile(r"\.(image|audio|video)_url\.url\b")


def has_flat_errors(path: str) -> bool:
    """Return whether the errors of this path are DashScope's. They are also for what is not served there: its client
    reads no other form."""
    return path.startswith(_PREFIXES)


def flat_object(error: AntiphonError, request_id: str) -> dict[str, str]:
    message = _MEDIA.sub(r".\1", error.message)
    param = _MEDIA.sub(r".\1", error.param or "")
    if param and param not in message:
        message = f"{param}: {message}"
    return {"code": code_of(error), "message": message, "request_id": request_id}


def flat_body(error: AntiphonError, request_id: str) -> bytes:
    return json.dumps(flat_object(error, request_id), ensure_ascii=False).encode()


def code_of(error: AntiphonError) -> str:
    return _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, "InternalError")
