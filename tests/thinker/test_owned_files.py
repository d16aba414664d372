"""What vLLM's executors leave behind when their process is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from services.common.scratch import ScratchDir

SCRIPT = """
import multiprocessing, os, signal
multiprocessing.set_start_method("spawn")  # as in an engine's core
from services.thinker.engine.environment import prepare_environment
prepare_environment()
from torch.distributed import FileStore
from tqdm import tqdm
from vllm.v1.executor import multiproc_executor, uniproc_executor
from services.thinker.engine.owned_files import owned_files

with owned_files():
    lock = uniproc_executor.Lock()
    list(tqdm([1], disable=False))
    for module in (uniproc_executor, multiproc_executor):
        path = module.get_file_store_init_method().removeprefix("file://")
        FileStore(path, 2).set("key", "value")
        print(path)
    mapped = {line.split()[4] for line in open("/proc/self/maps") if "/dev/shm/" in line}
    print(*(entry.name for entry in os.scandir("/dev/shm") if str(entry.inode()) in mapped), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_start_removes_the_files_of_a_killed_engine(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == -9, ran.stderr
    *stores, locks = ran.stdout.splitlines()
    assert locks == ""
    assert [Path(store).exists() for store in stores] == [True, True]
    with ScratchDir(tmp_path):
        assert [Path(store).exists() for store in stores] == [False, False]
    assert list(tmp_path.iterdir()) == []
