"""Ends of turns that Redis could not take, on the gateway's disk. Any gateway that sees the folder may send them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from services.common.limit_kinds import LimitKind
from services.gateway import metrics
from services.gateway.usage.limits import Limit
from services.gateway.usage.operations import SoFar
from services.gateway.usage.settlement import Settlement

_SUFFIX = ".usage"
_COMPLAIN_EVERY_S = 10.0
MOST_IN_MEMORY = 10_000

logger = logging.getLogger(__name__)


class Spool:
    """A file for each turn in `folder`, at most `max_bytes` together. Without a folder they are kept in memory.

    What finds no room is lost, and counted: after a while another gateway closes the turn with what was known of it.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        # By the name that its file has.
        self._in_memory: dict[str, Settlement] = {}
        self._complained_s = float("-inf")
        # Name of each file → its bytes, and their sum.
        self._known: dict[str, int] = {}
        self._bytes = 0

    def start(self) -> None:
        """Find what earlier processes left. Raise OSError where the folder can't be used."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob(f"*{_SUFFIX}"):
                self._count(path.name, path.stat().st_size)
        self._show()

    async def add(self, settlement: Settlement) -> None:
        """Keep one. It is on the disk when this returns."""
        name = _name(settlement)
        if self._folder is None:
            kept = len(self._in_memory) < MOST_IN_MEMORY
            if kept:
                self._in_memory[name] = settlement
        else:
            data = _encode(settlement)
            kept = self._bytes + len(data) <= self._max_bytes
            if kept:
                self._count(name, len(data))
                try:
                    await asyncio.to_thread(_write, self._folder / name, data)
                except OSError as error:
                    self._forget(name)
                    kept = False
                    self._complain(f"the usage spool can't be written: {error.strerror}")
            else:
                self._complain("the usage spool is full")
        if not kept:
            metrics.USAGE_SPOOL_LOST.inc()
        self._show()

    async def settlements(self) -> AsyncGenerator[Settlement]:
        """Yield what is there now."""
        for name in list(self._in_memory):
            yield self._in_memory[name]
        if self._folder is None:
            return
        for name in list(self._known):
            try:
                settlement = _decode(await asyncio.to_thread((self._folder / name).read_bytes))
            except FileNotFoundError:  # another gateway that has the folder sent it
                self._forget(name)
            except (OSError, ValueError, KeyError):
                logger.exception("%s in the usage spool can't be read", name)
                self._forget(name)
                metrics.USAGE_SPOOL_LOST.inc()
            else:
                yield settlement
        self._show()

    async def remove(self, settlement: Settlement) -> None:
        name = _name(settlement)
        self._in_memory.pop(name, None)
        if self._folder is not None and name in self._known:
            self._forget(name)
            await asyncio.to_thread((self._folder / name).unlink, missing_ok=True)
        self._show()

    def _count(self, name: str, size_bytes: int) -> None:
        self._forget(name)
        self._known[name] = size_bytes
        self._bytes += size_bytes

    def _forget(self, name: str) -> None:
        self._bytes -= self._known.pop(name, 0)

    def _show(self) -> None:
        metrics.USAGE_SPOOL_RECORDS.set(len(self._known) + len(self._in_memory))

    def _complain(self, what: str) -> None:
        if time.monotonic() - self._complained_s >= _COMPLAIN_EVERY_S:
            self._complained_s = time.monotonic()
            logger.error("%s: usage records are lost", what)


def _name(settlement: Settlement) -> str:
    return hashlib.sha256(settlement.turn_id.encode()).hexdigest()[:40] + _SUFFIX


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole, and wait until the disk has it."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _encode(settlement: Settlement) -> bytes:
    limits = [[limit.subject, limit.kind, limit.most] for limit in settlement.limits]
    actual = settlement.actual
    return json.dumps(
        {
            "turn": settlement.turn_id,
            "limits": limits,
            "units": actual.units,
            "record": b64encode(actual.record).decode(),
            "sure": settlement.is_sure,
            "ended": settlement.ended_unix_ms,
        }
    ).encode()


def _decode(data: bytes) -> Settlement:
    entry: dict[str, Any] = json.loads(data)
    return Settlement(
        entry["turn"],
        [Limit(subject, LimitKind(kind), most) for subject, kind, most in entry["limits"]],
        SoFar(entry["units"], b64decode(entry["record"])),
        entry["sure"],
        entry["ended"],
    )
