"""The pictures of docs/page.md, written to out/page: `cp out/page/*.webp docs/images` after a change of the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data

from tests.deploy.files import ROOT
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import LongStory
from tests.page.conftest import Open
from tests.page.expecting import expect

pytestmark = pytest.mark.page

DESKTOP: dict[str, Any] = {"viewport": {"width": 900, "height": 720}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 2, "is_mobile": True}
PICTURE = "An astronaut in an orange suit. A flag and a model of the Space Shuttle are behind her."
GREETING = "Hello! Nice to hear you. What would you like to talk about today?"
CHINESE = "照片里是一位穿着橙色宇航服的宇航员，身后有一面旗帜和一架航天飞机的模型。"


@dataclass(frozen=True, slots=True)
class Written(LongStory):
    """An answer of this text, a character or a word each token."""

    written: tuple[str, ...] = ()

    def _word(self, index: int) -> str:
        return self.written[index] if index < self.words else ""


def story(text: str, frames: int = 30) -> Written:
    parts = tuple(text) if " " not in text else tuple(f"{word} " for word in text.split())
    return Written(words=len(parts), frames=frames, written=parts)


async def test_chat(open_world: Open, tmp_path: Path) -> None:
    for text, locale, question, looks in (
        (PICTURE, "en-GB", "What do you see?", {**DESKTOP, "color_scheme": "light"}),
        (CHINESE, "zh-CN", "你看到了什么？", {**PHONE, "color_scheme": "dark"}),
    ):
        async with open_world(story(text)) as world, world.page(locale=locale, **looks) as page:
            await page.locator("#panel-chat input[type=file]").set_input_files([_astronaut(tmp_path)])
            await page.locator("textarea").fill(question)
            await page.locator(".composer button[type=submit]").click()
            await expect(page.locator(".message.assistant audio")).to_be_visible()
            await expect(page.locator(".message.assistant .text")).to_have_text(text)
            await _keep(page, f"page-chat-{locale[:2]}")


async def test_call(open_world: Open) -> None:
    mic = silence(800) + said("hello") + silence(20_000)
    async with (
        open_world(story(GREETING, 60), mic) as world,
        world.page("#call", color_scheme="dark", **DESKTOP) as page,
    ):
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.locator(".captions .message.assistant .text")).to_contain_text("Nice to hear")
        await _keep(page, "page-call")


def _astronaut(folder: Path) -> Path:
    path = folder / "photograph.png"
    Image.fromarray(data.astronaut()).resize((256, 256)).save(path)
    return path


async def _keep(page: Any, name: str) -> None:
    folder = ROOT / "out/page"
    folder.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(await page.screenshot())).convert("RGB").save(folder / f"{name}.webp", quality=75, method=6)
    assert (folder / f"{name}.webp").stat().st_size < 100_000
