"""An engine on two nodes gives what one node gives: a leader in this process, and a real follower process.

Both run on this machine's CPU, and vLLM's workers talk over gloo. Nothing else differs from two hosts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.channels import open_channel
from services.common.tensors.codec import tensor_from_bytes
from services.thinker.engine.worker_processes import workers_beside_the_core
from services.thinker.group import leading
from services.thinker.service import Thinker, running_thinker
from services.thinker.settings import ThinkerSettings
from tests.fixtures.ports import free_ports
from tests.fixtures.processes import descendants, has_ended, kill_group
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.thinker.cases import CASES
from tests.thinker.collect import Collected, collect
from tests.thinker.conftest import Prepare
from tests.thinker.prepared import Owner
from tests.thinker.served_core import served_core
from tests.thinker.test_group import HOST

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASKED = ("text", "audio", "image, audio and video", "audio in video")
START_S = 240
SAMPLED = {"temperature": 0.8, "seed": 7, "max_tokens": 24}


class Follower:
    """A process `python -m services.thinker` with a node rank."""

    def __init__(self, process: Process, ready: Path) -> None:
        self.process = process
        self.ready = ready

    async def health(self) -> str:
        ports = json.loads(self.ready.read_text())
        async with open_channel(f"{HOST}:{ports['grpc']}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HANGS_AFTER_S)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


@asynccontextmanager
async def running_follower(leader: ThinkerSettings, folder: Path) -> AsyncGenerator[Follower]:
    ready = folder / "ready.json"
    follower = leader.model_copy(update={"node_rank": 1, "ready_file": ready, "drain_s": 60})
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    told = (*leader.model_fields_set, "node_rank", "ready_file", "drain_s")
    environ |= {f"ANTIPHON_{name.upper()}": str(getattr(follower, name)) for name in told}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.thinker", env=environ, start_new_session=True
    )
    try:
        yield Follower(process, ready)
    finally:
        await kill_group(process)


@asynccontextmanager
async def two_nodes(
    one: ThinkerSettings, owner: Owner, folder: Path, **split: int
) -> AsyncGenerator[tuple[Thinker, Follower]]:
    """Run a leader in this process, and its follower. The end of the block stops only the leader."""
    both = one.model_copy(update={"nodes": 2, "master_address": HOST, "master_port": free_ports(3), **split})
    async with AsyncExitStack() as stack:
        follower = await stack.enter_async_context(running_follower(both, folder))
        core = stack.enter_context(served_core(workers_beside_the_core(both)))
        async with leading(both) as leader:
            async with asyncio.timeout(START_S), AsyncExitStack() as starting:
                thinker = await starting.enter_async_context(running_thinker(both, owner, "thinker:1", core))
                await wait_until(follower.ready.exists)
                running = starting.pop_all()
            assert leader.joined == frozenset((1,))
            async with running:
                yield thinker, follower
        assert await asyncio.wait_for(follower.process.wait(), HANGS_AFTER_S) is not None


async def ask(thinker: Thinker, prepared: Prepare, name: str, turn: str, **sampling: object) -> Collected:
    wants: dict[str, Any] = {"wants_hidden_states": True} if CASES[name].media != CASES["text"].media else {}
    return await collect(thinker, prepared(name).request(turn, sampling=sampling or {"max_tokens": 24}, **wants))


def hidden_states_of(thinker: Thinker, got: Collected) -> torch.Tensor:
    assert got.hidden_states is not None
    return tensor_from_bytes(
        thinker.hidden_states.get(got.hidden_states.blob.key), got.hidden_states.dtype, tuple(got.hidden_states.shape)
    ).float()


class OneNode:
    """Answers of the engine on one node, each made once."""

    def __init__(self, thinker: Thinker, prepared: Prepare) -> None:
        self._thinker = thinker
        self._prepared = prepared
        self._made: dict[str, tuple[Collected, torch.Tensor | None]] = {}

    async def answer(self, name: str, **sampling: object) -> tuple[Collected, torch.Tensor | None]:
        """Return an answer, and its hidden states where it has some."""
        turn = f"one-{name}-{sampling}"
        if turn not in self._made:
            got = await ask(self._thinker, self._prepared, name, turn, **sampling)
            self._made[turn] = got, hidden_states_of(self._thinker, got) if got.hidden_states is not None else None
        return self._made[turn]


@pytest.fixture(scope="module")
def one_node(thinker: Thinker, prepared: Prepare) -> OneNode:
    return OneNode(thinker, prepared)


async def assert_the_same_answers(one: OneNode, two: Thinker, prepared: Prepare) -> None:
    async def both(name: str, turn: str, **sampling: object) -> None:
        wanted, hidden_states = await one.answer(name, **sampling)
        got = await ask(two, prepared, name, f"two-{turn}", **sampling)
        assert got.token_ids == wanted.token_ids, name
        if hidden_states is not None:
            assert torch.allclose(hidden_states_of(two, got), hidden_states, atol=1e-4, rtol=0)

    for name in ASKED:
        await both(name, name)
    await both("text", "sampled", **SAMPLED)
    async with asyncio.TaskGroup() as group:
        for name in ASKED:
            group.create_task(both(name, f"together-{name}"))


@pytest.mark.parametrize(
    "layers", ["2,2", "3,1"], ids=["hidden states inside a stage", "hidden states at the start of a stage"]
)
async def test_pipeline_stages_on_two_nodes_answer_as_one_node(
    layers: str,
    one_node: OneNode,
    settings: ThinkerSettings,
    prepared: Prepare,
    owner: Owner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The talker reads the input of layer 3. In the released checkpoint it is the second stage's first layer."""
    monkeypatch.setenv("VLLM_PP_LAYER_PARTITION", layers)
    async with two_nodes(settings, owner, tmp_path, pipeline_parallel_size=2) as (both, follower):
        assert await follower.health() == "SERVING"
        await assert_the_same_answers(one_node, both, prepared)
        workers = descendants(follower.process.pid)
        # A group that is scaled away: the follower keeps working until the leader has drained.
        follower.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: is_not_serving(follower))
        assert (await ask(both, prepared, "text", "draining")).token_ids
    assert follower.process.returncode == 0
    await wait_until(lambda: all(map(has_ended, workers)))


async def is_not_serving(follower: Follower) -> bool:
    return await follower.health() == "NOT_SERVING"


async def test_tensor_parallel_nodes_answer_as_one_node_and_end_together(
    one_node: OneNode, settings: ThinkerSettings, prepared: Prepare, owner: Owner, tmp_path: Path
) -> None:
    async with two_nodes(settings, owner, tmp_path, tensor_parallel_size=2) as (both, follower):
        await assert_the_same_answers(one_node, both, prepared)
        workers = descendants(follower.process.pid)
        assert workers
    assert follower.process.returncode == 1
    await wait_until(lambda: all(map(has_ended, workers)))
