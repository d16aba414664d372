"""The engine core, which is forked before it is known what it runs. The tests use a process without threads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures.processes import has_ended
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

SCRIPT = """
import gc, os, signal, sys
from multiprocessing import connection
from pathlib import Path
gc.disable()
from services.thinker.engine.environment import prepare_environment
prepare_environment()
from services.thinker.engine.core_process import forked_core, started_as
from vllm.v1.engine import utils

def work(*, path, status):
    Path(path).write_text(f"{os.getpid()} {os.environ.get('ADDED')} {os.environ.get('REMOVED')}")
    sys.exit(status)

assert os.listdir("/proc/self/task") == [str(os.getpid())]  # what is forked here has no thread
with forked_core() as core:
    os.environ["ADDED"] = "yes"
    del os.environ["REMOVED"]
    with started_as(core):
        new = utils.get_mp_context().Process
        process = new(target=work, name="EngineCore", kwargs={"path": sys.argv[1], "status": 7})
    os.kill(core.pid, signal.SIGINT)
    process.start()
    assert connection.wait([process.sentinel], timeout=280)
    process.join()
    assert process.exitcode == 7, process.exitcode
    assert Path(sys.argv[1]).read_text() == f"{process.pid} yes None"

with started_as(None):
    assert utils.get_mp_context().Process is not core
assert utils.get_mp_context().Process is not core

with forked_core() as core:
    pass
core.join(280)
assert core.exitcode == 0, core.exitcode

with forked_core() as core:
    print(core.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_the_core_runs_its_task_and_ends_with_its_parent(tmp_path: Path) -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, str(tmp_path / "written")],
        env=os.environ | {"REMOVED": "no", "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert ran.returncode == -9, ran.stderr
    waiting = int(ran.stdout)
    await wait_until(lambda: has_ended(waiting))


THREADED = """
import logging, threading
from services.thinker.engine.environment import prepare_environment
prepare_environment()
from services.thinker.engine.core_process import CoreProcess, forked_core
logging.basicConfig(format="%(message)s")
end = threading.Event()
threading.Thread(target=end.wait).start()
try:
    with forked_core() as core:
        assert core is None
    CoreProcess().fork()
except RuntimeError as error:
    print(error)
finally:
    end.set()
"""


async def test_a_process_with_threads_is_not_forked() -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", THREADED],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert "spawned, not forked, so the start takes longer: this process has 2 threads" in ran.stderr
    assert ran.stdout.startswith("a process with 2 threads cannot be forked")
