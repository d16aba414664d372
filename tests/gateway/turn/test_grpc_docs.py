"""The client of docs/grpc.md, run as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY
from tests.gateway.grpc_port import grpc_port
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages

ROOT = Path(__file__).parents[3]
SOUND = bytes(range(256)) * 10


@asynccontextmanager
async def client(stages: Stages, folder: Path, key: str = API_KEY) -> AsyncGenerator[Process]:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/grpc.md").read_text(), re.MULTILINE | re.DOTALL)
    script, recording = folder / "client.py", folder / "question.wav"
    script.write_text(code)
    recording.write_bytes(SOUND)
    async with grpc_port(stages.gateway) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(script), address, key, str(recording), str(folder / "reply.pcm")),
            env={**os.environ, "PYTHONPATH": str(ROOT / "protos")},
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_it_sends_sound_and_takes_text_and_speech(stages: Stages, tmp_path: Path) -> None:
    async with client(stages, tmp_path) as process:
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.decode() == stages.story.text
    assert (tmp_path / "reply.pcm").read_bytes() == stages.story.pcm
    assert [worker.media for worker in stages.preprocess if worker.media] == [[[SOUND]]]


async def test_an_interrupt_frees_the_slots(stages: Stages, tmp_path: Path) -> None:
    stages.next_calls("thinker", Act("hang", 3))
    async with client(stages, tmp_path) as process:
        assert process.stdout is not None
        assert await process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 0
        await wait_until(stages.clean)


async def test_it_says_what_is_wrong(stages: Stages, tmp_path: Path) -> None:
    async with client(stages, tmp_path, key="wrong") as process:
        _, err = await process.communicate()
    assert b'code: "invalid_api_key"' in err
