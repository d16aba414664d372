"""Files and batches as openai-python uses them, unmodified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, ConflictError, NotFoundError
from pydantic import SecretStr

from tests.fixtures.redis import RedisServer
from tests.fixtures.s3 import BUCKET, KEY, SECRET, S3Server
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import CHAT, batching, line
from tests.gateway.conftest import API_KEY


async def test_openai_python_runs_a_batch(store: RedisServer, s3: S3Server, tmp_path: Path) -> None:
    """The files are in S3."""
    objects: dict[str, Any] = {
        "object_store_url": f"s3://{BUCKET}/clients",
        "object_store_endpoint": s3.endpoint,
        "object_store_key": KEY,
        "object_store_secret": SecretStr(SECRET),
    }
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(line(f"line-{index}") + "\n" for index in range(3)))
    async with (
        batching(store.url, tmp_path, **objects) as world,
        AsyncOpenAI(base_url=f"{world.stages.gateway.url}/v1", api_key=API_KEY, max_retries=0) as client,
    ):
        file = await client.files.create(
            file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
        )
        assert (file.object, file.bytes, file.filename) == ("file", path.stat().st_size, "requests.jsonl")
        assert file.expires_at == file.created_at + 7200
        assert [each.id async for each in client.files.list(purpose="batch")] == [file.id]
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"of": "tests"},
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (batch.completion_window, batch.metadata) == ("24h", {"of": "tests"})

        async def is_over() -> bool:
            return (await client.batches.retrieve(batch.id)).status == "completed"

        await wait_until(is_over)
        done = await client.batches.retrieve(batch.id)
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed) == (3, 3)
        assert done.output_file_id is not None
        lines = (await client.files.content(done.output_file_id)).text.splitlines()
        assert {json.loads(each)["custom_id"] for each in lines} == {"line-0", "line-1", "line-2"}
        output = await client.files.retrieve(done.output_file_id)
        assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 3600)
        assert [each.id async for each in client.batches.list(limit=1)] == [batch.id]
        with pytest.raises(ConflictError):
            await client.batches.cancel(batch.id)
        left = sorted(f"clients/files/{id}" for id in (file.id, done.output_file_id))
        await wait_until(lambda: s3.objects("clients/") == left)
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(NotFoundError):
            await client.files.retrieve(file.id)
