"""Stores the bytes that a service hands out by reference, within a budget, for as long as a request needs them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.common.errors import Capacity, Gone


@dataclass(slots=True)
class _Blob:
    data: bytes
    holders: dict[str, float] = field(default_factory=dict)  # request id → when the hold lapses (monotonic, s)


class BlobStore:
    """Blobs by key, held by requests.

    A blob that no request holds is a cache entry. It is dropped when room is needed, least recently used first, or at
    once where `keep_released` is false. A hold lapses after `hold_s`, so that a gateway that dies without a Release
    does not take memory for ever.
    Not thread-safe: one event loop uses it.
    """

    def __init__(
        self,
        budget_bytes: int,
        *,
        hold_s: float = 900.0,
        keep_released: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._hold_s = hold_s
        self._keep_released = keep_released
        self._clock = clock
        self._blobs: OrderedDict[str, _Blob] = OrderedDict()
        self._requests: dict[str, set[str]] = {}
        self._released = asyncio.Event()
        self._released.set()
        self.used_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._blobs

    def __len__(self) -> int:
        return len(self._blobs)

    @property
    def held_requests(self) -> int:
        """Number of requests that hold at least one blob."""
        return len(self._requests)

    def put(self, key: str, data: bytes, request_id: str) -> None:
        """Store `data` under `key`, held by `request_id`. A key that is there already is only held.

        Raise Capacity where live requests hold too much to leave room for it.
        """
        if key not in self._blobs:
            self._make_room(len(data))
            self._blobs[key] = _Blob(data)
            self.used_bytes += len(data)
        self.hold((key,), request_id)

    def hold(self, keys: Iterable[str], request_id: str) -> None:
        """Hold `keys` for `request_id` too. Raise Gone, and hold none, where one of them is missing."""
        keys = tuple(keys)
        for key in keys:
            self._find(key)
        until = self._clock() + self._hold_s
        for key in keys:
            self._blobs[key].holders[request_id] = until
            self._requests.setdefault(request_id, set()).add(key)
            self._released.clear()

    def get(self, key: str) -> bytes:
        """Return the blob's bytes. Raise Gone."""
        return self._find(key).data

    def release(self, request_id: str) -> None:
        """Drop all holds of `request_id`. An unknown request is no error."""
        for key in self._requests.pop(request_id, ()):
            blob = self._blobs.get(key)
            if blob is None:
                continue
            blob.holders.pop(request_id, None)
            if not blob.holders and not self._keep_released:
                self._drop(key)
        if not self._requests:
            self._released.set()

    async def wait_released(self) -> None:
        """Wait until no request holds anything. A drain waits for it: the next stage may still fetch a held blob."""
        await self._released.wait()

    def expire(self) -> None:
        """Release the requests with a lapsed hold. Called before room is made, and periodically by the service."""
        now = self._clock()
        holds = [hold for blob in self._blobs.values() for hold in blob.holders.items()]
        lapsed = {request_id for request_id, until in holds if until <= now}
        for request_id in lapsed:
            self.release(request_id)

    def _find(self, key: str) -> _Blob:
        blob = self._blobs.get(key)
        if blob is None:
            raise Gone("A tensor of this request is no longer held.", code="blob_gone")
        self._blobs.move_to_end(key)
        return blob

    def _make_room(self, size_bytes: int) -> None:
        if self.used_bytes + size_bytes <= self._budget_bytes:
            return
        self.expire()
        for key in [key for key, blob in self._blobs.items() if not blob.holders]:
            if self.used_bytes + size_bytes <= self._budget_bytes:
                return
            self._drop(key)
        if self.used_bytes + size_bytes > self._budget_bytes:
            raise Capacity(
                "There is no room for this request's media at the moment. Send it again.",
                code="tensor_store_full",
                retry_after_s=1,
            )

    def _drop(self, key: str) -> None:
        blob = self._blobs.pop(key)
        self.used_bytes -= len(blob.data)
        for request_id in blob.holders:
            self._requests.get(request_id, set()).discard(key)
