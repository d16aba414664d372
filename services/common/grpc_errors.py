"""Errors over gRPC: what the server sends for each, and what the client makes of it again.

A failed call carries its gRPC status and, in the trailer `antiphon-error-bin`, an ErrorDetail.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio

from antiphon.v1 import common_pb2
from services.common import errors
from services.common.errors import AntiphonError, root_cause

TRAILER = "antiphon-error-bin"

_CLASSES = (
    errors.BadInput,
    errors.TooLarge,
    errors.ContextTooLong,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.NotFound,
    errors.Capacity,
    errors.Unavailable,
    errors.WorkerLost,
    errors.TimedOut,
    errors.SlowBody,
    errors.Gone,
    errors.Fault,
)
# The plain class of a status is listed first; a code that belongs to a subclass finds it again.
_BY_STATUS = {cls.grpc_code: cls for cls in reversed(_CLASSES)}
_BY_CODE = {cls.default_code: cls for cls in _CLASSES}

# What grpc.aio itself puts in the place of a call's status when a message could not be sent.
_FAILED_SEND = "Internal error from Core"
# What gRPC says of a message over max_receive_message_length or max_send_message_length. Its RESOURCE_EXHAUSTED has
# other causes too, such as a peer that wants fewer pings: those are not the client's.
_TOO_LARGE = "larger than max"
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)

logger = logging.getLogger(__name__)


def detail_of(error: AntiphonError) -> common_pb2.ErrorDetail:
    return common_pb2.ErrorDetail(
        code=error.code,
        message=error.message,
        param=error.param or "",
        retry_after_ms=round((error.retry_after_s or 0) * 1000),
    )


def error_from_detail(status: str, detail: common_pb2.ErrorDetail) -> AntiphonError:
    """The error that `detail_of` described; `status` is the gRPC status' name."""
    cls = _BY_CODE.get(detail.code, _BY_STATUS.get(status, errors.Fault))
    if cls.grpc_code != status:
        cls = _BY_STATUS.get(status, errors.Fault)
    return cls(
        detail.message,
        code=detail.code,
        param=detail.param or None,
        retry_after_s=detail.retry_after_ms / 1000 if detail.retry_after_ms else None,
    )


def error_from_rpc(error: grpc.aio.AioRpcError, peer: str) -> AntiphonError:
    """What a failed call means to its caller; `peer` names the other side in the message ("thinker").

    A status without our trailer comes from the transport: the peer is away (WorkerLost), slow (TimedOut), takes no
    message of this size (TooLarge) or is broken. A call that ends while a message is being sent loses its status in
    grpc.aio, its trailer too: what is known then is that the peer takes no more (WorkerLost).
    """
    status = error.code()
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            detail = common_pb2.ErrorDetail.FromString(value)
            if detail.code == errors.NO_MESSAGE:  # we wrote it: no client can mend that
                break
            return error_from_detail(status.name, detail)
    cut_short = status is grpc.StatusCode.INTERNAL and error.details() == _FAILED_SEND
    is_exhausted = status is grpc.StatusCode.RESOURCE_EXHAUSTED
    if is_exhausted and _TOO_LARGE in (error.details() or ""):
        return errors.TooLarge(f"The request is larger than the {peer} worker accepts. Send fewer or shorter messages.")
    if cut_short or is_exhausted or status in _GONE:
        return errors.WorkerLost(
            f"The {peer} worker that served this request is gone. Send the request again.", retry_after_s=1
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.TimedOut(f"The {peer} worker did not answer in time.")
    logger.error("unexpected status from the %s: %s %s", peer, status.name, error.details())
    return errors.Fault(f"The {peer} worker failed.")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: AntiphonError) -> None:
    """Ends the call with `error`; raises, as grpc's abort does: CancelledError where the caller is gone."""
    try:
        await context.abort(
            getattr(grpc.StatusCode, error.grpc_code),
            error.message,
            ((TRAILER, detail_of(error).SerializeToString()),),
        )
    except grpc.aio.InternalError as unsent:
        raise asyncio.CancelledError from unsent


def as_known(error: Exception, method: str) -> AntiphonError:
    """The error that the client is told: ours as it is (also out of a TaskGroup), any other as a Fault, logged here."""
    known = root_cause(error) if isinstance(error, ExceptionGroup) else error
    if isinstance(known, AntiphonError):
        return known
    logger.error("%s failed", method, exc_info=error)
    return errors.Fault(errors.INTERNAL)
