"""A gateway with the page, scripted stages behind it, and Debian's Chromium with a microphone that speaks."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from antiphon.v1 import common_pb2
from tests.deploy.files import ROOT
from tests.fixtures.redis import RedisServer
from tests.fixtures.tcp_proxy import TcpProxy, tcp_proxy
from tests.fixtures.wait import HANGS_AFTER_S
from tests.gateway.conftest import INSTRUCT, store
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import FRAME_MS, LongStory
from tests.gateway.scripted.stages import Stages, scripted_stages

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page, Request

__all__ = ["store"]

# As the local stack names it: the page tells by the name that it is the tiny one.
CARD = common_pb2.ModelCard()
CARD.CopyFrom(INSTRUCT)
CARD.name = "Tiny-Qwen3-Omni-Instruct"
ROOMY: dict[str, Any] = {
    "page": True,
    "max_media_bytes": 8 << 20,
    "max_body_bytes": 32 << 20,
    "max_text_bytes": 1 << 20,
    "realtime_lead_s": 0.5,
    "request_timeout_s": HANGS_AFTER_S,
}
SHORT = LongStory(words=8, frames=10)
"""A second of speech."""
ENDLESS = LongStory(words=300, frames=600)
"""A minute: it ends by an interruption."""
assert FRAME_MS == 100


@dataclass
class World:
    """`url` goes through a proxy, so that connections can be cut."""

    stages: Stages
    proxy: TcpProxy
    browser: Browser
    folder: Path
    problems: list[str] = field(default_factory=list[str])
    hosts: set[str] = field(default_factory=set[str])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    @asynccontextmanager
    async def page(self, hash: str = "", **context: Any) -> AsyncGenerator[Page]:
        """Open the page as a new visitor, in English unless told otherwise. Whatever the browser complains about fails
        the test, and so does a request to another host."""
        looks: dict[str, Any] = {"locale": "en-GB", **context}
        made = await self.browser.new_context(**looks)
        made.set_default_timeout(HANGS_AFTER_S * 1000)
        page = await made.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._on_request)
        await page.goto(f"{self.url}/{hash}")
        try:
            yield page
        finally:
            await made.close()
        assert not self.problems
        assert self.hosts == {f"127.0.0.1:{self.proxy.port}"}

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.problems.append(message.text)

    def _on_request(self, request: Request) -> None:
        scheme, _, rest = request.url.partition("://")
        if scheme in ("http", "https", "ws", "wss"):
            self.hosts.add(rest.partition("/")[0])


Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest_asyncio.fixture
async def open_world(store: RedisServer, tmp_path: Path) -> AsyncIterator[Open]:
    """Return a function that opens a world: `story` is what is answered, `mic` what the microphone gives, over and
    over; the rest are settings."""

    @asynccontextmanager
    async def opened(
        story: LongStory = SHORT, mic: bytes = b"", *, api_key: str = "", **settings: Any
    ) -> AsyncGenerator[World]:
        # They take their time to import: not for a run without a browser.
        from playwright.async_api import async_playwright, expect

        expect.set_options(timeout=HANGS_AFTER_S * 1000)
        given: dict[str, Any] = {
            **ROOMY,
            **({"api_key": api_key} if api_key else {"api_key": "", "allow_anonymous": True}),
            **settings,
        }
        async with AsyncExitStack() as stack:
            stages = await stack.enter_async_context(
                scripted_stages(store.url, story, workers=1, slots=4, card=CARD, **given)
            )
            proxy = await stack.enter_async_context(tcp_proxy(stages.gateway.port))
            playwright = await stack.enter_async_context(async_playwright())
            sound = _wav(tmp_path / "microphone.wav", mic or silence(1000))
            browser = await playwright.chromium.launch(
                executable_path=_chromium(),
                args=[
                    "--no-sandbox",
                    "--use-fake-device-for-media-stream",
                    "--use-fake-ui-for-media-stream",
                    f"--use-file-for-fake-audio-capture={sound}",
                    "--autoplay-policy=no-user-gesture-required",
                ],
            )
            stack.push_async_callback(browser.close)
            yield World(stages, proxy, browser, tmp_path)

    yield opened


def _chromium() -> str:
    found = subprocess.run([str(ROOT / "tests/tools/chromium.sh")], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def _wav(path: Path, pcm: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(pcm)
    return path


def a_sound(path: Path) -> Path:
    """Write a recorded word as a WAV file."""
    return _wav(path, said("hello"))
