"""Files and batches as the control plane keeps them, in the gateway's own types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

BATCH, BATCH_OUTPUT, USER_DATA, ANSWER_AUDIO = "batch", "batch_output", "user_data", "assistants_output"
"""Purposes of files: what batches read, what they write, media that requests name, and what answers said."""
Purpose = Literal["batch", "batch_output", "user_data", "vision", "assistants_output"]
PURPOSES: Sequence[str] = get_args(Purpose)
MEDIA = frozenset(PURPOSES) - {BATCH, BATCH_OUTPUT}
"""Purposes of files that requests may name."""
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Of a file or a batch: nothing else is looked up."""


@dataclass(frozen=True, slots=True)
class File:
    id: str
    filename: str
    purpose: str
    bytes: int
    created_unix_s: int
    # 0 = it stays until it is deleted.
    expires_unix_s: int = 0


@dataclass(frozen=True, slots=True)
class BatchError:
    """What is wrong with a batch's input. `line` from 1; 0 = no line."""

    code: str
    message: str
    param: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. Ids and the model are "" where there are none. `status` and `unix_s_of_status` have OpenAI's names."""

    id: str
    endpoint: str
    input_file_id: str
    window_s: int
    status: str
    created_unix_s: int
    expires_unix_s: int
    output_file_id: str = ""
    error_file_id: str = ""
    errors: Sequence[BatchError] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    lines_total: int = 0
    lines_completed: int = 0
    lines_failed: int = 0
    unix_s_of_status: Mapping[str, int] = field(default_factory=dict[str, int])
    model: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: the id that the page begins behind; "" = at the first one."""

    after: str
    limit: int
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What a client asks for."""

    tenant: str
    key_id: str
    endpoint: str
    input_file_id: str
    window_s: int
    metadata: Mapping[str, str]
    # 0 = its files stay until they are deleted.
    output_expires_after_s: int


class Records(Protocol):
    """All raise Unavailable while the control plane is away, and NotFound for what is another tenant's."""

    async def begin_file(self, tenant: str, filename: str, purpose: str, id: str = "") -> tuple[File, int]:
        """Return a file to come, and the most bytes that it may have. Raise Forbidden where there are too many, and
        Conflict where one with this id has been begun. "" = it gets a new id."""
        ...

    async def complete_file(
        self, tenant: str, id: str, size_bytes: int, expires_after_s: int, purpose: str = ""
    ) -> File:
        """`purpose`: "" = that which it began with. Raise TooLarge where the tenant's files would be too large
        together, and Forbidden where there are too many with this purpose."""
        ...

    async def file(self, tenant: str, id: str) -> File: ...

    async def files(self, tenant: str, page: Page, purpose: str) -> tuple[Sequence[File], bool]:
        """Return a page, and whether there are more behind it."""
        ...

    async def delete_file(self, tenant: str, id: str) -> None:
        """Raise Conflict where a batch reads it."""
        ...

    async def create_batch(self, request: BatchRequest) -> Batch: ...

    async def batch(self, tenant: str, id: str) -> Batch: ...

    async def batches(self, tenant: str, page: Page) -> tuple[Sequence[Batch], bool]: ...

    async def cancel_batch(self, tenant: str, id: str) -> Batch:
        """Raise Conflict where it is over."""
        ...
