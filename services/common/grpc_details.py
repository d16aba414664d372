"""google.rpc's description of an error, which generic gRPC clients and gateways read, beside our own trailer."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import AntiphonError, BadInput

TRAILER = "grpc-status-details-bin"
DOMAIN = "antiphon"
# All trailers of a call share 8 KiB, and the message is in three of them.
_LONGEST_MESSAGE = 1000


def details_of(error: AntiphonError) -> tuple[tuple[str, bytes], ...]:
    """Return the trailer: a google.rpc.Status with ErrorInfo, BadRequest (the field at fault) and RetryInfo.

    An error with a very long message has none.
    """
    if len(error.message) > _LONGEST_MESSAGE:
        return ()
    code, _ = getattr(grpc.StatusCode, error.grpc_code).value
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.code.upper(), domain=DOMAIN)]
    if isinstance(error, BadInput) and error.param:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.param, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(retry)
    status = status_pb2.Status(code=code, message=error.message, details=[_packed(detail) for detail in details])
    return ((TRAILER, status.SerializeToString()),)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
