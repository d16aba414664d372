"""Errors over gRPC: the server sends a status with an ErrorDetail, the client makes the same error of them.

The ErrorDetail is in the trailer `antiphon-error-bin`. google.rpc's description of the same error is beside it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio

from antiphon.v1 import common_pb2
from services.common import errors
from services.common.errors import AntiphonError, forget_frames, root_cause
from services.common.grpc_details import details_of

TRAILER = "antiphon-error-bin"

_CLASSES = (
    errors.BadInput,
    errors.TooLarge,
    errors.ContextTooLong,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.NotFound,
    errors.Capacity,
    errors.RateLimited,
    errors.QuotaExceeded,
    errors.Unavailable,
    errors.WorkerLost,
    errors.LimitsAway,
    errors.TimedOut,
    errors.SlowBody,
    errors.Conflict,
    errors.Gone,
    errors.Fault,
)
# The first class listed with a status is its plain one. A subclass is found by its code.
_BY_STATUS = {cls.grpc_code: cls for cls in reversed(_CLASSES)}
_BY_CODE = {cls.default_code: cls for cls in _CLASSES}

# grpc.aio replaces the status of a call with this one when a message could not be sent.
_FAILED_SEND = "Internal error from Core"
# gRPC says this about a message over max_receive_message_length or max_send_message_length. RESOURCE_EXHAUSTED has
# other causes too, such as too many pings, which are not the client's.
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
    """Return the error that `detail_of` described; `status` is the name of the gRPC status."""
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
    """Return the error of a failed call; `peer` names the callee in the message ("thinker").

    A status without our trailer comes from the transport: the peer is away (WorkerLost), slow (TimedOut), accepts no
    message of this size (TooLarge) or is broken (Fault). A call that ends while a message is being sent loses its
    status and trailer in grpc.aio. Then all that is known is that the peer stopped (WorkerLost).
    """
    status = error.code()
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            detail = common_pb2.ErrorDetail.FromString(value)
            if detail.code == errors.NO_MESSAGE:  # our own message was invalid: no client can fix that
                break
            return error_from_detail(status.name, detail)
    cut_short = status is grpc.StatusCode.INTERNAL and error.details() == _FAILED_SEND
    is_exhausted = status is grpc.StatusCode.RESOURCE_EXHAUSTED
    if is_exhausted and _TOO_LARGE in (error.details() or ""):
        return errors.TooLarge(f"The request is larger than the {peer} worker accepts. Send fewer or shorter messages.")
    if cut_short or is_exhausted or status in _GONE:
        logger.info("the %s worker is gone: %s %s", peer, status.name, error.details())
        return errors.WorkerLost(
            f"The {peer} worker that served this request is gone. Send the request again.", retry_after_s=1
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.TimedOut(f"The {peer} worker did not answer in time.")
    logger.error("unexpected status from the %s: %s %s", peer, status.name, error.details())
    return errors.Fault(f"The {peer} worker failed.")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: AntiphonError) -> None:
    """End the call with `error`. Raise, as gRPC's abort does: CancelledError where the caller is gone."""
    try:
        await context.abort(
            getattr(grpc.StatusCode, error.grpc_code),
            error.message,
            ((TRAILER, detail_of(error).SerializeToString()), *details_of(error)),
        )
    except grpc.aio.InternalError as unsent:
        raise asyncio.CancelledError from unsent


def as_known(error: Exception, method: str) -> AntiphonError:
    """Return the error to tell the client: an AntiphonError as it is, any other as a Fault, which is logged here. The
    error loses its traceback."""
    known = root_cause(error) if isinstance(error, ExceptionGroup) else error
    if not isinstance(known, AntiphonError):
        logger.error("%s failed", method, exc_info=error)
        known = errors.Fault(errors.INTERNAL)
    forget_frames(error)
    return known
