"""Processes of services that are killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fixtures.wait import wait_until


class ServiceProcess:
    """`python -m module`. Each start has the same settings, and new ports where they say 0."""

    def __init__(self, module: str, folder: Path, settings: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = folder.name
        self.log = folder / "log"
        self._module = module
        self._ready = folder / "ready.json"
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}
        self.deaths = 0

    async def start(self) -> None:
        """Start it and wait until it serves. Raise RuntimeError where it ends."""
        self._ready.unlink(missing_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
        environ |= {f"ANTIPHON_{name}": value for name, value in self.settings.items()}
        environ |= {"ANTIPHON_READY_FILE": str(self._ready), "PYTHONPATH": os.pathsep.join(sys.path)}
        with self.log.open("ab") as log:
            self._process = await asyncio.to_thread(
                subprocess.Popen, [sys.executable, "-m", self._module], env=environ, stdout=log, stderr=log
            )
        await wait_until(lambda: self._ready.exists() or self.has_ended)
        if self.has_ended:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()}")
        self.ports = json.loads(self._ready.read_text())

    @property
    def pid(self) -> int | None:
        """None = it never ran."""
        return self._process.pid if self._process is not None else None

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def told(self, what: str) -> int:
        """Return how often its log says this."""
        return self.log.read_text().count(what)

    async def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self.deaths += 1
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            await asyncio.to_thread(self._process.wait)
