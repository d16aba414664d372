"""A pool of channels keeps those that are used, and forgets peers that are gone."""

from __future__ import annotations

import grpc
import grpc.aio

from services.common.channels import UNUSED_S, ChannelPool
from tests.fixtures.wait import wait_until

READY = grpc.ChannelConnectivity.READY


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def listening() -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def connected(pool: ChannelPool, address: str) -> grpc.aio.Channel:
    channel = pool.get(address)
    await channel.channel_ready()
    return channel


async def test_a_peer_that_is_gone_is_forgotten_once_it_is_unused_for_long():
    clock = Clock()
    pool = ChannelPool(clock)
    gone, gone_address = await listening()
    here, address = await listening()
    try:
        channel = await connected(pool, gone_address)
        kept = await connected(pool, address)
        await gone.stop(None)
        await wait_until(lambda: channel.get_state() is not READY)

        pool.get("127.0.0.1:1")
        assert len(pool) == 3, "it was used a moment ago"
        clock.now_s += UNUSED_S + 1
        pool.get("127.0.0.1:1")
        assert len(pool) == 3, "only a new peer makes the pool look"
        pool.get("127.0.0.1:2")
        assert len(pool) == 3, "two are here, and one of them is new"
        assert pool.get(address) is kept, "a connection that lives is kept, however long it is unused"
        assert pool.get(gone_address) is not channel
    finally:
        await pool.close()
        await here.stop(None)
    assert len(pool) == 0
