"""Tables as Parquet files (https://parquet.apache.org/docs/file-format/): one row group, plain values, no compression.

A table of usage is small, and pyarrow is not: 170 MB for what takes two pages here.

    "PAR1" · for each column a page header and its values · FileMetaData · its length · "PAR1"

Headers are structs of Thrift's compact protocol: here sequences of fields (id, type, value), by rising ids.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

_MAGIC = b"PAR1"
_EPOCH = date(1970, 1, 1)
# Types of Thrift's compact protocol.
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_Field = tuple[int, int, Any]
# Parquet's enumerations: Type, ConvertedType, Encoding, FieldRepetitionType, CompressionCodec, PageType.
_INT32, _INT64, _BYTE_ARRAY = 1, 2, 6
_UTF8, _DECIMAL, _DATE = 0, 5, 6
_PLAIN, _RLE = 0, 3
_REQUIRED, _UNCOMPRESSED, _DATA_PAGE = 0, 0, 0
_MICROS_DIGITS, _MOST_DIGITS = 6, 18


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of columns. `fields` are those of its SchemaElement, `encode` makes a value's bytes."""

    type: int
    fields: Sequence[_Field]
    encode: Callable[[Any], bytes]


def _text(value: str | None) -> bytes:
    data = (value or "").encode()
    return struct.pack("<I", len(data)) + data


TEXT = Kind(_BYTE_ARRAY, [(6, _I32, _UTF8)], _text)
"""Strings; None = the empty one."""
WHOLE = Kind(_INT64, [], lambda value: struct.pack("<q", value))
"""Whole numbers of 64 bits."""
DAY = Kind(_INT32, [(6, _I32, _DATE)], lambda value: struct.pack("<i", (date.fromisoformat(value) - _EPOCH).days))
"""Dates, from "2027-01-31"."""
MICROS = Kind(
    _INT64, [(6, _I32, _DECIMAL), (7, _I32, _MICROS_DIGITS), (8, _I32, _MOST_DIGITS)],
    lambda value: struct.pack("<q", value),
)  # fmt: skip
"""Decimals with six digits after the point, from whole millionths."""


def parquet_file(columns: Mapping[str, Kind], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return the rows, each with a value for every column, as a file."""
    table = list(rows)
    body = bytearray(_MAGIC)
    chunks: list[Sequence[_Field]] = []
    for place, (name, kind) in enumerate(columns.items()):
        begin = len(body)
        values = b"".join(kind.encode(row[place]) for row in table)
        page = [(1, _I32, len(table)), (2, _I32, _PLAIN), (3, _I32, _RLE), (4, _I32, _RLE)]
        body += _struct([(1, _I32, _DATA_PAGE), (2, _I32, len(values)), (3, _I32, len(values)), (5, _STRUCT, page)])
        body += values
        described = [
            (1, _I32, kind.type),
            (2, _LIST, (_I32, [_PLAIN])),
            (3, _LIST, (_BINARY, [name.encode()])),
            (4, _I32, _UNCOMPRESSED),
            (5, _I64, len(table)),
            (6, _I64, len(body) - begin),
            (7, _I64, len(body) - begin),
            (9, _I64, begin),
        ]
        chunks.append([(2, _I64, begin), (3, _STRUCT, described)])
    group = [(1, _LIST, (_STRUCT, chunks)), (2, _I64, len(body) - len(_MAGIC)), (3, _I64, len(table))]
    root = [(4, _BINARY, b"schema"), (5, _I32, len(columns))]
    leaves = [
        [(1, _I32, kind.type), (3, _I32, _REQUIRED), (4, _BINARY, name.encode()), *kind.fields]
        for name, kind in columns.items()
    ]
    footer = _struct(
        [
            (1, _I32, 1),
            (2, _LIST, (_STRUCT, [root, *leaves])),
            (3, _I64, len(table)),
            (4, _LIST, (_STRUCT, [group] if table else [])),
            (6, _BINARY, b"antiphon"),
        ]
    )
    return bytes(body) + footer + struct.pack("<I", len(footer)) + _MAGIC


def _struct(fields: Iterable[_Field]) -> bytes:
    encoded, last = bytearray(), 0
    for number, kind, value in fields:
        encoded.append((number - last) << 4 | kind)
        encoded += _value(kind, value)
        last = number
    return bytes(encoded) + b"\0"


def _value(kind: int, value: Any) -> bytes:
    if kind == _BINARY:
        return _varint(len(value)) + value
    if kind == _STRUCT:
        return _struct(value)
    if kind == _LIST:
        of, items = value
        size = bytes([len(items) << 4 | of]) if len(items) < 15 else bytes([0xF0 | of]) + _varint(len(items))
        return size + b"".join(_value(of, item) for item in items)
    return _varint(value << 1 ^ value >> 63)  # zigzag


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
