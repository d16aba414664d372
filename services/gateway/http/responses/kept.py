"""Responses that are kept for a while, each as three values: its object, its output, and the input that it answered.

The input is all that the model read: where a response continues another one, that one's input and output come first. So
a conversation goes on for as long as its last response is kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic_core import from_json

from services.common.errors import NotFound, Unavailable
from services.gateway import metrics
from services.gateway.http.responses.answer import Json
from services.gateway.kept.store import KeptStore

# More bytes are parsed and written in a thread, so that the event loop goes on.
_SMALL_BYTES = 1 << 16

R = TypeVar("R")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptItems:
    """The items of a response's input and then of its output. `size_bytes`: what they take where they are kept."""

    items: list[Json]
    size_bytes: int


class KeptResponses:
    """`store`: None = nothing is kept. `max_bytes`: the most that a response and its input may take to be kept."""

    def __init__(self, store: KeptStore | None, max_bytes: int) -> None:
        self._store = store
        self.max_bytes = max_bytes

    @property
    def keeps(self) -> bool:
        return self._store is not None

    async def keep(self, tenant: str, response: Json, input_json: bytes) -> bool:
        """Keep a response and its input. Return False where they are too large, or the store can't be reached: the
        client then has its answer all the same."""
        if self._store is None:
            return False
        id = str(response["id"])
        # The object goes last: where it is found, the rest is, too.
        values = {
            _input_id(id): input_json,
            _output_id(id): _encoded(response["output"]),
            id: _encoded({**response, "output": []}),
        }
        if sum(map(len, values.values())) > self.max_bytes:
            return False
        try:
            for name, value in values.items():
                if await self._store.put(tenant, name, value) is None:
                    return False
        except Unavailable:
            metrics.KEPT_FAILURES.labels("response").inc()
            logger.warning("%s was not kept: the store does not answer", id)
            return False
        return True

    async def response(self, tenant: str, id: str) -> Json:
        """Raise NotFound where there is none of this tenant."""
        response, output = await self._found(tenant, id, id, _output_id(id))
        return {**await _parsed(response), "output": await _parsed(output)}

    async def input(self, tenant: str, id: str) -> list[Json]:
        """Raise NotFound where there is none of this tenant."""
        (items, _) = await self._found(tenant, id, _input_id(id), id)
        return await _parsed(items)

    async def items(self, tenant: str, id: str, *, param: str) -> KeptItems:
        """Raise NotFound, which names `param`, where there is none of this tenant."""
        before, output, _ = await self._found(tenant, id, _input_id(id), _output_id(id), id, param=param)
        return KeptItems([*await _parsed(before), *await _parsed(output)], len(before) + len(output))

    async def outputs(self, tenant: str, ids: Sequence[str]) -> list[bytes | None]:
        """Return the JSON of the output of each response; None = there is none of this tenant."""
        return await self._values(tenant, list(map(_output_id, ids)))

    async def delete(self, tenant: str, id: str) -> None:
        """Raise NotFound where there is none of this tenant."""
        if self._store is None or not await self._store.delete(tenant, id):
            raise no_response(id)
        for name in (_output_id(id), _input_id(id)):
            await self._store.delete(tenant, name)

    async def _found(self, tenant: str, id: str, *names: str, param: str | None = None) -> list[bytes]:
        values = await self._values(tenant, names)
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            raise no_response(id, param)
        return found

    async def _values(self, tenant: str, names: Sequence[str]) -> list[bytes | None]:
        return [None] * len(names) if self._store is None else await self._store.get_many(tenant, names)


def no_response(id: str, param: str | None = None) -> NotFound:
    return NotFound(
        f"No response '{id[:100]}' is kept. Responses are kept for a limited time, and only with 'store': true.",
        param=param,
        code="response_not_found",
    )


def _input_id(id: str) -> str:
    return f"{id}/input"


def _output_id(id: str) -> str:
    return f"{id}/output"


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


async def _parsed(encoded: bytes) -> Any:
    return await in_thread(len(encoded), lambda: from_json(encoded))


async def in_thread(size_bytes: int, work: Callable[[], R]) -> R:
    """Run the work on so many bytes; off the event loop where they are many."""
    return await asyncio.to_thread(work) if size_bytes > _SMALL_BYTES else work()
