"""Parquet files, read back by the format's description."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from services.cli.parquet import DAY, MICROS, TEXT, WHOLE, parquet_file

COLUMNS = {"day": DAY, "model": TEXT, "tokens": WHOLE, "cost": MICROS}
ROWS = [["2027-01-31", "omni", 2**53 + 1, 1_250_000], ["1969-12-31", None, 0, 0], ["2031-02-01", "日本語 …", 7, 1]]


@dataclass
class Compact:
    """Reads Thrift's compact protocol from `at` on."""

    data: bytes
    at: int

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def value(self, kind: int) -> Any:
        if kind in (5, 6):
            number = self.varint()
            return number >> 1 if number % 2 == 0 else -(number + 1 >> 1)
        if kind == 8:
            size = self.varint()
            self.at += size
            return self.data[self.at - size : self.at]
        if kind == 9:
            head = self.data[self.at]
            self.at += 1
            size = head >> 4 if head >> 4 < 15 else self.varint()
            return [self.value(head & 15) for _ in range(size)]
        assert kind == 12
        return self.struct()

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self.data[self.at]:
            self.at += 1
            assert head >> 4, "short form"
            number += head >> 4
            fields[number] = self.value(head & 15)
        self.at += 1
        return fields


def read_parquet(data: bytes) -> list[dict[str, Any]]:
    """Return the rows of a file of one row group with plain, required, uncompressed columns."""
    assert data[:4] == data[-4:] == b"PAR1"
    (size,) = struct.unpack("<I", data[-8:-4])
    footer = Compact(data, len(data) - 8 - size)
    meta = footer.struct()
    assert footer.at == len(data) - 8
    root, *leaves = meta[2]
    assert root[5] == len(leaves)
    if not meta[3]:
        assert meta[4] == []
        return []
    (group,) = meta[4]
    assert group[3] == meta[3]
    table: dict[str, list[Any]] = {}
    for leaf, chunk in zip(leaves, group[1], strict=True):
        column = chunk[3]
        assert (column[1], column[2], column[3], column[4]) == (leaf[1], [0], [leaf[4]], 0)
        assert (leaf[3], column[5]) == (0, meta[3])
        page = Compact(data, column[9])
        head = page.struct()
        assert (head[1], head[2], head[5][1], head[5][2]) == (0, head[3], meta[3], 0)
        assert column[6] == column[7] == page.at - column[9] + head[3]
        table[leaf[4].decode()] = values_of(leaf, data[page.at : page.at + head[3]], meta[3])
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def values_of(leaf: dict[int, Any], data: bytes, count: int) -> list[Any]:
    if leaf[1] == 1:
        assert leaf[6] == 6
        return [date(1970, 1, 1) + timedelta(days) for days in struct.unpack(f"<{count}i", data)]
    if leaf[1] == 2:
        numbers = struct.unpack(f"<{count}q", data)
        return [Decimal(n).scaleb(-leaf[7]) if leaf.get(6) == 5 else n for n in numbers]
    assert (leaf[1], leaf[6]) == (6, 0)
    texts: list[str] = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    assert len(texts) == count
    return texts


def test_a_table_is_read_back_exactly() -> None:
    assert read_parquet(parquet_file(COLUMNS, ROWS)) == [
        {"day": date(2027, 1, 31), "model": "omni", "tokens": 2**53 + 1, "cost": Decimal("1.250000")},
        {"day": date(1969, 12, 31), "model": "", "tokens": 0, "cost": Decimal(0)},
        {"day": date(2031, 2, 1), "model": "日本語 …", "tokens": 7, "cost": Decimal("0.000001")},
    ]


@pytest.mark.parametrize("columns", [1, 14, 15, 40])
@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_tables_of_all_sizes_are_read_back(columns: int, rows: int) -> None:
    kinds = {f"column {n}": WHOLE for n in range(columns)}
    table = [[row * n for n in range(columns)] for row in range(rows)]
    expected = [dict(zip(kinds, row, strict=True)) for row in table]
    assert read_parquet(parquet_file(kinds, table)) == expected


def test_the_file_is_the_one_that_pyarrow_was_seen_to_read() -> None:
    """pyarrow 26.0.1 read them as date32, string, int64 and decimal128(18, 6), with the values of the test above."""
    assert parquet_file(COLUMNS, ROWS).hex() == GOLDEN


GOLDEN = (
    "504152311500151815182c1506150015061506000071510000ffffffff275700001500153a153a2c150615001506150600000400"
    "00006f6d6e69000000000d000000e697a5e69cace8aa9e20e280a61500153015302c150615001506150600000100000000002000"
    "000000000000000007000000000000001500153015302c15061500150615060000d0121300000000000000000000000000010000"
    "00000000001502195c4806736368656d61150800150225001803646179250c00150c250018056d6f64656c250000150425001806"
    "746f6b656e7300150425001804636f7374250a150c1524001606191c194c26081c150219150019180364617915001606163a163a"
    "2608000026421c150c1915001918056d6f64656c15001606165c165c26420000269e011c1504191500191806746f6b656e731500"
    "160616521652269e01000026f0011c1504191500191804636f7374150016061652165226f001000016ba021606002808616e7469"
    "70686f6e00d000000050415231"
)
