"""A control plane with a database, an object store, and a gateway with scripted stages: all that batches need."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.fixtures.s3 import s3
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT, store
from tests.gateway.scripted.stages import Stages, scripted_stages

__all__ = ["s3", "store"]

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": INSTRUCT.name, "messages": [{"role": "user", "content": "hello"}]}
OVER = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, body: dict[str, Any] | None = None, url: str = CHAT) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body or HELLO})


@dataclass
class Batching:
    """What tests do with batches, as one client."""

    control: RunningControl
    stages: Stages
    folder: Path
    client: httpx.AsyncClient

    async def upload(self, text: str | bytes, **fields: str) -> httpx.Response:
        files = {"file": ("in.jsonl", text.encode() if isinstance(text, str) else text)}
        return await self.client.post("/v1/files", data={"purpose": "batch", **fields}, files=files)

    async def create(self, lines: Sequence[str], endpoint: str = CHAT, **fields: Any) -> dict[str, Any]:
        """Upload lines and make a batch of them."""
        uploaded = await self.upload("\n".join(lines) + "\n")
        assert uploaded.status_code == 200, uploaded.text
        body = {"input_file_id": uploaded.json()["id"], "endpoint": endpoint, "completion_window": "24h", **fields}
        made = await self.client.post("/v1/batches", json=body)
        assert made.status_code == 200, made.text
        return made.json()

    async def batch(self, id: str) -> dict[str, Any]:
        return (await self.client.get(f"/v1/batches/{id}")).json()

    async def ended(self, id: str) -> dict[str, Any]:
        """Wait until the batch is over, and return it."""

        async def is_over() -> bool:
            return (await self.batch(id))["status"] in OVER

        await wait_until(is_over)
        return await self.batch(id)

    async def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        """Return the lines of a file; none where there is no file."""
        if file_id is None:
            return []
        content = await self.client.get(f"/v1/files/{file_id}/content")
        assert content.status_code == 200, content.text
        return [json.loads(each) for each in content.text.splitlines()]

    @property
    def objects(self) -> list[str]:
        """What is in the object store."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@asynccontextmanager
async def batching(
    store_url: str, folder: Path, *, control: dict[str, Any] | None = None, **more: Any
) -> AsyncGenerator[Batching]:
    """Run it all. The gateway has one key of its own; `more` are settings of the gateway, or how its stages are."""
    async with running_control(f"sqlite:///{folder}/control.db", **(control or {})) as running:
        settings: dict[str, Any] = {
            "batches_address": running.address,
            "control_token": SecretStr(TOKEN),
            "object_store_url": f"file://{folder}/objects",
            "batch_quiet_s": 0.05,
            **more,
        }
        settings = {"workers": 1, "slots": 4, **settings}
        async with scripted_stages(store_url, **settings) as stages:
            yield Batching(running, stages, folder / "objects", stages.gateway.client)
            await wait_until(stages.clean)
