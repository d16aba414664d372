"""gRPC channels, and the options that all clients and servers share."""

from __future__ import annotations

import grpc.aio

# A long prompt's token ids and a chunk of inline media fit. Larger data is fetched by reference, in chunks.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# One Fetch or inline chunk.
CHUNK_BYTES = 1024 * 1024

_SHARED = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Both sides notice within 15 s that the other one vanished, though nothing closes the connection. The first timeout
    # is of data that TCP does not acknowledge; a proxy or a mesh sidecar acknowledges, and then the second one counts,
    # whose default is a minute.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)
CHANNEL_OPTIONS = (
    *_SHARED,
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
    """Open a plain-text channel to `address` ("host:port"). A service mesh encrypts, if there is one."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


class ChannelPool:
    """One channel for each peer. Opens a channel at its first use and closes all of them together."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    def get(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address)
        return channel

    async def forget(self, address: str) -> None:
        """Close the channel to a peer that is gone."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()
