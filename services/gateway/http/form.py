"""Bodies of multipart/form-data: text fields and one file, read as they arrive.

The bytes of the file go from the connection into the file, which is all of the body that is ever in memory, or into a
sink, and then no more than a piece of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.types import Receive, Scope

from services.common.errors import AntiphonError, BadInput, TooLarge
from services.common.http.respond import header
from services.gateway.http.respond import BODY_READER, declared_bytes, read_pieces
from services.gateway.limits import RequestLimits
from services.gateway.memory import RequestMemory

# All fields but the file together, and the most of them.
MAX_FIELDS_BYTES = 64 * 1024
MAX_FIELDS = 64
# What a request takes beside its file, at most: its fields, in memory four bytes a character, and what is made of them.
_MORE_BYTES = 1 << 20


@dataclass(slots=True)
class Form:
    """Text fields by name, each with its values in order, and the bytes of the file."""

    fields: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    # None = the form has none.
    file: bytearray | None = None


class FileSink(Protocol):
    """Takes the bytes of a file as they arrive."""

    async def begin(self, filename: str, fields: Mapping[str, Sequence[str]]) -> None:
        """Called once, before the file's first bytes. `fields`: those that came before the file."""
        ...

    async def write(self, data: bytes) -> None: ...


async def read_form(
    scope: Scope,
    receive: Receive,
    limits: RequestLimits,
    memory: RequestMemory,
    *,
    file_field: str,
    sink: FileSink | None = None,
) -> Form:
    """Return the form. Its file counts as it arrives. With a sink, the file's bytes are there and not in the form.

    Raise BadInput or TooLarge that names the field, Capacity, SlowBody or ClientLeft. What is too large is read to its
    end and dropped: few clients read an error while they still send. So is all that is refused of a request that may
    have run before, since only the whole body tells: there is no room for a file that took the last.
    """
    reader = _Reader(_boundary(scope), file_field, limits.max_media_bytes)
    declared = declared_bytes(scope)
    most_bytes = min(declared or limits.max_body_bytes, limits.max_media_bytes) + _MORE_BYTES
    if declared is None:
        most_bytes = min(most_bytes, memory.total_bytes)

    refusal: AntiphonError | None = None
    refusals = AntiphonError if BODY_READER in scope.get("state", {}) else TooLarge
    has_begun = False

    async def add(piece: bytes) -> None:
        nonlocal refusal, has_begun
        if refusal is not None:
            return
        try:
            if sink is None:
                # Before it is there: all of the piece may belong to the file.
                await memory.grow_file(reader.file_bytes + len(piece), most_bytes, param=file_field)
            reader.write(piece)
            if sink is not None and (data := reader.take_file()):
                if not has_begun:
                    has_begun = True
                    await sink.begin(reader.filename, reader.form.fields)
                await sink.write(data)
        except refusals as error:
            refusal = error
            reader.form.file = None

    async def end() -> None:
        if refusal is not None:
            raise refusal
        reader.finish()

    await read_pieces(scope, receive, limits, add, end)
    return reader.form


def _boundary(scope: Scope) -> bytes:
    kind, options = parse_options_header(header(scope, b"content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadInput("The content-type is not supported. Send multipart/form-data.", code="invalid_content_type")
    return boundary


class _Reader:
    """Takes the body in any portions. Its `form` is complete after `finish`."""

    def __init__(self, boundary: bytes, file_field: str, max_file_bytes: int) -> None:
        self.form = Form()
        self._file_field = file_field
        self._max_file_bytes = max_file_bytes
        self.file_bytes = 0
        # As the client named it; "" = it did not.
        self.filename = ""
        self._fields_bytes = 0
        self._parts = 0
        self._ended = False
        # Of the part under way: its header so far, its headers, where its data goes, and its name.
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._data: bytearray | None = None
        callbacks: Mapping[str, Callable[..., None]] = {
            "on_part_begin": self._begin_part,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # pyright: ignore[reportArgumentType]
        except FormParserError:
            raise _invalid("Its boundary is too long.") from None

    def take_file(self) -> bytes:
        """Return the bytes of the file that arrived since they were last taken."""
        taken = bytes(self.form.file or b"")
        if self.form.file is not None:
            self.form.file.clear()
        return taken

    def write(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _invalid("It is not as its boundary says.") from None

    def finish(self) -> None:
        """Raise BadInput where the body is not complete."""
        if not self._ended:
            raise _invalid("It ends within a part.")

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise BadInput(f"The form has more than {MAX_FIELDS} fields. Send fewer.", code="too_many_values")
        self._disposition, self._name, self._data = b"", "", None

    def _begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def _add_header(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)

    def _end_header(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or not self._name:
            raise _invalid("One of its parts has no name.")
        self._data = bytearray()
        if self._name == self._file_field:
            if self.form.file is not None:
                raise BadInput(
                    f"Invalid '{self._name}': it is there twice. Send one file.", param=self._name, code="invalid_value"
                )
            self.form.file = self._data
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        assert self._data is not None  # noqa: S101  # the headers came before
        self._data += memoryview(data)[start:end]
        if self._data is self.form.file:
            self.file_bytes += end - start
            if self.file_bytes > self._max_file_bytes:
                raise TooLarge(
                    f"Invalid '{self._name}': the file is larger than {self._max_file_bytes} bytes. Send less.",
                    param=self._name,
                    code="media_too_large",
                )
            return
        self._fields_bytes += end - start
        if self._fields_bytes > MAX_FIELDS_BYTES:
            raise TooLarge(
                f"The fields beside '{self._file_field}' are larger than {MAX_FIELDS_BYTES} bytes. Send shorter ones.",
                param=self._name[:100],
                code="text_too_large",
            )

    def _end_part(self) -> None:
        if self._data is None or self._data is self.form.file:
            return
        try:
            text = self._data.decode()
        except UnicodeDecodeError:
            raise BadInput(f"Invalid '{self._name[:100]}': it is not UTF-8.", param=self._name[:100]) from None
        self.form.fields.setdefault(self._name, []).append(text)

    def _end(self) -> None:
        self._ended = True


def _invalid(problem: str) -> BadInput:
    return BadInput(f"The body is not valid multipart/form-data. {problem}", code="invalid_form")
