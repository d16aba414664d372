"""What the endpoints of batches answer."""

from __future__ import annotations

from typing import Literal

from services.gateway.batches.records import Batch
from services.gateway.http.batches.schema import window_of
from services.gateway.http.reply import Reply

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


class BatchErrorObject(Reply):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(Reply):
    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class RequestCounts(Reply):
    total: int
    completed: int
    failed: int


class BatchObject(Reply):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchesReply(Reply):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_object_of(batch: Batch) -> BatchObject:
    at = batch.unix_s_of_status
    errors = [
        BatchErrorObject(code=each.code, message=each.message, param=each.param or None, line=each.line or None)
        for each in batch.errors
    ]
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model or None,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=batch.input_file_id,
        completion_window=window_of(batch.window_s),
        status=batch.status,
        output_file_id=batch.output_file_id or None,
        error_file_id=batch.error_file_id or None,
        created_at=batch.created_unix_s,
        in_progress_at=at.get("in_progress"),
        expires_at=batch.expires_unix_s,
        finalizing_at=at.get("finalizing"),
        completed_at=at.get("completed"),
        failed_at=at.get("failed"),
        expired_at=at.get("expired"),
        cancelling_at=at.get("cancelling"),
        cancelled_at=at.get("cancelled"),
        request_counts=RequestCounts(
            total=batch.lines_total, completed=batch.lines_completed, failed=batch.lines_failed
        ),
        metadata=dict(batch.metadata) or None,
    )
