"""The command line of the local stack, turned into its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.common.model_card import locate_checkpoint, read_model_card
from services.common.stages import STAGES
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, TrainedFilesMissingError, cached_checkpoint, trained_checkpoint
from services.local.errors import WrongOptionError
from services.local.given_redis import GivenRedis, check_redis
from services.local.given_settings import check_settings
from services.local.gpu_plan import check_gpu_settings, plan_gpus, read_needs
from services.local.gpus import list_gpus
from services.local.plan import StackOptions, parse_settings

OWN_VARIABLES = frozenset({"ANTIPHON_CACHE"})
OTHERS_VARIABLES = frozenset({"ANTIPHON_URL", "ANTIPHON_API_KEY", "ANTIPHON_TRAINING", "ANTIPHON_ASTERISK_SOUNDS"})
"""Of `antiphon` and the training, which the shell that starts the stack may have. They mean nothing here."""
DEFAULT_PORT = 8901
"""Of `up`; the demo takes any free one."""
LAST_PORT = 65535
RANDOM = "random"
"""As --model: the checkpoint of random weights. A folder of that name is "./random"."""


def add_stack_arguments(
    parser: argparse.ArgumentParser, port: int = DEFAULT_PORT, data_dir: Path | None = None
) -> None:
    add = parser.add_argument
    add(
        "--model",
        default="",
        help="folder of a checkpoint, or its name on the hub; "
        f'"{RANDOM}": a tiny one of random weights (default: the tiny one of the small world)',
    )
    add("--host", default="127.0.0.1", help="address that the HTTP port binds (default %(default)s)")
    add("--port", type=int, default=port, help="HTTP port, 0 = any free one (default %(default)s)")
    add("--api-key", default="", help="key that clients must send; better given as API_KEY in the environment")
    add(
        "--redis-url",
        default="",
        help="a Redis or Valkey to use; better given as REDIS_URL and REDIS_PASSWORD",
    )
    add("--replicas", type=int, default=1, help="workers of each stage (default %(default)s)")
    add("--gpu", action="store_true", help="thinker and talker on this machine's GPUs")
    add("--set", action="append", default=[], metavar="SERVICE.SETTING=VALUE", help="a service's setting; repeatable")
    add(
        "--data-dir",
        type=_folder,
        default=data_dir,
        help='where files, batches and their database are kept; "" = they are not served (default %(default)s)',
    )
    add("--log-dir", type=Path, help="where the services' logs go (default out/logs-<port>)")
    add("--start-timeout-s", type=float, default=1800.0, help="longest start of a service (default %(default)s)")
    add("--state-file", type=Path, help="JSON with the URL, addresses and process ids is kept here")


def _folder(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _say_nothing(_: str) -> None:
    pass


def read_options(
    arguments: argparse.Namespace, environ: Mapping[str, str], say: Callable[[str], None] = _say_nothing
) -> StackOptions:
    """Check all options before anything starts, and build the random checkpoint if that is asked for.

    Raise WrongOptionError.
    """
    if strays := sorted(
        name for name in environ if name.startswith("ANTIPHON_") and name not in OWN_VARIABLES | OTHERS_VARIABLES
    ):
        raise WrongOptionError(
            f"{', '.join(strays)}: the local stack does not read these variables. "
            "Give a service's settings as --set (SET=… with make)."
        )
    settings = parse_settings(arguments.set)
    api_key = arguments.api_key or environ.get("API_KEY", "")
    check_settings(arguments.set, settings, environ, api_key)
    if not 0 <= arguments.port <= LAST_PORT:
        raise WrongOptionError(
            f"PORT={arguments.port} is not a port: choose one from 1 to {LAST_PORT}, or 0 for any free one"
        )
    _check_replicas(arguments.replicas, settings, gpu=arguments.gpu)
    gpus = list_gpus(environ) if arguments.gpu else []
    if gpus:
        check_gpu_settings(gpus, settings)
    redis = None
    if redis_url := arguments.redis_url or environ.get("REDIS_URL", ""):
        redis = GivenRedis(redis_url, environ.get("REDIS_USERNAME", ""), environ.get("REDIS_PASSWORD", ""))
        check_redis(redis, environ)
    folder, name = _find_model(arguments.model, environ, say)
    try:
        card = read_model_card(folder, name)
    except BadInput as error:
        raise WrongOptionError(f"--model {arguments.model}: {error.message}") from None
    speaks = card.kind == common_pb2.MODEL_KIND_INSTRUCT
    return StackOptions(
        model=folder,
        served_name=name,
        speaks=speaks,
        http_host=arguments.host,
        http_port=arguments.port,
        api_key=api_key,
        redis=redis,
        gpus=plan_gpus(gpus, read_needs(folder), settings, speaks=speaks) if gpus else None,
        settings=settings,
        log_dir=arguments.log_dir,
        start_timeout_s=arguments.start_timeout_s,
        replicas=arguments.replicas,
        data_dir=arguments.data_dir,
    )


def _find_model(model: str, environ: Mapping[str, str], say: Callable[[str], None]) -> tuple[Path, str]:
    """Return a checkpoint's folder, and the name that it is served under."""
    if model == RANDOM:
        folder = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(environ), say)
        return folder, folder.name
    try:
        if not model:
            folder = trained_checkpoint(Kind.INSTRUCT)
            return folder, folder.name
        if Path(model).expanduser().is_dir():
            folder = locate_checkpoint(model)
            return folder, folder.name
        say(f"looking for {model}: what is not in the hub's cache is downloaded now, which may take long …")
        return locate_checkpoint(model), model.rstrip("/").rpartition("/")[2]
    except TrainedFilesMissingError as error:
        raise WrongOptionError(str(error)) from None
    except BadInput as error:
        raise WrongOptionError(f"--model {model}: {error.message}") from None


def _check_replicas(replicas: int, settings: Mapping[str, Mapping[str, str]], *, gpu: bool) -> None:
    if replicas < 1:
        raise WrongOptionError(f"REPLICAS={replicas}: at least one worker of each stage is needed")
    if replicas == 1:
        return
    if gpu:
        raise WrongOptionError(f"REPLICAS={replicas}: on GPUs this stack runs one worker of each stage")
    for stage in STAGES:
        for name in ("grpc_port", "metrics_port"):
            if settings.get(stage, {}).get(name, "0") != "0":
                raise WrongOptionError(f"{stage}.{name}: {replicas} workers cannot share a port; leave it out")
