"""Which worker the engine runs, and where."""

from __future__ import annotations

import pytest
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from services.thinker.engine.arguments import engine_arguments
from services.thinker.service import read_checkpoint
from services.thinker.settings import ThinkerSettings


@pytest.mark.parametrize(
    ("binding", "changes", "in_the_core"),
    [
        ("nobind", {}, True),
        ("0-3", {}, False),
        ("nobind", {"tensor_parallel_size": 2}, False),
        ("nobind", {"pipeline_parallel_size": 2}, False),
    ],
)
def test_a_cpu_worker_has_its_own_process_only_when_needed(
    binding: str, changes: dict[str, int], in_the_core: bool, settings: ThinkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    settings = settings.model_copy(update=changes)
    arguments = engine_arguments(
        settings, read_checkpoint(settings), on_cpu=True, hidden_states_endpoint="ipc://unused"
    )
    assert ("UniProc" in str(arguments.distributed_executor_backend)) is in_the_core


@pytest.mark.parametrize(("on_cpu", "kind"), [(True, CPUWorker), (False, Worker)])
def test_the_worker_is_the_thinkers_on_each_device(on_cpu: bool, kind: type, settings: ThinkerSettings) -> None:
    arguments = engine_arguments(
        settings, read_checkpoint(settings), on_cpu=on_cpu, hidden_states_endpoint="ipc://unused"
    )
    worker = resolve_obj_by_qualname(arguments.worker_cls)
    assert issubclass(worker, kind)
    assert worker.__module__.startswith("services.thinker.")
