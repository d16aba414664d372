"""The control plane as its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.control.conftest import ADMIN_KEY, TOKEN

_START_S = 120.0


@dataclass(frozen=True)
class ControlProcess:
    process: subprocess.Popen[bytes]
    environ: dict[str, str]
    ports: dict[str, int]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    def stop(self) -> None:
        """End it as its supervisor does. It must end well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running_process(folder: Path, database_url: str, **variables: str) -> Generator[ControlProcess]:
    """Start one and wait until it is ready. `variables`: settings, without their prefix."""
    ready, log = folder / "ready.json", folder / "log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")} | {
        "ANTIPHON_DATABASE_URL": database_url,
        "ANTIPHON_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
        "ANTIPHON_GATEWAY_TOKEN": TOKEN,
        "ANTIPHON_HTTP_PORT": "0",
        "ANTIPHON_READY_FILE": str(ready),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **{f"ANTIPHON_{name}": value for name, value in variables.items()},
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.control"], env=environ, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        deadline_s = time.monotonic() + _START_S
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
        yield ControlProcess(process, environ, json.loads(ready.read_text()), log)
    finally:
        process.kill()
        process.wait()
