"""A voice call on the page: its microphone says "hello" over and over."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said, silence
from tests.page.conftest import ENDLESS, SHORT, Open
from tests.page.expecting import expect

pytestmark = pytest.mark.page

KEPT: dict[str, Any] = {"realtime_session_key": SecretStr("a key of the operator's, 24 chars")}
HELLO = silence(1000) + said("hello") + silence(5000)


async def test_a_call_is_heard_and_answered(open_world: Open) -> None:
    async with open_world(SHORT, HELLO) as world, world.page("#call") as page:
        await page.get_by_role("button", name="Start the call").click()
        answer = page.locator(".captions .message.assistant .text").first
        await expect(answer).to_have_text(SHORT.text.strip())
        await expect(page.locator(".latency strong")).to_contain_text("ms, median")
        await page.get_by_role("button", name="Hang up").click()
        await expect(page.get_by_text("Not connected")).to_be_visible()
        await wait_until(lambda: not world.stages.gateway.gateway.sessions.count)


async def test_speech_interrupts_the_answer(open_world: Open) -> None:
    async with open_world(ENDLESS, HELLO) as world, world.page("#call") as page:
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_text("(interrupted)").first).to_be_visible()
        # What the model remembers is what was heard, and not all that was made.
        await expect(page.locator(".message.assistant")).to_have_count(2)
        # Some calls transcribe, and have no history.
        messages = [message for call in world.stages.calls("preprocess") for message in call.messages]
        remembered = ["".join(part.text for part in m.parts) for m in messages if m.role == "assistant"]
        assert remembered
        assert all(ENDLESS.text.startswith(text) and len(text) < len(ENDLESS.text) for text in remembered)


async def test_the_button_interrupts_the_answer(open_world: Open) -> None:
    mic = silence(1000) + said("hello") + silence(60_000)
    async with open_world(ENDLESS, mic) as world, world.page("#call") as page:
        await page.get_by_role("button", name="Start the call").click()
        button = page.get_by_role("button", name="Interrupt")
        await expect(button).to_be_enabled()
        await button.click()
        await expect(page.get_by_text("(interrupted)")).to_be_visible()
        await expect(page.get_by_role("status").get_by_text("Listening")).to_be_visible()
        await wait_until(world.stages.clean)


async def test_a_lost_connection_is_made_again_with_what_was_said(open_world: Open) -> None:
    async with open_world(SHORT, HELLO) as world, world.page("#call") as page:
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.locator(".captions .message.assistant .text").first).to_have_text(SHORT.text.strip())
        await world.proxy.close()
        prepared = world.stages.preprocess[0]
        await wait_until(lambda: any(len(call.messages) >= 3 for call in prepared.calls))
        told = next(call.messages for call in prepared.calls if len(call.messages) >= 3)
        roles = [(message.role, [part.WhichOneof("content") for part in message.parts]) for message in told]
        # In words, if they had been transcribed by then.
        assert roles[0] in [("user", ["audio"]), ("user", ["text"])]
        assert roles[1:3] == [("assistant", ["text"]), ("user", ["audio"])]
        assert told[1].parts[0].text == SHORT.text
        await expect(page.locator(".captions .message.assistant")).to_have_count(2)


@pytest.mark.parametrize("settings", [{}, KEPT], ids=["told anew", "kept"])
async def test_an_answer_that_was_cut_by_a_loss_goes_on(open_world: Open, settings: dict[str, Any]) -> None:
    mic = silence(1000) + said("hello") + silence(60_000)
    async with open_world(ENDLESS, mic, **settings) as world, world.page("#call") as page:
        sessions = world.stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.locator(".captions .message.assistant .text").first).to_contain_text("w2")
        (before,) = sessions
        prepared = world.stages.preprocess[0]
        await world.proxy.close()
        await wait_until(lambda: any(call.messages[-1].role == "assistant" for call in prepared.calls))
        told = next(call.messages for call in prepared.calls if call.messages[-1].role == "assistant")
        assert [message.role for message in told] == ["user", "assistant"]
        assert ENDLESS.text.startswith(told[-1].parts[0].text)
        assert len(told[-1].parts[0].text) < len(ENDLESS.text)
        await expect(page.locator(".captions .message.assistant")).to_have_count(2)
        await wait_until(lambda: len(sessions) == 1)
        (after,) = sessions
        assert after is not before
        assert (after.id == before.id) == bool(settings)


_NOTE_THE_MICROPHONE = """() => {
    const devices = navigator.mediaDevices, get = devices.getUserMedia.bind(devices);
    devices.getUserMedia = async (wanted) => (window.microphone = await get(wanted));
}"""


async def test_a_browser_that_plays_nothing_is_told_so(open_world: Open) -> None:
    async with open_world() as world, world.page("#call") as page:
        await page.evaluate(_NOTE_THE_MICROPHONE)
        await page.evaluate(
            """() => {
                const add = AudioWorklet.prototype.addModule;
                AudioWorklet.prototype.addModule = function (url) {
                    return url.includes("playback") ? Promise.reject(new Error("no sound")) : add.call(this, url);
                };
            }"""
        )
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_role("alert")).to_contain_text("can't play")
        await page.wait_for_function("window.microphone.getTracks()[0].readyState === 'ended'")
        await expect(page.get_by_role("button", name="Start the call")).to_be_visible()


async def test_a_microphone_that_is_gone_ends_the_call(open_world: Open) -> None:
    async with open_world(SHORT) as world, world.page("#call") as page:
        await page.evaluate(_NOTE_THE_MICROPHONE)
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_text("Listening")).to_be_visible()
        await page.evaluate("window.microphone.getTracks()[0].dispatchEvent(new Event('ended'))")
        await expect(page.get_by_role("alert")).to_contain_text("The microphone is gone")
        await expect(page.get_by_text("Not connected")).to_be_visible()
        await wait_until(lambda: not world.stages.gateway.gateway.sessions.count)


async def test_the_camera_gives_pictures_of_each_turn(open_world: Open) -> None:
    async with open_world(SHORT, HELLO) as world, world.page("#call") as page:
        await page.get_by_role("button", name="Start the call").click()
        await page.get_by_role("button", name="Camera").click()
        await expect(page.get_by_label("What your camera shows")).to_be_visible()
        prepared = world.stages.preprocess[0]

        def pictures() -> list[bytes]:
            return [data for media in prepared.media for data in media if data.startswith(b"\xff\xd8")]

        await wait_until(pictures)
        parts = [part for call in prepared.calls for message in call.messages for part in message.parts]
        assert any(part.WhichOneof("content") == "image" for part in parts)
        await page.get_by_role("button", name="Camera").click()
        await expect(page.get_by_label("What your camera shows")).to_have_count(0)


async def test_a_call_that_is_refused_says_why(open_world: Open) -> None:
    async with open_world(realtime_max_sessions=1) as world, world.page("#call") as page, world.page("#call") as other:
        await page.get_by_role("button", name="Start the call").click()
        await expect(page.get_by_text("Listening")).to_be_visible()
        await other.get_by_role("button", name="Start the call").click()
        await expect(other.get_by_role("alert")).to_contain_text("no room for a call")
        world.problems.clear()  # the browser tells of the refusal, too
