"""Each official client, as its makers release it, holds its conversations: `make test-clients` installs them."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from tests.clients import environments
from tests.fixtures.tls import Certificates
from tests.fixtures.wait import HANGS_AFTER_S
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.scripted.stages import Stages

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _client(name: str) -> Any:
    # Skipped before the gateway is started for it.
    missing = pytest.mark.skipif(
        not environments.is_made(name), reason="the client is not installed: make test-clients"
    )
    return pytest.param(name, marks=missing)


@pytest.fixture
def sounds(name: str, tmp_path: Path) -> Path:
    """Return a folder with what a user says. Skip clients with a microphone where that can't be had."""
    if "Microphone" in environments.script(name).read_text():
        (tmp_path / "hello.pcm").write_bytes(silence(400) + said("hello"))
    return tmp_path


@pytest.mark.parametrize("name", [_client(name) for name in environments.names()])
async def test_client(name: str, stages: Stages, sounds: Path, secure_url: str, certificates: Certificates) -> None:
    script = environments.script(name)
    client = await asyncio.create_subprocess_exec(
        *environments.command(name),
        *(f"{stages.gateway.url}/v1", API_KEY, INSTRUCT.name, str(sounds), f"{secure_url}/v1"),
        cwd=environments.BUILT / name,
        # Nothing of ours but what clients' scripts share, and no proxy or key of the machine's.
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": str(script.parents[1]),
            "NODE_EXTRA_CA_CERTS": str(certificates.authority),
        },
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            out, err = await client.communicate()
    finally:
        if client.returncode is None:  # it would hold sessions of the gateway that the next client talks with
            client.kill()
            await client.wait()
    assert client.returncode == 0, f"{out.decode()}\n{err.decode()}"
    held = out.decode().split()
    # Each that the script defines.
    assert held == re.findall(r"^(?:async )?(?:def|function) ([a-z]\w+)\(\) ", script.read_text(), re.MULTILINE)
    assert held
