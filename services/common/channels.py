"""gRPC channels: the options that every client and server here shares."""

from __future__ import annotations

import grpc.aio

# A long prompt's ids and a message of inline media fit; what is larger goes by reference, in chunks.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# One Fetch or inline chunk.
CHUNK_BYTES = 1024 * 1024

_SHARED = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
CHANNEL_OPTIONS = (
    *_SHARED,
    # A worker whose machine vanished is noticed within 15 s, though nothing closes its connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
SERVER_OPTIONS = (
    *_SHARED,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_metadata_size", 16 * 1024),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address` ("host:port"), plain text: encryption between services is the mesh's."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


class ChannelPool:
    """One channel for each peer, opened at first use and closed together."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    def get(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address)
        return channel

    async def forget(self, address: str) -> None:
        """Closes the channel to a peer that is gone."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()
