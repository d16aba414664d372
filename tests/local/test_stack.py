"""Whole stacks: their output, two stacks side by side, and a clean end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.ports import free_port
from tests.fixtures.processes import descendants, has_ended
from tests.fixtures.stack import Stack
from tests.fixtures.wait import wait_until


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def second(
    tmp_path_factory: pytest.TempPathFactory, tiny_thinking: Path, stack: Stack, grpc_port: int
) -> Iterator[Stack]:
    """Start a second stack beside the first: without a key, without a talker, and with gRPC on a chosen port."""
    folder, given = tmp_path_factory.mktemp("second"), f"--set=gateway.grpc_port={grpc_port}"
    running = Stack(folder, tiny_thinking, given, api_key="")
    running.wait_ready()
    yield running
    running.stop()


def is_ready(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def said_curl(stack: Stack) -> list[str]:
    line = next(line for line in stack.said.splitlines() if line.startswith("try:"))
    return shlex.split(line.removeprefix("try:"))


def test_the_ready_line_names_model_and_url(stack: Stack) -> None:
    first, second = stack.said.splitlines()[:2]
    assert first.startswith(f"starting {stack.model} in 4 services; logs in {stack.log_dir} ")
    assert second.startswith(f"ready: {stack.model} at {stack.url} ")
    assert "random weights" in stack.said
    assert "No API key is set" not in stack.said


def test_the_output_has_the_grpc_address_and_its_option(stack: Stack, second: Stack, grpc_port: int) -> None:
    assert f"\ngRPC:  {stack.grpc_address} " in stack.said
    assert "SET=gateway.grpc_port=" in stack.said
    assert second.grpc_address == f"127.0.0.1:{grpc_port}"
    assert f"\ngRPC:  {second.grpc_address}\n" in second.said


def test_the_printed_curl_line_works(stack: Stack) -> None:
    answered = subprocess.run(["curl", "-sS", *said_curl(stack)[1:]], capture_output=True, text=True, timeout=60)
    assert answered.stdout.rstrip().endswith("data: [DONE]"), answered


def test_two_stacks_share_nothing(stack: Stack, second: Stack) -> None:
    assert second.url != stack.url
    assert second.redis_url != stack.redis_url
    assert set(second.pids) == {"valkey", "preprocess", "thinker", "gateway"}
    assert "No API key is set" in second.said
    answered = subprocess.run(["curl", "-sS", *said_curl(second)[1:]], capture_output=True, text=True, timeout=60)
    assert answered.stdout.rstrip().endswith("data: [DONE]"), answered


async def test_a_service_that_dies_is_restarted(second: Stack) -> None:
    before = second.pids["gateway"]
    os.kill(before, signal.SIGKILL)
    await wait_until(
        lambda: second.pids.get("gateway") not in {before, None} and "gateway" in second.metrics_ports, within_s=60
    )
    await wait_until(lambda: is_ready(second))


async def test_ctrl_c_ends_all_processes_of_its_own_stack_only(stack: Stack, second: Stack) -> None:
    processes = descendants(second.supervisor.pid)
    assert set(second.pids.values()) <= processes
    second.stop(signal.SIGINT)
    assert second.supervisor.returncode == 0
    await wait_until(lambda: all(map(has_ended, processes)))
    assert not any(map(has_ended, stack.pids.values()))
    assert is_ready(stack)


def test_a_wrong_setting_stops_the_start_and_names_itself(tiny_instruct: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(tiny_instruct), "--port", "0", "--log-dir", str(tmp_path)]
    started = subprocess.run(
        [sys.executable, "-m", "services.local", "up", *arguments, "--set", "gateway.no_such=1"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert started.returncode == 1
    assert started.stderr.startswith("gateway.no_such=1: no such setting; ")
    assert "Traceback" not in started.stderr
