"""`antiphon speak` and `transcribe` against a gateway, whose stages follow a script."""

from __future__ import annotations

import asyncio
import json
import wave
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import Antiphon
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, store
from tests.gateway.scripted.pieces import samples_of
from tests.gateway.scripted.stages import Stages, scripted_stages

__all__ = ["store"]
pytestmark = pytest.mark.skipif(
    find_spec("services.gateway.http.speech") is None, reason="the endpoints of speech are not in this tree"
)


@pytest.fixture
async def stages(store: RedisServer, antiphon: Antiphon, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stages]:
    """Stages and a gateway, which the environment names to the client."""
    async with scripted_stages(store.url, workers=1) as running:
        monkeypatch.setenv("ANTIPHON_URL", running.gateway.url)
        monkeypatch.setenv("ANTIPHON_API_KEY", API_KEY)
        yield running
        await wait_until(running.clean)


async def test_a_text_is_spoken(stages: Stages, antiphon: Antiphon, tmp_path: Path) -> None:
    ended = await asyncio.to_thread(antiphon, "speak", "Hello.", "-o", str(tmp_path / "a.wav"))
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    with wave.open(str(tmp_path / "a.wav"), "rb") as file:
        assert file.readframes(file.getnframes()) == stages.story.pcm
    voiced = ("--voice", "chelsie", "--instructions", "Whisper.", "-o", str(tmp_path / "a.flac"))
    assert (await asyncio.to_thread(antiphon, "speak", "Hello.", *voiced)).status == 0
    assert (tmp_path / "a.flac").read_bytes().startswith(b"fLaC")


async def test_a_recording_is_transcribed(stages: Stages, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    ended = await asyncio.to_thread(antiphon, "transcribe", str(tmp_path / "a.wav"), "--language", "en")
    assert (ended.status, ended.out, ended.err) == (0, f"{stages.story.text}\n", "")
    ended = await asyncio.to_thread(antiphon, "transcribe", str(tmp_path / "a.wav"), "--json")
    assert json.loads(ended.out)["text"] == stages.story.text
    heard = [samples_of(media[0]) for worker in stages.preprocess for media in worker.media]
    assert heard == [b"sound", b"sound"]


async def test_a_wrong_language_is_the_gateways_refusal(stages: Stages, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    ended = await asyncio.to_thread(antiphon, "transcribe", str(tmp_path / "a.wav"), "--language", "xx")
    assert ended.status == 1
    assert ended.err.startswith("Invalid 'language'")
