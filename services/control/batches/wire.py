"""Rows of files and batches as messages, and back."""

from __future__ import annotations

from typing import Any

from antiphon.v1 import batches_pb2
from services.control.batches.statuses import FINALIZING, VALIDATING
from services.control.batches.work import TakenJob, TakenLine
from services.control.store.batch_models import BatchLine, BatchRow, FileRow


def file_of(row: FileRow) -> batches_pb2.File:
    return batches_pb2.File(
        id=row.id,
        filename=row.filename,
        purpose=row.purpose,
        bytes=row.bytes,
        created_unix_s=int(row.created_at.timestamp()),
        expires_unix_s=int(row.expires_at.timestamp()) if row.expires_at is not None else 0,
    )


def status_of(status: str) -> batches_pb2.BatchStatus.ValueType:
    return batches_pb2.BatchStatus.Value(f"BATCH_STATUS_{status.upper()}")


def batch_of(row: BatchRow) -> batches_pb2.Batch:
    return batches_pb2.Batch(
        id=row.id,
        tenant=row.tenant,
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        window_s=row.window_s,
        status=status_of(row.status),
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        errors=[batches_pb2.BatchError(**error) for error in row.errors],
        metadata=row.given_metadata,
        lines_total=row.lines_total,
        lines_completed=row.lines_completed,
        lines_failed=row.lines_failed,
        unix_s_of_status={int(status_of(status)): unix_s for status, unix_s in row.times.items()},
        created_unix_s=int(row.created_at.timestamp()),
        expires_unix_s=int(row.expires_at.timestamp()),
        model=row.model,
    )


def line_of(taken: TakenLine, key_id: str, key_revoked: bool) -> batches_pb2.Line:
    line, batch = taken.line, taken.batch
    return batches_pb2.Line(
        batch_id=batch.id,
        number=line.number,
        offset=line.offset,
        bytes=line.bytes,
        tenant=batch.tenant,
        key_id=key_id,
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        failures=line.failures,
        key_revoked=key_revoked,
        expires_unix_s=int(batch.expires_at.timestamp()),
    )


def job_of(job: TakenJob, max_lines: int) -> batches_pb2.Job:
    row = job.batch
    kinds = {VALIDATING: batches_pb2.Job.KIND_VALIDATE, FINALIZING: batches_pb2.Job.KIND_FINALIZE}
    made = batches_pb2.Job(
        kind=kinds.get(row.status, batches_pb2.Job.KIND_REMOVE), batch=batch_of(row), max_lines=max_lines
    )
    if job.files is not None:
        made.output_file_id, made.error_file_id = (file.id for file in job.files)
        made.ending = status_of(row.ending)
    return made


def listed_line_of(line: BatchLine) -> batches_pb2.ListedLine:
    return batches_pb2.ListedLine(
        number=line.number,
        object=line.object,
        offset=line.result_offset if line.object else line.offset,
        bytes=line.result_bytes if line.object else line.bytes,
        is_error=line.is_error,
    )


def error_of(error: batches_pb2.BatchError) -> dict[str, Any]:
    """Return the error as the database keeps it."""
    return {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
