"""The client against a gateway, whose stages follow a script."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.conftest import Antiphon
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, CAPTIONER, INSTRUCT, store
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

__all__ = ["store"]


@pytest.fixture
async def stages(store: RedisServer, antiphon: Antiphon, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stages]:
    """Stages and a gateway, which the environment names to the client."""
    async with scripted_stages(store.url, workers=1) as running:
        monkeypatch.setenv("ANTIPHON_URL", running.gateway.url)
        monkeypatch.setenv("ANTIPHON_API_KEY", API_KEY)
        yield running


async def test_a_text_is_answered(stages: Stages, antiphon: Antiphon) -> None:
    ended = await asyncio.to_thread(antiphon, "chat", "Who are you?", "--seed", "7", "--temperature", "0.5")
    assert (ended.status, ended.out, ended.err) == (0, f"{stages.story.text}\n", "")


async def test_media_reach_the_model_in_order(stages: Stages, antiphon: Antiphon, tmp_path: Path) -> None:
    media = {"a.png": b"image", "b.wav": b"sound", "c.mp4": b"video", "d.png": b"second image"}
    for name, data in media.items():
        (tmp_path / name).write_bytes(data)
    a, b, c, d = (str(tmp_path / name) for name in media)
    ended = await asyncio.to_thread(antiphon, "chat", "?", "--image", a, "--audio", b, "--video", c, "--image", d)
    assert (ended.status, ended.err) == (0, "")
    assert stages.preprocess[0].media == [list(media.values())]


async def test_speech_is_whole_in_every_format(stages: Stages, antiphon: Antiphon, tmp_path: Path) -> None:
    ended = await asyncio.to_thread(antiphon, "chat", "Say it.", "--voice", "chelsie", "-o", str(tmp_path / "a.wav"))
    assert (ended.status, ended.out) == (0, f"{stages.story.text}\n")
    with wave.open(str(tmp_path / "a.wav"), "rb") as file:
        assert file.readframes(file.getnframes()) == stages.story.pcm
    ended = await asyncio.to_thread(antiphon, "chat", "Say it.", "-o", str(tmp_path / "a.flac"))
    assert (tmp_path / "a.flac").read_bytes().startswith(b"fLaC")
    ended = await asyncio.to_thread(antiphon, "chat", "Say it.", "--json", "-o", str(tmp_path / "b.wav"))
    assert json.loads(ended.out)["choices"][0]["message"]["audio"]["transcript"] == stages.story.text
    assert (tmp_path / "b.wav").read_bytes()[:4] == b"RIFF"


async def test_a_refusal_is_the_gateways_own(stages: Stages, antiphon: Antiphon) -> None:
    ended = await asyncio.to_thread(antiphon, "chat", "hello", "--model", "no-such")
    assert ended.status == 1
    assert "no-such" in ended.err
    assert "(code model_not_found, request " in ended.err
    ended = await asyncio.to_thread(antiphon, "chat", "hello", "--key", "wrong")
    assert (ended.status, ended.err.endswith("Set ANTIPHON_API_KEY or --key.\n")) == (1, True)


async def test_models_are_listed(stages: Stages, antiphon: Antiphon) -> None:
    ended = await asyncio.to_thread(antiphon, "models")
    assert ended.out.splitlines()[1].split() == [INSTRUCT.name, "instruct", "1000", "chelsie,ethan", "ethan"]


async def test_ctrl_c_frees_the_workers(stages: Stages) -> None:
    stages.next_calls("thinker", Act("hang", after=2))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "chat", "hello"),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert await process.stdout.readexactly(3) == b"w0 "
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    await wait_until(stages.clean)


async def test_a_captioner_captions(
    store: RedisServer, antiphon: Antiphon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    async with scripted_stages(store.url, workers=1, card=CAPTIONER) as running:
        monkeypatch.setenv("ANTIPHON_API_KEY", API_KEY)
        ended = await asyncio.to_thread(antiphon, "caption", str(tmp_path / "a.wav"), "--url", running.gateway.url)
    assert (ended.status, ended.out, ended.err) == (0, f"{running.story.text}\n", "")
