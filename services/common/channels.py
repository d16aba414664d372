"""gRPC channels, and the options that all clients and servers share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio

# A long prompt's token ids and a chunk of inline media fit. Larger data is fetched by reference, in chunks.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# One Fetch or inline chunk.
CHUNK_BYTES = 1024 * 1024
_CONNECTION_AGE_MS = 30 * 60 * 1000
_HANDSHAKE_MS = 15_000
_CALLS_A_CONNECTION = 1000
_UNREAD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024

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


@dataclass(frozen=True, slots=True)
class GrpcConnections:
    """Limits on the connections of a server that strangers reach."""

    # Of all, with or without a key. gRPC closes one too many at once.
    most: int
    max_message_bytes: int
    # How long a connection without a call may last.
    idle_s: float
    # How long a call may last: a connection ends so long after its last call at the latest.
    longest_call_s: float

    @property
    def options(self) -> dict[str, int]:
        return {
            "grpc.max_receive_message_length": self.max_message_bytes,
            "grpc.max_allowed_incoming_connections": self.most,
            "grpc.max_connection_idle_ms": round(self.idle_s * 1000),
            # Whoever keeps a connection busy without a key has it so long. Others connect anew, and notice nothing.
            "grpc.max_connection_age_ms": _CONNECTION_AGE_MS,
            "grpc.max_connection_age_grace_ms": round(self.longest_call_s * 1000),
            # From the first byte to HTTP/2's settings.
            "grpc.server_handshake_timeout_ms": _HANDSHAKE_MS,
            "grpc.http2.settings_timeout": _HANDSHAKE_MS,
            "grpc.max_concurrent_streams": _CALLS_A_CONNECTION,
            # Bytes of a call that nobody reads yet. gRPC would raise it to megabytes for a fast sender.
            "grpc.http2.bdp_probe": 0,
            "grpc.http2.lookahead_bytes": _UNREAD_BYTES,
            # Bytes of a connection that are read at a time; by default up to 4 MiB. All stay while a call keeps some.
            "grpc.experimental.tcp_max_read_chunk_size": _READ_BYTES,
        }


def open_channel(address: str) -> grpc.aio.Channel:
    """Open a plain-text channel to `address` ("host:port"). A service mesh encrypts, if there is one."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


S = TypeVar("S")
UNUSED_S = 3600.0
"""Longer than any call: one goes on after its channel has lost the connection to new ones, as in a peer's drain."""


class ChannelPool:
    """One channel for each peer. Opens a channel at its first use and closes all of them together.

    A peer that is gone is forgotten: while channels to others open, those that are not connected and were not used
    for UNUSED_S are closed. `clock` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._channels: dict[str, grpc.aio.Channel] = {}
        # Each with what makes it.
        self._stubs: dict[str, tuple[object, Any]] = {}
        self._used_s: dict[str, float] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._channels)

    def stub(self, address: str, make: Callable[[grpc.aio.Channel], S]) -> S:
        """Return the stub that `make`, a generated class, made for this peer at the first use."""
        made_by, stub = self._stubs.get(address, (None, None))
        if made_by is not make:
            stub = make(self.get(address))
            self._stubs[address] = make, stub
        self._used_s[address] = self._clock()
        return stub

    def get(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            self._forget_the_gone()
            channel = self._channels[address] = open_channel(address)
        self._used_s[address] = self._clock()
        return channel

    async def forget(self, address: str) -> None:
        """Close the channel to a peer that is gone."""
        if address in self._channels:
            await self._drop(address).close()

    def _forget_the_gone(self) -> None:
        unused_since_s = self._clock() - UNUSED_S
        for address in [address for address, used_s in self._used_s.items() if used_s < unused_since_s]:
            if self._channels[address].get_state() is not grpc.ChannelConnectivity.READY:
                closing = asyncio.create_task(self._drop(address).close(), name=f"close {address}")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _drop(self, address: str) -> grpc.aio.Channel:
        self._stubs.pop(address, None)
        del self._used_s[address]
        return self._channels.pop(address)

    async def close(self) -> None:
        for channel in [self._drop(address) for address in list(self._channels)]:
            await channel.close()
        await asyncio.gather(*self._closing)
