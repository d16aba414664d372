"""Libraries of Redis functions. A server loads one once, and a call then runs it without reading the text again."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from services.common.redis_client import RedisClient
from services.common.redis_held import HeldConnections

_UNKNOWN = "Function not found"
_EXISTS = "already exists"


class FunctionLibrary:
    """The functions of `body` as one text. Its name holds a digest of it, so two releases never run each other's
    functions.

    `body` registers FUNCTION, which is refused while Redis has no memory left, and FUNCTION .. '_when_full', which is
    not.
    """

    def __init__(self, name: str, body: str) -> None:
        self.function = f"antiphon_{name}_{sha256(body.encode()).hexdigest()[:16]}"
        self.function_when_full = f"{self.function}_when_full"
        self.text = f"#!lua name={self.function}\nlocal FUNCTION = '{self.function}'\n{body}"

    async def call(
        self, redis: RedisClient | HeldConnections, key: str, words: Sequence[Any], *, when_full: bool
    ) -> Any:
        """Run an operation on the server that holds `key`.

        Load the library first where that server does not know it: it is new, or has lost its memory.
        """
        function = self.function_when_full if when_full else self.function
        client: Any = redis  # redis-py's types leave out what a function may return
        try:
            return await client.execute_command("FCALL", function, 1, key, *words)
        except ResponseError as error:
            if _UNKNOWN not in str(error):
                raise
        await self._load(client, key)
        return await client.execute_command("FCALL", function, 1, key, *words)

    async def _load(self, redis: Any, key: str) -> None:
        where = {"target_nodes": redis.get_node_from_key(key)} if isinstance(redis, RedisCluster) else {}
        try:
            await redis.execute_command("FUNCTION LOAD", self.text, **where)
        except ResponseError as error:
            if _EXISTS not in str(error):  # else another client was faster
                raise
