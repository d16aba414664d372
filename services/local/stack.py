"""The whole stack on one machine, as a context: all processes ready inside it, none left after it."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from services.common.scratch import ScratchDir
from services.local.errors import StartFailedError, WrongOptionError
from services.local.plan import StackOptions, process_groups
from services.local.process import ManagedProcess
from services.local.supervisor import Supervisor

READY_POLL_S = 0.1


def _say_nothing(_: str) -> None:
    pass


class LocalStack:
    """Starts the stack on entering, watches it inside the block, stops it on leaving.

    `state_file` (None: none) is kept up to date: {"url", "grpc_address", "redis_url", "log_dir",
    "metrics_ports": {name: port}, "pids": {name: pid}}; a service that is being started again has no port, or no pid.
    """

    def __init__(
        self,
        options: StackOptions,
        environ: Mapping[str, str],
        state_file: Path | None = None,
        say: Callable[[str], None] = _say_nothing,
    ) -> None:
        """`say` is told of each service that becomes ready. Raise WrongOptionError where the port is in use."""
        # One number for the life of the stack, also where any will do: a gateway that starts again keeps its addresses.
        self._port = _free_port(options.http_host, options.http_port, "PORT")
        self.url = f"http://{options.http_host}:{self._port}"
        given = dict(options.settings.get("gateway", {}))
        grpc = (given.get("grpc_host", "127.0.0.1"), int(given.get("grpc_port", "0")))
        given["grpc_port"] = str(_free_port(*grpc, "gateway.grpc_port"))
        options = replace(options, http_port=self._port, settings={**options.settings, "gateway": given})
        if options.data_dir is not None:
            # A command line shows no token, and another stack on the same data has its own control plane.
            port, token = _free_port("127.0.0.1", 0, "the control plane"), secrets.token_hex(32)
            options = replace(options, data_dir=options.data_dir.absolute(), control_port=port, control_token=token)
        self._options = options
        self._state_file = state_file
        # A socket's path may have 107 bytes: not under a long $TMPDIR.
        self._scratch = ScratchDir(Path("/tmp"))  # noqa: S108  # the folder is made anew, for this user alone
        self.log_dir = (options.log_dir or Path("out") / f"logs-{self._port}").absolute()
        self.log_dir.mkdir(parents=True, exist_ok=True)
        inherited = {key: value for key, value in environ.items() if not key.startswith("ANTIPHON_")}
        self._groups = [
            [ManagedProcess(spec, self.log_dir) for spec in group]
            for group in process_groups(options, self._scratch.path, inherited)
        ]
        self._supervisor = Supervisor(
            self._groups,
            options.start_timeout_s,
            self._write_state,
            lambda name, seconds: say(f"  {name} is ready after {seconds:.0f} s"),
        )
        self._watch: asyncio.Task[None] | None = None

    @property
    def processes(self) -> list[ManagedProcess]:
        """All processes of the stack, in the order of their start."""
        return [process for group in self._groups for process in group]

    @property
    def redis_url(self) -> str:
        """Of the stack's own Valkey, or the one given; the latter's password is apart."""
        return self._gateway.spec.environ["ANTIPHON_REDIS_URL"]

    @property
    def grpc_address(self) -> str:
        """Of the gateway."""
        host = self._options.settings.get("gateway", {}).get("grpc_host", "127.0.0.1")
        return f"{host}:{self._gateway.ports.get('grpc', 0)}"

    @property
    def metrics_url(self) -> str:
        """Of the gateway, which also shows the queues."""
        host = self._options.settings.get("gateway", {}).get("metrics_host", "127.0.0.1")
        return f"http://{host}:{self._gateway.ports.get('metrics', 0)}/metrics"

    async def __aenter__(self) -> Self:
        """Raise StartFailedError where a service does not start."""
        try:
            await self._supervisor.start()
            self._watch = asyncio.create_task(self._supervisor.watch(), name="watch")
            await self._wait_serving()
        except BaseException:
            await self._end()
            raise
        self._write_state()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._supervisor.stop()
        self._scratch.close()

    @property
    def _gateway(self) -> ManagedProcess:
        return self._groups[-1][0]

    async def _wait_serving(self) -> None:
        """Until the gateway knows its workers. Raises StartFailedError."""
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                while not await asyncio.to_thread(_answers, f"{self.url}/health/ready"):  # noqa: ASYNC110  # a process
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            raise StartFailedError(f"the gateway never became ready\n{self._gateway.log_tail()}") from None

    def _write_state(self) -> None:
        if self._state_file is None:
            return
        processes = {process.spec.name: process for process in self.processes}
        state = {
            "url": self.url,
            "grpc_address": self.grpc_address,
            "redis_url": self.redis_url,
            "log_dir": str(self.log_dir),
            "metrics_ports": {name: process.ports["metrics"] for name, process in processes.items() if process.ports},
            "pids": {name: process.pid for name, process in processes.items()},
        }
        temporary = self._state_file.with_suffix(".new")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._state_file)


def _free_port(host: str, port: int, name: str) -> int:
    """Return `port`, or a free one for 0. Raise WrongOptionError now, and not after half a minute of loading."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            reason = f"port {port} of {host} is not free: {error.strerror}; choose another {name}"
            raise WrongOptionError(reason) from None
        return probe.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own gateway
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
