"""A CPU engine's worker runs inside the engine core, unless something requires a process of its own."""

from __future__ import annotations

import pytest

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
def test_a_worker_has_its_own_process_only_when_needed(
    binding: str, changes: dict[str, int], in_the_core: bool, settings: ThinkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    settings = settings.model_copy(update=changes)
    arguments = engine_arguments(
        settings, read_checkpoint(settings), on_cpu=True, hidden_states_endpoint="ipc://unused"
    )
    assert ("UniProc" in str(arguments.distributed_executor_backend)) is in_the_core
