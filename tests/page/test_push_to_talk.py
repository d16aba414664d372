"""Push to talk in a voice call: the user says when a turn begins and ends. The microphone repeats "hello"."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence

import pytest

from antiphon.v1 import talker_pb2
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import LongStory
from tests.page.conftest import ENDLESS, SHORT, Open, World
from tests.page.expecting import expect

pytestmark = pytest.mark.page

HELLO = said("hello") + silence(1000)
"""The pause would end a turn of the server's."""
LONG_MS = 3000


def sent_ms(world: World) -> int:
    """Return how much of the microphone was sent and is in no turn yet."""
    (session,) = world.stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
    return session.buffer.size_bytes // 48


def turns_ms(world: World) -> Sequence[float]:
    """Return how long the sounds are that the last request has."""
    lengths: list[float] = []
    for sound in world.stages.preprocess[0].media[-1]:
        with wave.open(io.BytesIO(sound)) as file:
            lengths.append(file.getnframes() * 1000 / file.getframerate())
    return lengths


async def test_a_turn_is_as_long_as_the_button_is_held(open_world: Open) -> None:
    async with open_world(SHORT, HELLO) as world, world.page("#call") as page:
        await page.get_by_label("Push to talk").check()
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_role("status").get_by_text("Ready")).to_be_visible()
        button = page.get_by_role("button", name="Hold to talk")
        await expect(button).to_have_attribute("aria-pressed", "false")
        assert sent_ms(world) == 0
        await button.hover()
        await page.mouse.down()
        await expect(button).to_have_attribute("aria-pressed", "true")
        await wait_until(lambda: sent_ms(world) > LONG_MS)
        await page.mouse.up()
        await expect(page.locator(".message.assistant .text")).to_have_text(SHORT.text.strip())
        await expect(button).to_have_attribute("aria-pressed", "false")
        assert [length > LONG_MS for length in turns_ms(world)] == [True]
        assert sent_ms(world) == 0
        await expect(page.locator(".message.user")).to_have_count(1)
        await expect(page.locator(".latency strong")).to_contain_text("ms, median")
        # The server hears turns again once it is off.
        await page.get_by_label("Push to talk").uncheck()
        await expect(page.locator(".message.user")).to_have_count(2)


async def test_the_space_bar_interrupts_and_asks_again(open_world: Open) -> None:
    async with open_world(ENDLESS, HELLO) as world, world.page("#call") as page:
        await page.get_by_role("button", name="Start the call").click()
        await page.get_by_label("Push to talk").check()
        await expect(page.get_by_role("status").get_by_text("Ready")).to_be_visible()
        for answers in (1, 2):
            await page.locator(".captions").focus()
            await page.keyboard.down("Space")
            await wait_until(lambda: sent_ms(world) > 500)
            await page.keyboard.up("Space")
            await expect(page.locator(".message.assistant")).to_have_count(answers)
            await expect(page.get_by_role("status").get_by_text("The model speaks")).to_be_visible()
        await expect(page.get_by_text("(interrupted)")).to_have_count(1)
        # A button that has the focus is pressed by the space bar, as ever.
        await page.get_by_role("button", name="Interrupt").focus()
        await page.keyboard.press("Space")
        await expect(page.get_by_text("(interrupted)")).to_have_count(2)
        await wait_until(world.stages.clean)


async def test_a_click_alone_begins_and_another_ends(open_world: Open) -> None:
    """As a screen reader presses buttons, and whoever can't hold one."""
    async with open_world(SHORT, HELLO) as world, world.page("#call", locale="zh-CN") as page:
        await page.get_by_label("按住说话模式").check()
        await page.get_by_role("button", name="开始通话").click()
        await expect(page.get_by_role("status").get_by_text("就绪")).to_be_visible()
        button = page.get_by_role("button", name="按住说话")
        await button.dispatch_event("click")
        await expect(button).to_have_attribute("aria-pressed", "true")
        await wait_until(lambda: sent_ms(world) > 500)
        await button.dispatch_event("click")
        await expect(page.locator(".message.assistant .text")).to_have_text(SHORT.text.strip())
        await expect(button).to_have_attribute("aria-pressed", "false")


async def test_speech_that_left_its_text_is_marked(open_world: Open) -> None:
    derailed = LongStory(words=8, frames=10, derailment=talker_pb2.DERAILMENT_SILENCE)
    async with open_world(derailed, HELLO) as world, world.page("#call") as page:
        await page.get_by_label("Push to talk").check()
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_role("status").get_by_text("Ready")).to_be_visible()
        await page.get_by_role("button", name="Hold to talk").focus()
        await page.keyboard.down("Enter")
        await wait_until(lambda: sent_ms(world) > 500)
        await page.keyboard.up("Enter")
        await expect(page.get_by_text("(the speech left its text and was ended)")).to_be_visible()
        await expect(page.locator(".message.assistant .text")).to_have_text(derailed.text.strip())
