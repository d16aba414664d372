"""The operations of files and batches, which are there where the gateway has an object store and a control plane."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp

from services.common.key_scopes import Scope
from services.gateway.http.batches.reply import BatchesReply, BatchObject
from services.gateway.http.batches.schema import BatchRequestBody
from services.gateway.http.files.endpoint import FILE
from services.gateway.http.files.fields import FileFields
from services.gateway.http.files.reply import DeletedFile, FileObject, FilesReply
from services.gateway.http.operation import Form, Operation, ResponseDoc

_JSON = "application/json"
_PAGES = {
    "order": "desc (the latest first) or asc",
    "after": "the id that the page begins behind",
}


@dataclass(frozen=True, slots=True)
class BatchEndpoints:
    """Their ASGI applications."""

    create_file: ASGIApp
    files: ASGIApp
    file: ASGIApp
    file_content: ASGIApp
    delete_file: ASGIApp
    create_batch: ASGIApp
    batches: ASGIApp
    batch: ASGIApp
    cancel_batch: ASGIApp


def batch_operations(endpoints: BatchEndpoints) -> list[Operation]:
    return [*_files(endpoints), *_batches(endpoints)]


def _files(endpoints: BatchEndpoints) -> list[Operation]:
    id = {"id": "the file's id"}
    return [
        Operation(
            "createFile", "POST", "/v1/files", "Upload a file", endpoints.create_file,
            {200: ResponseDoc("The file.", {_JSON: FileObject})},
            body=Form(FileFields, FILE), scope=Scope.FILES, runs_once=True, errors=(429,), is_compatible=True,
        ),
        Operation(
            "listFiles", "GET", "/v1/files", "List the files", endpoints.files,
            {200: ResponseDoc("A page of them.", {_JSON: FilesReply})},
            scope=Scope.FILES, errors=(400,), is_compatible=True,
            query_parameters={
                **_PAGES,
                "limit": "the most files of a page, 1 to 10000 (10000)",
                "purpose": "batch, batch_output, user_data, vision or assistants_output",
            },
        ),
        Operation(
            "getFile", "GET", "/v1/files/{id}", "Get what is known of a file", endpoints.file,
            {200: ResponseDoc("The file.", {_JSON: FileObject})},
            scope=Scope.FILES, errors=(404,), path_parameters=id, is_compatible=True,
        ),
        Operation(
            "getFileContent", "GET", "/v1/files/{id}/content", "Get a file's bytes", endpoints.file_content,
            {200: ResponseDoc("Its bytes.", {"application/octet-stream": None})},
            scope=Scope.FILES, errors=(404, 429), path_parameters=id, is_compatible=True,
        ),
        Operation(
            "deleteFile", "DELETE", "/v1/files/{id}", "Delete a file", endpoints.delete_file,
            {200: ResponseDoc("It is gone.", {_JSON: DeletedFile})},
            scope=Scope.FILES, errors=(404, 409), path_parameters=id, is_compatible=True,
        ),
    ]  # fmt: skip


def _batches(endpoints: BatchEndpoints) -> list[Operation]:
    id = {"id": "the batch's id"}
    return [
        Operation(
            "createBatch", "POST", "/v1/batches", "Run the requests of a file", endpoints.create_batch,
            {200: ResponseDoc("The batch, which is validated first.", {_JSON: BatchObject})},
            description="The key needs the scope of the lines' endpoint, too.",
            body=BatchRequestBody, scope=Scope.BATCHES, runs_once=True, errors=(404, 429), is_compatible=True,
        ),
        Operation(
            "listBatches", "GET", "/v1/batches", "List the batches", endpoints.batches,
            {200: ResponseDoc("A page of them.", {_JSON: BatchesReply})},
            scope=Scope.BATCHES, errors=(400,), is_compatible=True,
            query_parameters={**_PAGES, "limit": "the most batches of a page, 1 to 100 (20)"},
        ),
        Operation(
            "getBatch", "GET", "/v1/batches/{id}", "Get a batch", endpoints.batch,
            {200: ResponseDoc("The batch.", {_JSON: BatchObject})},
            scope=Scope.BATCHES, errors=(404,), path_parameters=id, is_compatible=True,
        ),
        Operation(
            "cancelBatch", "POST", "/v1/batches/{id}/cancel", "Cancel a batch", endpoints.cancel_batch,
            {200: ResponseDoc("The batch, which has results of the lines that were done.", {_JSON: BatchObject})},
            scope=Scope.BATCHES, runs_once=True, errors=(404,), path_parameters=id, is_compatible=True,
        ),
    ]  # fmt: skip
