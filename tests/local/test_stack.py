"""Whole stacks: their output, two stacks side by side, and a clean end."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.ports import free_port
from tests.fixtures.processes import descendants, has_ended
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def second(
    tmp_path_factory: pytest.TempPathFactory, tiny_thinking: Path, stack: Stack, grpc_port: int
) -> Iterator[Stack]:
    """Start a second stack beside the first: without a key, without a talker, with files and batches, and with gRPC on
    a chosen port.

    Its weights are a copy, which a test may take away.
    """
    folder, given = tmp_path_factory.mktemp("second"), f"--set=gateway.grpc_port={grpc_port}"
    model = folder / tiny_thinking.name
    shutil.copytree(tiny_thinking, model)
    running = Stack(folder, model, given, f"--data-dir={folder}/data", api_key="")
    running.wait_ready()
    yield running
    running.stop()


def is_ready(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def said_curl(stack: Stack) -> list[str]:
    return shlex.split(line_of(stack, "or:"))


def line_of(stack: Stack, label: str) -> str:
    return next(line.removeprefix(label) for line in stack.said.splitlines() if line.startswith(label))


def test_the_ready_line_names_model_and_url(stack: Stack) -> None:
    assert stack.said.startswith(f"starting {stack.model} in 4 services; logs in {stack.log_dir} ")
    assert line_of(stack, "ready:").startswith(f" {stack.model} at {stack.url} ")
    assert "random weights" in stack.said
    assert "No API key is set" not in stack.said


def test_the_output_has_the_grpc_address_and_its_option(stack: Stack, second: Stack, grpc_port: int) -> None:
    assert f"\ngRPC:  {stack.grpc_address} " in stack.said
    assert "SET=gateway.grpc_port=" in stack.said
    assert second.grpc_address == f"127.0.0.1:{grpc_port}"
    assert f"\ngRPC:  {second.grpc_address}\n" in second.said


def test_the_printed_curl_line_works(stack: Stack) -> None:
    answered = subprocess.run(
        ["curl", "-sS", *said_curl(stack)[1:]], capture_output=True, text=True, timeout=HANGS_AFTER_S
    )
    assert answered.stdout.rstrip().endswith("data: [DONE]"), answered


def test_the_printed_command_of_the_client_works(stack: Stack) -> None:
    line = line_of(stack, "try:").replace(".venv/bin/antiphon", f"{shlex.quote(sys.executable)} -m services.cli")
    answered = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=HANGS_AFTER_S)
    assert answered.returncode == 0, answered
    assert answered.stdout.strip()


def test_the_printed_page_is_there(stack: Stack) -> None:
    page = httpx.get(line_of(stack, "page:").strip(), timeout=HANGS_AFTER_S)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


def test_two_stacks_share_nothing(stack: Stack, second: Stack) -> None:
    assert second.url != stack.url
    assert second.redis_url != stack.redis_url
    assert set(second.pids) == {"valkey", "preprocess", "thinker", "gateway", "control"}
    assert "No API key is set" in second.said
    answered = subprocess.run(
        ["curl", "-sS", *said_curl(second)[1:]], capture_output=True, text=True, timeout=HANGS_AFTER_S
    )
    assert answered.stdout.rstrip().endswith("data: [DONE]"), answered


def test_a_running_stack_answers_without_its_weights(second: Stack) -> None:
    away = second.model_dir.with_name("away")
    second.model_dir.rename(away)
    try:
        answered = subprocess.run(
            ["curl", "-sS", *said_curl(second)[1:]], capture_output=True, text=True, timeout=HANGS_AFTER_S
        )
    finally:
        away.rename(second.model_dir)
    assert answered.stdout.rstrip().endswith("data: [DONE]"), answered


async def test_a_batch_runs_in_the_data_folder(second: Stack) -> None:
    body = {"model": second.model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    async with httpx.AsyncClient(base_url=f"{second.url}/v1", timeout=60) as client:
        files = {"file": ("in.jsonl", json.dumps(line).encode())}
        uploaded = (await client.post("/files", data={"purpose": "batch"}, files=files)).json()
        asked = {"input_file_id": uploaded["id"], "endpoint": line["url"], "completion_window": "24h"}
        made = (await client.post("/batches", json=asked)).json()

        async def batch() -> dict[str, Any]:
            return (await client.get(f"/batches/{made['id']}")).json()

        async def is_completed() -> bool:
            return (await batch())["status"] == "completed"

        await wait_until(is_completed)
        result = await client.get(f"/files/{(await batch())['output_file_id']}/content")
    assert result.json()["response"]["body"]["choices"][0]["finish_reason"] == "length"


async def test_a_service_that_dies_is_restarted(second: Stack) -> None:
    before = second.pids["gateway"]
    os.kill(before, signal.SIGKILL)
    await wait_until(lambda: second.pids.get("gateway") not in {before, None} and "gateway" in second.metrics_ports)
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
        timeout=HANGS_AFTER_S,
    )
    assert started.returncode == 1
    assert started.stderr.startswith("gateway.no_such=1: no such setting; ")
    assert "Traceback" not in started.stderr
