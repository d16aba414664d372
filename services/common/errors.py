"""Every error that a user can get, with its HTTP and gRPC status.

    AntiphonError
    ├── BadInput            400  INVALID_ARGUMENT      the request is wrong; a retry does not help
    │   ├── TooLarge        413  INVALID_ARGUMENT      the request is larger than the limit
    │   └── ContextTooLong  400  INVALID_ARGUMENT      the prompt, or prompt and answer, exceed the model's length
    ├── Unauthenticated     401  UNAUTHENTICATED
    ├── Forbidden           403  PERMISSION_DENIED
    ├── NotFound            404  NOT_FOUND             no such model, path or item
    ├── Capacity            429  RESOURCE_EXHAUSTED    the queue is full: retry later
    ├── RateLimited         429  RESOURCE_EXHAUSTED    a limit of the key, its project or organisation: retry later
    │   └── QuotaExceeded   429  RESOURCE_EXHAUSTED    their quota of a day or month is used up
    ├── LimitsAway          503  UNAVAILABLE           limits can't be checked at the moment: retry later
    ├── Unavailable         503  UNAVAILABLE           a service is away: retry later
    │   └── WorkerLost      503  UNAVAILABLE           the worker that served this request is gone
    ├── TimedOut            504  DEADLINE_EXCEEDED     the request's deadline passed
    ├── SlowBody            408  DEADLINE_EXCEEDED     the client took too long to send its request
    ├── Conflict            409  ALREADY_EXISTS        what is asked for contradicts what is there
    ├── Gone                409  FAILED_PRECONDITION   a lease or tensor that is no longer held
    └── Fault               500  INTERNAL              a fault of ours

Messages are written for the client and never contain another exception's text. This module imports neither grpc nor a
web framework: `grpc_errors` and `http/errors` translate.
"""

from __future__ import annotations

# Codes that the gateway acts on.
LEASE_GONE = "lease_gone"
"""A lease that is unknown, used or expired."""
EXPIRED_API_KEY = "expired_api_key"
"""A key whose time is over."""
FEATURES_GONE = "features_gone"
"""A thinker could not pull the prompt's features: they are to be prepared again."""
HIDDEN_STATES_GONE = "hidden_states_gone"
"""A talker could not pull the prompt's hidden states: a thinker is to make them again."""
MOVED = "moved"
"""A worker leaves, and ends the call so that it goes on elsewhere."""
ENGINE_FAILED = "engine_failed"
"""A worker's engine died while it worked on the request."""
# The code of a gRPC request that is not a valid message of its method's type.
NO_MESSAGE = "invalid_message"


# What a client is told about a fault of ours.
INTERNAL = "The server had an error while processing your request."


class AntiphonError(Exception):
    """An error with a stable code, a message for the client, and the field at fault.

    `status` is the HTTP status, `grpc_code` the name of the gRPC status, `type` OpenAI's error type.
    """

    status: int = 500
    grpc_code: str = "INTERNAL"
    type: str = "server_error"
    default_code: str = "internal_error"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s


class BadInput(AntiphonError):
    status = 400
    grpc_code = "INVALID_ARGUMENT"
    type = "invalid_request_error"
    default_code = "invalid_value"


class TooLarge(BadInput):
    status = 413
    default_code = "too_large"


class ContextTooLong(BadInput):
    default_code = "context_length_exceeded"


class Unauthenticated(AntiphonError):
    status = 401
    grpc_code = "UNAUTHENTICATED"
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(AntiphonError):
    status = 403
    grpc_code = "PERMISSION_DENIED"
    type = "permission_error"
    default_code = "forbidden"


class NotFound(AntiphonError):
    status = 404
    grpc_code = "NOT_FOUND"
    type = "invalid_request_error"
    default_code = "not_found"


class Capacity(AntiphonError):
    status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    type = "rate_limit_error"
    default_code = "queue_full"


class RateLimited(AntiphonError):
    status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class QuotaExceeded(RateLimited):
    type = "insufficient_quota"
    default_code = "insufficient_quota"


class LimitsAway(AntiphonError):
    status = 503
    grpc_code = "UNAVAILABLE"
    default_code = "limits_unavailable"


class Unavailable(AntiphonError):
    status = 503
    grpc_code = "UNAVAILABLE"
    default_code = "unavailable"


class WorkerLost(Unavailable):
    default_code = "worker_lost"


class TimedOut(AntiphonError):
    status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    default_code = "deadline_exceeded"


class SlowBody(AntiphonError):
    status = 408
    grpc_code = "DEADLINE_EXCEEDED"
    type = "invalid_request_error"
    default_code = "body_timeout"


class Conflict(AntiphonError):
    status = 409
    grpc_code = "ALREADY_EXISTS"
    type = "invalid_request_error"
    default_code = "conflict"


class Gone(AntiphonError):
    status = 409
    grpc_code = "FAILED_PRECONDITION"
    default_code = "gone"


class Fault(AntiphonError):
    pass


def no_worker(*stages: str, retry_after_s: float) -> Unavailable:
    """Return the error for stages without a live worker; no stage = without any worker."""
    workers = " and no ".join(f"{stage} worker" for stage in sorted(stages)) or "worker"
    message = f"No {workers} serves this model at the moment."
    return Unavailable(message, code="no_worker", retry_after_s=retry_after_s)


def root_cause(group: ExceptionGroup[Exception]) -> AntiphonError | None:
    """Return the error to tell the client where several tasks failed together; None = none is an AntiphonError.

    It is the first one, but Unavailable only where there is nothing else.
    """
    known = [error for error in _leaves(group) if isinstance(error, AntiphonError)]
    return min(known, key=lambda error: isinstance(error, Unavailable), default=None)


def forget_frames(error: BaseException) -> None:
    """Drop the traceback of `error`, of its causes and of a group's errors. Call it once the error is logged or told.

    A frame often refers to what holds the error: a task, a queue. Such a ring stays until the garbage collector comes
    by, and with it the messages that the frames know, though the request's memory is free again by its count.
    """
    left, done = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) not in done:
            done.add(id(one))
            one.__traceback__ = None
            more = [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
            left += [other for other in more if other is not None]


def _leaves(group: ExceptionGroup[Exception]) -> list[Exception]:
    return [leaf for e in group.exceptions for leaf in (_leaves(e) if isinstance(e, ExceptionGroup) else [e])]
