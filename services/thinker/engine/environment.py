"""Sets vLLM's environment variables before vLLM is imported. Its processes inherit them; the operator's values stay."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from services.thinker.hidden_states.plugin import ENGINE_OF_A_THINKER

_BINDING, _UNBOUND = "VLLM_CPU_OMP_THREADS_BIND", "nobind"


def on_cpu() -> bool:
    """Return whether the installed vLLM is the CPU build."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def binds_threads(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether vLLM binds a CPU worker's threads to cores. The worker then needs a process of its own."""
    return environ.get(_BINDING) != _UNBOUND


def prepare_environment(environ: MutableMapping[str, str] = os.environ, *, json_logs: bool = False) -> None:
    """Set the variables that vLLM reads. `json_logs`: its loggers write what the service's write."""
    environ[ENGINE_OF_A_THINKER] = "1"
    environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # model_runner.py and the hidden states' connector extend the first one
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR" if on_cpu() else "WARNING",  # on a CPU its warnings are about speed
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # NumPy starts OpenBLAS threads at its import, and a process with threads cannot be forked.
        "OPENBLAS_NUM_THREADS": "1",
    }
    if on_cpu():
        defaults |= {
            "OMP_NUM_THREADS": "1",
            _BINDING: _UNBOUND,  # otherwise every engine of the machine binds itself to core 0
        }
    if json_logs:
        defaults["VLLM_LOGGING_CONFIG_PATH"] = str(Path(__file__).with_name("json_logs.json"))
    for name, value in defaults.items():
        environ.setdefault(name, value)
