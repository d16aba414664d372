"""What a client is told whose files are too large or too many, and that nothing is left of what was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import batching

pytestmark = pytest.mark.asyncio


async def test_files_are_within_their_limits(store: RedisServer, tmp_path: Path) -> None:
    control = {"tenant_files": 3, "tenant_file_bytes": 3100}
    async with batching(store.url, tmp_path, control=control, max_file_bytes=2048) as world:

        async def told(size_bytes: int) -> tuple[int, str | None]:
            answer = await world.upload(b"x" * size_bytes)
            return answer.status_code, answer.json().get("error", {}).get("code")

        assert await told(2049) == (413, "media_too_large")
        assert await told(2048) == (200, None)
        assert await told(1053) == (413, "file_limit_reached")
        assert await told(1051) == (200, None)
        assert await told(1) == (200, None)
        assert await told(1) == (403, "file_limit_reached")
        files = (await world.client.get("/v1/files")).json()["data"]
        assert [file["bytes"] for file in files] == [1, 1051, 2048]
        await wait_until(lambda: len(world.objects) == len(files))

        deleted = await world.client.delete(f"/v1/files/{files[-1]['id']}")
        assert deleted.json()["deleted"]
        assert await told(2048) == (200, None)  # there is room again
