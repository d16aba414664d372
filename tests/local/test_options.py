"""Options and settings of the local stack, which refuses wrong ones before it starts anything."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from services.common.settings import END_S
from services.local.checkpoint import Kind, trained
from services.local.checkpoint.trained import TRAINED_DIR
from services.local.errors import WrongOptionError
from services.local.given_redis import GivenRedis
from services.local.given_settings import check_settings
from services.local.gpu_plan import GpuPlan, GpuShare
from services.local.gpus import LocalGpu
from services.local.options import add_stack_arguments, read_options
from services.local.plan import DRAIN_S, StackOptions, parse_settings, process_groups
from tests.fixtures.ports import free_port
from tests.fixtures.wait import HANGS_AFTER_S


def up(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return local("up", *arguments, **environ)


def local(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.local", *arguments]
    return subprocess.run(
        command, env=os.environ | environ, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=False
    )


def read(arguments: list[str]) -> StackOptions:
    parser = ArgumentParser()
    add_stack_arguments(parser)
    caches = {name: os.environ[name] for name in ("ANTIPHON_CACHE", "XDG_CACHE_HOME") if name in os.environ}
    return read_options(parser.parse_args(["--port=0", *arguments]), caches)


def options(model: Path, **changes: object) -> StackOptions:
    plain: dict[str, object] = {
        "model": model,
        "served_name": model.name,
        "speaks": True,
        "http_host": "127.0.0.1",
        "http_port": 0,
        "api_key": "",
        "redis": None,
        "gpus": None,
        "settings": {},
        "log_dir": model,
        "start_timeout_s": 1.0,
        "replicas": 1,
    }
    return StackOptions(**(plain | changes))  # pyright: ignore[reportArgumentType]


def test_a_port_in_use_is_reported_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = up("--port", str(port))
    assert ended.returncode == 1
    assert f"port {port} of 127.0.0.1 is not free" in ended.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
@pytest.mark.parametrize("command", ["up", "demo"])
def test_an_invalid_port_is_reported_without_a_traceback(command: str, port: str) -> None:
    ended = local(command, f"--port={port}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"PORT={port} is not a port: choose one")
    assert "Traceback" not in ended.stderr


def test_a_missing_redis_is_reported_before_anything_starts() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    ended = up(REDIS_URL=url.replace("://", "://me:s3cret@"))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"REDIS_URL: no Redis answers at {url}: ")
    assert "s3cret" not in ended.stderr
    assert "starting" not in ended.stdout


@pytest.mark.parametrize(
    "url",
    ["foo://x", "redis://r:99999", "redis+sentinel://r:1", "redis://r?socket_timeout=long", "unix:///r?no_such=1"],
)
def test_an_invalid_redis_url_is_reported_without_a_traceback(url: str) -> None:
    ended = up("--redis-url", url)
    assert ended.returncode == 1
    assert ended.stderr.startswith("REDIS_URL: ")
    assert "Traceback" not in ended.stderr


def test_without_a_model_the_small_world_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / Kind.INSTRUCT.trained_name
    monkeypatch.setattr(trained, "TRAINED_DIR", tmp_path)
    with pytest.raises(WrongOptionError, match=r"config\.json is missing.*MODEL=random"):
        read([])
    shutil.copytree(TRAINED_DIR / folder.name, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(WrongOptionError, match=r"model\.safetensors is missing"):
        read([])
    (folder / "model.safetensors").touch()
    chosen = read([])
    assert (chosen.model, chosen.served_name, chosen.speaks) == (folder, folder.name, True)


def test_the_random_checkpoint_has_a_word_of_its_own(tiny_instruct: Path) -> None:
    chosen = read(["--model", "random"])
    assert (chosen.model, chosen.served_name) == (tiny_instruct, Kind.INSTRUCT.folder_name)


@pytest.mark.parametrize("model", ["./missing", "no-hub-name"])
def test_an_unknown_model_is_named(model: str) -> None:
    ended = up("--model", model)
    assert ended.returncode == 1
    assert ended.stdout.startswith(f"looking for {model}: ")
    assert model in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    ended = up("--model", str(tmp_path))
    assert ended.returncode == 1
    assert f"{tmp_path}/config.json is missing" in ended.stderr


def test_the_clients_variables_are_not_strays() -> None:
    ended = up("--set", "thinker.slots=few", ANTIPHON_URL="http://127.0.0.1:8901", ANTIPHON_API_KEY="sk")
    assert ended.returncode == 1
    assert ended.stderr.startswith("thinker.slots=few: ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_stray_variable_is_named() -> None:
    ended = up(ANTIPHON_SLOTS="3")
    assert ended.returncode == 1
    assert "ANTIPHON_SLOTS" in ended.stderr


@pytest.mark.parametrize("pair", ["thinker", "thinker.slots", "thinker=4", "singer.slots=4", ".slots=4"])
def test_a_malformed_setting_is_named(pair: str) -> None:
    with pytest.raises(WrongOptionError, match=pair.replace(".", r"\.")):
        parse_settings([pair])


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("thinker.slotz=4", "no such setting; the nearest is slots"),
        ("gateway.keep_alive=4", "no such setting; the nearest is keep_alive_s"),
        ("thinker.slots=many", "wants a whole number from 1"),
        ("thinker.slots=0", "wants a whole number from 1"),
        ("thinker.dtype=int3", "wants one of auto, bfloat16, float16, float32"),
        ("gateway.tenant_keys=x", "wants a JSON map"),
        ("thinker.nodes=3", "1 GPUs (tensor_parallel_size × pipeline_parallel_size) do not divide by 3"),
        ("max_model_len=long", "preprocess: wants a whole number from 1"),
        ("device=cuda:0", "preprocess: no such setting"),
        ("gateway.ready_file=/x", "the stack sets ready_file itself"),
    ],
)
def test_a_wrong_setting_is_quoted_as_written(pair: str, said: str) -> None:
    with pytest.raises(WrongOptionError) as wrong:
        check_settings([pair], parse_settings([pair]), os.environ)
    assert str(wrong.value).splitlines()[0].startswith(f"{pair}: {said}")


@pytest.mark.parametrize(
    ("pair", "written"), [("gateway.http_port=9000", "PORT="), ("gateway.api_key=k3y", "API_KEY=")]
)
def test_options_given_as_settings_are_refused_with_the_right_name(pair: str, written: str) -> None:
    with pytest.raises(WrongOptionError, match=written) as wrong:
        check_settings([pair], parse_settings([pair]), os.environ)
    assert "k3y" not in str(wrong.value)


def test_right_settings_are_accepted() -> None:
    pairs = ["thinker.slots=4", "gateway.log_level=DEBUG", "max_model_len=4096"]
    check_settings(pairs, parse_settings(pairs), os.environ)


def test_a_wrong_setting_is_reported_before_anything_starts(tmp_path: Path) -> None:
    ended = up("--log-dir", str(tmp_path / "logs"), "--set", "thinker.slotz=4", "--set", "preprocess.slots=none")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "thinker.slotz=4: no such setting; the nearest is slots",
        "preprocess.slots=none: wants a whole number from 1 (requests that this worker takes at a time)",
    ]
    assert not (tmp_path / "logs").exists()


def test_settings_reach_the_service_that_they_name(tmp_path: Path) -> None:
    settings = parse_settings(["thinker.slots=4", "gateway.max_waiting=9", "thinker.seed=a=b"])
    groups = process_groups(options(tmp_path, settings=settings), tmp_path, {"PATH": "/bin"})
    specs = {spec.name: spec for group in groups for spec in group}
    assert specs["thinker"].environ["ANTIPHON_SLOTS"] == "4"
    assert specs["thinker"].environ["ANTIPHON_SEED"] == "a=b"
    assert specs["gateway"].environ["ANTIPHON_MAX_WAITING"] == "9"
    assert "ANTIPHON_SLOTS" not in specs["talker"].environ


def test_a_service_has_time_for_its_drain(tmp_path: Path) -> None:
    groups = process_groups(options(tmp_path, settings=parse_settings(["gateway.drain_s=7"])), tmp_path, {})
    granted_s = {spec.name: spec.drain_s for group in groups for spec in group}
    assert granted_s["gateway"] == 7 + END_S
    assert granted_s["thinker"] == DRAIN_S + END_S


def test_without_speech_there_is_no_talker_and_a_given_redis_is_used(tmp_path: Path) -> None:
    groups = process_groups(options(tmp_path, speaks=False, redis=GivenRedis("redis://r:1/0")), tmp_path, {})
    assert [[spec.name for spec in group] for group in groups] == [[], ["preprocess", "thinker"], ["gateway"]]
    assert {spec.environ["ANTIPHON_REDIS_URL"] for group in groups for spec in group} == {"redis://r:1/0"}


def test_replicas_are_processes_of_their_own_with_the_same_settings(tmp_path: Path) -> None:
    settings = parse_settings(["thinker.slots=4"])
    groups = process_groups(options(tmp_path, replicas=2, settings=settings), tmp_path, {})
    names = [[spec.name for spec in group] for group in groups]
    workers = [f"{stage}-{index}" for stage in ("preprocess", "thinker", "talker") for index in (0, 1)]
    assert names == [["valkey"], workers, ["gateway"]]
    specs = {spec.name: spec for group in groups for spec in group}
    thinkers = [specs["thinker-0"], specs["thinker-1"]]
    assert [spec.environ["ANTIPHON_SLOTS"] for spec in thinkers] == ["4", "4"]
    assert len({spec.ready_path for spec in specs.values()}) == len(specs)
    assert {spec.command[-1] for spec in thinkers} == {"services.thinker"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--replicas=0",), "REPLICAS=0: at least one worker"),
        (("--replicas=2", "--gpu"), "REPLICAS=2: on GPUs"),
        (("--replicas=2", "--set=thinker.grpc_port=9000"), "thinker.grpc_port: 2 workers cannot share a port"),
    ],
)
def test_impossible_replicas_are_refused(arguments: tuple[str, ...], said: str) -> None:
    ended = up(*arguments)
    assert ended.returncode == 1
    assert ended.stderr.startswith(said)


def test_the_gateway_is_open_only_without_a_key(tmp_path: Path) -> None:
    opened = process_groups(options(tmp_path), tmp_path, {})[-1][0].environ
    closed = process_groups(options(tmp_path, api_key="secret"), tmp_path, {})[-1][0]
    assert opened["ANTIPHON_ALLOW_ANONYMOUS"] == "true"
    assert closed.environ["ANTIPHON_API_KEY"] == "secret"
    assert "ANTIPHON_ALLOW_ANONYMOUS" not in closed.environ
    assert "secret" not in repr(closed)


def test_engines_get_the_plan_and_start_in_turn_on_one_gpu(tmp_path: Path) -> None:
    gpu, other = (LocalGpu(index, "some", 80 << 30, 0) for index in range(2))
    for talkers, alone in ((gpu, "gpu"), (other, "")):
        plan = GpuPlan(GpuShare((gpu,), 0.85), GpuShare((talkers,), 0.12))
        groups = process_groups(options(tmp_path, gpus=plan), tmp_path, {})
        specs = {spec.name: spec for group in groups for spec in group}
        assert specs["thinker"].environ["ANTIPHON_GPU_MEMORY_UTILIZATION"] == "0.85"
        assert specs["talker"].environ["ANTIPHON_MEMORY_FRACTION"] == "0.12"
        assert specs["talker"].environ["ANTIPHON_DEVICE"] == f"cuda:{talkers.index}"
        assert {name: spec.starts_alone for name, spec in specs.items()} == {
            "valkey": "",
            "preprocess": "",
            "thinker": alone,
            "talker": alone,
            "gateway": "",
        }


def test_a_setting_without_a_service_is_for_all_workers() -> None:
    settings = parse_settings(["max_model_len=65536", "thinker.slots=4"])
    assert settings == {
        "preprocess": {"max_model_len": "65536"},
        "thinker": {"max_model_len": "65536", "slots": "4"},
        "talker": {"max_model_len": "65536"},
    }
