"""Leader and followers of a thinker on several nodes: who may join, and how each detects that another is gone."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import BadInput
from services.common.settings import SettingsError, load_settings
from services.thinker.group import Leader, following, leading
from services.thinker.settings import ThinkerSettings
from tests.fixtures.ports import free_ports
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

HOST = "127.0.0.1"


def member(port: int, rank: int = 0, nodes: int = 3, **fields: Any) -> ThinkerSettings:
    given: dict[str, Any] = {
        "redis_url": "redis://unused",
        "model": "unused",
        "pipeline_parallel_size": nodes,
        "nodes": nodes,
        "node_rank": rank,
        "master_address": HOST,
        "master_port": port,
    }
    return ThinkerSettings(**given | fields)


@pytest.fixture
def port() -> int:
    return free_ports(3)


async def test_followers_join_in_any_order_and_a_loss_is_detected(port: int) -> None:
    async def hold(rank: int, leave: asyncio.Event) -> bool:
        async with following(member(port, rank)) as gone:
            waits = [asyncio.create_task(gone.wait()), asyncio.create_task(leave.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            return gone.is_set()

    leave = asyncio.Event()
    early = asyncio.create_task(hold(1, leave))  # before there is a leader
    async with leading(member(port)) as leader:
        late = asyncio.create_task(hold(2, asyncio.Event()))
        await wait_until(lambda: leader.joined == frozenset((1, 2)))
        assert not leader.lost.is_set()
        leave.set()
        assert await early is False
        await asyncio.wait_for(leader.lost.wait(), HANGS_AFTER_S)
        assert leader.joined == frozenset((2,))
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
    await wait_until(lambda: not leader.joined)


async def test_a_follower_learns_that_its_leader_is_gone(port: int) -> None:
    """The leader's end of the connection closes, as it does when a process ends."""

    async def attend_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert json.loads(await reader.readline())["node_rank"] == 1
        writer.write(b'{"refused": ""}\n')
        await writer.drain()
        await leave.wait()
        writer.close()

    leave = asyncio.Event()
    server = await asyncio.start_server(attend_and_leave, HOST, port + 1)
    async with following(member(port, 1)) as gone:
        assert not gone.is_set()
        leave.set()
        await asyncio.wait_for(gone.wait(), HANGS_AFTER_S)
    server.close()


@pytest.mark.parametrize(
    ("own", "param", "told"),
    [
        ({"max_model_len": 4096}, "max_model_len", "the follower has 4096, the leader 32768; set both alike"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size", "the follower has 2, the leader 1; set both alike"),
        ({"nodes": 6, "pipeline_parallel_size": 6, "rank": 4}, "node_rank", "4 is not between 1 and 2"),
    ],
)
async def test_a_follower_with_other_settings_is_refused_by_name(
    port: int, own: dict[str, Any], param: str, told: str
) -> None:
    async with leading(member(port)) as leader:
        with pytest.raises(BadInput) as refusal:
            async with following(member(port, **({"rank": 1} | own))):
                pass
        assert (refusal.value.param, refusal.value.message) == (param, told)
        assert not leader.joined
        assert not leader.lost.is_set()


async def test_a_second_follower_of_one_rank_is_refused(port: int) -> None:
    async with leading(member(port)) as leader, following(member(port, 1)):
        with pytest.raises(BadInput, match="joined already"):
            async with following(member(port, 1)):
                pass
        assert leader.joined == frozenset((1,))


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n", b""])
async def test_a_peer_that_is_no_follower_is_disconnected(port: int, said: bytes) -> None:
    async with leading(member(port)) as leader:
        reader, writer = await asyncio.open_connection(HOST, port + 1)
        writer.write(said)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), HANGS_AFTER_S)
        assert b'"refused": ""' not in answer
        writer.close()
        assert not leader.joined
        assert not leader.lost.is_set()


async def test_a_port_in_use_is_named(port: int) -> None:
    async with leading(member(port)):
        with pytest.raises(BadInput) as refusal:
            async with leading(member(port)):
                pass
    assert refusal.value.param == "master_port"


async def test_a_thinker_on_one_node_waits_for_nobody() -> None:
    async with leading(ThinkerSettings(redis_url="redis://unused", model="unused")) as leader:
        assert isinstance(leader, Leader)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"nodes": "2"}, "ANTIPHON_NODES: Value error, 1 GPUs"),
        ({"nodes": "2", "pipeline_parallel_size": "2"}, "ANTIPHON_MASTER_ADDRESS: Value error, is needed"),
        ({"node_rank": "1"}, "ANTIPHON_NODE_RANK: Value error, must be less than nodes, which is 1"),
        ({"master_port": "65534"}, "ANTIPHON_MASTER_PORT"),
    ],
)
def test_settings_that_contradict_a_group_are_named(
    given: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ANTIPHON_")]:
        monkeypatch.delenv(name)
    for name, value in {"redis_url": "redis://unused", "model": "unused", **given}.items():
        monkeypatch.setenv(f"ANTIPHON_{name.upper()}", value)
    with pytest.raises(SettingsError, match=named):
        load_settings(ThinkerSettings)


async def test_a_leader_ends_with_its_follower_while_it_loads(port: int, tiny_instruct: Path) -> None:
    """vLLM alone would hang: loading runs in a thread that cannot be stopped, and it waits for all nodes."""
    leader = member(port, nodes=2, model=str(tiny_instruct))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    environ |= {f"ANTIPHON_{name.upper()}": str(getattr(leader, name)) for name in leader.model_fields_set}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.thinker", env=environ)
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            async with following(member(port, 1, nodes=2)):
                pass
            assert await process.wait() == 1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
