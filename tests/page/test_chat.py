"""Chat on the page: text, files, speech, stopping."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.fixtures.wait import wait_until
from tests.page.conftest import ENDLESS, SHORT, Open, World, a_sound
from tests.page.expecting import expect

pytestmark = pytest.mark.page

ANSWER = SHORT.text.strip()


async def test_a_question_is_answered_in_text_and_speech(open_world: Open) -> None:
    async with open_world() as world, world.page() as page:
        await page.get_by_label("Message").fill("hello")
        await page.get_by_label("Message").press("Enter")
        answer = page.locator(".chat .message.assistant")
        await expect(answer.locator(".text")).to_have_text(ANSWER)
        await expect(page.get_by_text("The answer is complete.")).to_be_visible()
        speech = answer.get_by_label("The spoken answer")
        await page.wait_for_function("audio => audio.readyState >= 1", arg=await speech.element_handle())
        assert await speech.evaluate("audio => audio.duration") == pytest.approx(SHORT.frames / 10, abs=0.01)
        # The next question has the conversation before it.
        await page.get_by_label("Message").fill("again")
        await page.get_by_role("button", name="Send").click()
        await expect(answer).to_have_count(2)
        await expect(answer.nth(1).locator(".text")).to_have_text(ANSWER)
        assert [("user", "hello"), ("assistant", SHORT.text), ("user", "again")] in _asked(world)
        await page.get_by_role("button", name="New conversation").click()
        await expect(answer).to_have_count(0)


async def test_without_speech_an_answer_is_text_alone(open_world: Open) -> None:
    async with open_world() as world, world.page() as page:
        await page.get_by_label("Speak the answers").uncheck()
        await page.get_by_label("Message").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("The answer is complete.")).to_be_visible()
        await expect(page.get_by_label("The spoken answer")).to_have_count(0)
        assert not world.stages.calls("talker")


async def test_stop_ends_the_turn_and_keeps_what_came(open_world: Open) -> None:
    async with open_world(ENDLESS) as world, world.page() as page:
        for worker in world.stages.workers:
            worker.script.pace_s = 0.1
        await page.get_by_label("Message").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".chat .message.assistant .text")).to_contain_text("w1")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_text("Stopped.")).to_be_visible()
        await wait_until(world.stages.clean)
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        shown = await page.locator(".chat .message.assistant .text").inner_text()
        assert ENDLESS.text.startswith(shown)


async def test_pictures_sounds_and_films_are_sent_as_they_are(open_world: Open, tmp_path: Path) -> None:
    files = [_picture(tmp_path / "a.png"), a_sound(tmp_path / "b.wav"), _film(tmp_path / "c.webm")]
    async with open_world() as world, world.page() as page:
        await page.locator("#panel-chat input[type=file]").set_input_files(files)
        await expect(page.locator(".composer .attachments li")).to_have_count(3)
        await page.get_by_label("Message").fill("What is this?")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("The answer is complete.")).to_be_visible()
        (prepared,) = world.stages.preprocess
        assert prepared.media == [[path.read_bytes() for path in files]]
        kinds = [part.WhichOneof("content") for part in prepared.calls[0].messages[0].parts]
        assert kinds == ["image", "audio", "video", "text"]


async def test_a_file_can_be_removed_and_another_kind_is_refused(open_world: Open, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("text")
    async with open_world() as world, world.page() as page:
        picker = page.locator("#panel-chat input[type=file]")
        await picker.set_input_files([_picture(tmp_path / "a.png")])
        await page.get_by_role("button", name="Remove a.png").click()
        await expect(page.locator(".composer .attachments li")).to_have_count(0)
        await picker.set_input_files([tmp_path / "d.txt"])
        await expect(page.get_by_role("alert")).to_contain_text("d.txt is no picture")


async def test_a_recording_is_sent(open_world: Open) -> None:
    async with open_world() as world, world.page() as page:
        panel = page.locator("#panel-chat")
        await panel.get_by_role("button", name="Record", exact=True).click()
        await expect(panel.locator(".recorded")).to_have_text("1 s")
        await panel.get_by_role("button", name="Stop recording").click()
        await expect(panel.locator(".composer .attachments")).to_contain_text("Recording 1.wav")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("The answer is complete.")).to_be_visible()
        ((sound,),) = world.stages.preprocess[0].media
        with av.open(io.BytesIO(sound)) as file:
            assert file.streams.audio[0].rate == 24_000


async def test_what_the_server_says_of_a_request_is_shown(open_world: Open) -> None:
    async with open_world(max_media_bytes=1024) as world, world.page() as page:
        await page.locator("#panel-chat input[type=file]").set_input_files(
            [{"name": "a.wav", "mimeType": "audio/wav", "buffer": bytes(4096)}]
        )
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("1024 bytes")
        await expect(page.locator(".chat .message.assistant")).to_have_count(0)


def _asked(world: World) -> list[list[tuple[str, str]]]:
    """Return the messages of each prompt, as whichever stage rendered it read them."""
    return [
        [(message.role, "".join(part.text for part in message.parts)) for message in call.messages]
        for call in (*world.stages.calls("preprocess"), *world.stages.calls("thinker"))
    ]


def _picture(path: Path) -> Path:
    Image.linear_gradient("L").save(path)
    return path


def _film(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libvpx", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for level in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * level, np.uint8), "rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path
