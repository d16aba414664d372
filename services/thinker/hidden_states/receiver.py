"""Receives hidden states from the engine's processes, and hands them out by reference."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import zmq
import zmq.asyncio

from antiphon.v1 import common_pb2
from services.common.errors import BadInput, Capacity, TooLarge, WorkerLost
from services.common.scratch import ScratchDir
from services.common.tensors.store import BlobStore
from services.thinker.hidden_states.positions import count
from services.thinker.sampling import HIDDEN_STATES

logger = logging.getLogger(__name__)

# Hidden states leave the engine before the first token; only the socket lies between.
_LATEST_S = 10.0


class Expected:
    """The hidden states that one request waits for."""

    def __init__(self, id_: str, spans: Sequence[tuple[int, int]], token_bytes: int) -> None:
        self.id = id_
        self._spans = list(spans)
        self._token_bytes = token_bytes
        self._first_token = [0, *accumulate(end - start for start, end in spans)]
        self._missing = self._first_token[-1]
        self.data = bytearray(self._missing * token_bytes)
        self.dtype = ""
        self.complete = asyncio.Event()

    @property
    def tokens(self) -> int:
        return self._first_token[-1]

    @property
    def extra_args(self) -> dict[str, Any]:
        """Return what the request tells the connector."""
        return {HIDDEN_STATES: {"id": self.id, "spans": [list(span) for span in self._spans]}}

    def add(self, start: int, end: int, dtype: str, payload: memoryview) -> None:
        """Take the hidden states of the prompt positions [start, end), which are in one span."""
        span, first_token = next(
            (
                (span, first)
                for span, first in zip(self._spans, self._first_token, strict=False)
                if span[0] <= start < span[1]
            ),
            ((0, 0), 0),
        )
        if end > span[1] or len(payload) != (end - start) * self._token_bytes:
            raise ValueError(f"the hidden states {start} to {end}, {len(payload)} bytes, were not asked for")
        at = (first_token + start - span[0]) * self._token_bytes
        self.data[at : at + len(payload)] = payload
        self.dtype = dtype
        self._missing -= end - start
        if not self._missing:
            self.complete.set()


class HiddenStateReceiver:
    """Receives the hidden states that requests ask for.

    The byte budget covers what the store holds and what is still expected, so a request is refused before it costs a
    prefill, and never after.
    """

    def __init__(self, store: BlobStore, budget_bytes: int, hidden_size: int, network_endpoint: str = "") -> None:
        """`network_endpoint`: "tcp://host:port" of this machine, where another machine's workers send to. A request's
        hidden states are addressed by an id that nobody can guess."""
        self._store = store
        self._budget_bytes = budget_bytes
        self._hidden_size = hidden_size
        self._expected: dict[str, Expected] = {}
        self._reserved_bytes = 0
        # A folder of our own, mode 0700: nobody else can send to it.
        self._folder = ScratchDir()
        self.endpoint = network_endpoint or f"ipc://{self._folder.path / 'socket'}"
        self._zmq = zmq.asyncio.Context()
        self._socket = self._zmq.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # bounded by the budget
        port = network_endpoint.rpartition(":")[2]
        try:
            self._socket.bind(f"tcp://*:{port}" if network_endpoint else self.endpoint)
        except zmq.ZMQError:
            self.close()
            raise BadInput(f"port {port} (master_port + 2) is in use; choose another", param="master_port") from None

    @contextmanager
    def expect(self, spans: Sequence[tuple[int, int]], itemsize: int) -> Generator[Expected]:
        """Reserve room for the hidden states of `spans` while the block runs, or until `deliver` stores them.

        Raises TooLarge where they can never fit, Capacity where they do not fit now.
        """
        token_bytes = self._hidden_size * itemsize
        size = count(spans) * token_bytes
        if size > self._budget_bytes:
            raise TooLarge(
                "the media in the messages are too long for a spoken answer: at most "
                f"{self._budget_bytes // token_bytes} media tokens are possible. Send less, or ask for text alone",
                code="hidden_states_too_large",
                param="messages",
            )
        if self._store.used_bytes + self._reserved_bytes + size > self._budget_bytes:
            self._store.expire()
        if self._store.used_bytes + self._reserved_bytes + size > self._budget_bytes:
            raise Capacity(
                "the thinker has no memory left for this request's media; try again",
                code="hidden_states_full",
                retry_after_s=1,
            )
        expected = Expected(secrets.token_hex(16), spans, token_bytes)
        self._expected[expected.id] = expected
        self._reserved_bytes += size
        try:
            yield expected
        finally:
            if self._expected.pop(expected.id, None) is not None:
                self._reserved_bytes -= size

    async def deliver(self, expected: Expected, request_id: str, owner: str) -> common_pb2.TensorRef:
        """Wait for all hidden states; return a reference to them, [tokens, hidden size], held for `request_id`."""
        try:
            async with asyncio.timeout(_LATEST_S):
                await expected.complete.wait()
        except TimeoutError:
            logger.exception("hidden states of %s did not arrive", request_id)
            raise WorkerLost("the thinker lost this request's media", retry_after_s=1) from None
        del self._expected[expected.id]
        self._reserved_bytes -= len(expected.data)
        self._store.put(expected.id, bytes(expected.data), request_id)
        return common_pb2.TensorRef(
            blob=common_pb2.BlobRef(owner=owner, key=expected.id, size_bytes=len(expected.data)),
            dtype=expected.dtype,
            shape=[expected.tokens, self._hidden_size],
        )

    async def run(self) -> None:
        """Receive from the socket; runs as a task beside the service."""
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            if len(frames) != 3:  # from no connector
                continue
            id_, header, payload = frames
            expected = self._expected.get(bytes(id_.buffer).decode(errors="replace"))
            if expected is None:  # its request has ended
                continue
            fields = json.loads(bytes(header.buffer))
            expected.add(fields["start"], fields["end"], fields["dtype"], payload.buffer)

    def close(self) -> None:
        self._zmq.destroy(linger=0)
        self._folder.close()
