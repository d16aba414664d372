"""One supervised process: its start, its readiness, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.local.errors import StartFailedError

LEASH = Path(__file__).with_name("leash.py")
LOG_TAIL_BYTES = 8192
READY_POLL_S = 0.05
SET_NICE_AGAIN_S = 0.1


@dataclass(frozen=True)
class ProcessSpec:
    """What is run, and how one knows that it can work."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    """The whole environment; it may hold the API key."""
    ready_path: Path
    """Appears when the process can work: a service's ready file (JSON with its ports), Valkey's socket."""
    drain_s: float
    """How long it may take to end after SIGTERM."""
    starts_alone: str = ""
    """Processes with the same name here start one after the other, each once the one before is ready."""
    replica_of: str = ""
    """Processes with the same name here do the same work; "" = this one is alone."""


class ManagedProcess:
    """Runs a spec's process, and restarts it on request. Logs to `<log_dir>/<name>.log`, which the first start empties.

    The process leads a session of its own: a Ctrl-C at the terminal reaches only the supervisor, and what the process
    leaves behind in its group can be ended with it.
    """

    def __init__(self, spec: ProcessSpec, log_dir: Path) -> None:
        self.spec = spec
        self.log_path = log_dir / f"{spec.name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        self._was_ready = False
        self.ports: dict[str, int] = {}
        """What the ready file says, {"grpc": …, "metrics": …, "http": …}; empty before, and for Valkey."""

    @property
    def ready(self) -> bool:
        """Whether it has become ready, and not ended since."""
        return self._was_ready and self.pid is not None

    @property
    def pid(self) -> int | None:
        """None before the first start and after the end."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        self.ports, self._was_ready = {}, False
        self.spec.ready_path.unlink(missing_ok=True)
        with self.log_path.open("wb" if self._process is None else "ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", str(LEASH), str(os.getpid()), *self.spec.command),
                env=dict(self.spec.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def set_nice(self, nice: int) -> None:
        """Give the process' session less of a busy CPU, 0 (as others) to 19, where Linux groups sessions (autogroup in
        sched(7)). Plain niceness has no effect between such groups, and only root could take it back."""
        group = Path(f"/proc/{self.pid}/autogroup")
        while True:
            try:
                group.write_text(str(nice))  # noqa: ASYNC240  # the kernel answers at once
            except BlockingIOError:  # Linux takes ten changes a second
                await asyncio.sleep(SET_NICE_AGAIN_S)
            except OSError:  # it has ended, or there are no such groups
                return
            else:
                return

    async def wait_ready(self, timeout_s: float) -> None:
        """Raise StartFailedError."""
        ended = asyncio.ensure_future(self._child.wait())
        try:
            async with asyncio.timeout(timeout_s):
                while not self.spec.ready_path.exists():
                    await asyncio.wait((ended,), timeout=READY_POLL_S)
                    if ended.done():
                        raise StartFailedError(f"{self.spec.name} ended with {self._how()}\n{self.log_tail()}")
        except TimeoutError:
            raise StartFailedError(f"{self.spec.name} was not ready after {timeout_s:g} s\n{self.log_tail()}") from None
        finally:
            ended.cancel()
        if self.spec.ready_path.is_file():  # and not a socket
            self.ports = json.loads(self.spec.ready_path.read_text())
        self._was_ready = True

    async def wait_ended(self) -> str:
        """Wait for the process' end and return its cause: "status 1" or "SIGKILL"."""
        await self._child.wait()
        self.kill()
        return self._how()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole group after the drain; returns when the process is gone."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(self.spec.drain_s):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        await asyncio.shield(self.wait_ended())

    def kill(self) -> None:
        """Kill the whole process group at once, including children that a dead process left behind."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # nothing is left of it
                os.killpg(self._process.pid, signal.SIGKILL)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the current run, each behind the service's name."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(f"{self.spec.name} | {line}" for line in text.splitlines()[-lines:])

    @property
    def _child(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.spec.name} was never started")
        return self._process

    def _how(self) -> str:
        code = self._child.returncode or 0
        return signal.Signals(-code).name if code < 0 else f"status {code}"
