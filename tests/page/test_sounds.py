"""Descriptions and transcriptions on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.page.conftest import SHORT, Open, a_sound
from tests.page.expecting import expect

pytestmark = pytest.mark.page

ANSWER = SHORT.text.strip()


async def test_a_sound_is_described(open_world: Open, tmp_path: Path) -> None:
    sound = a_sound(tmp_path / "hello.wav")
    async with open_world() as world, world.page("#describe") as page:
        panel = page.get_by_role("tabpanel", name="Describe sound")
        await expect(panel.get_by_role("button", name="Describe", exact=True)).to_be_disabled()
        await panel.locator("input[type=file]").set_input_files([sound])
        await panel.get_by_role("button", name="Describe", exact=True).click()
        await expect(panel.get_by_role("region", name="Description")).to_have_text(ANSWER)
        (prepared,) = world.stages.preprocess
        assert prepared.media == [[sound.read_bytes()]]
        assert prepared.calls[0].messages[0].parts[1].text == "Describe this audio in detail."


async def test_speech_is_transcribed(open_world: Open, tmp_path: Path) -> None:
    sound = a_sound(tmp_path / "hello.wav")
    async with open_world() as world, world.page("#transcribe") as page:
        panel = page.get_by_role("tabpanel", name="Transcribe")
        await panel.locator("input[type=file]").set_input_files([sound])
        await panel.get_by_label("Language of the speech").select_option(label="Chinese")
        await panel.get_by_role("button", name="Transcribe", exact=True).click()
        await expect(panel.get_by_role("region", name="Transcript")).to_have_text(ANSWER)
        (prepared,) = world.stages.preprocess
        assert prepared.media == [[sound.read_bytes()]]
        assert "请将这段中文语音转换为纯文本。" in str([part.text for part in prepared.calls[0].messages[0].parts])


async def test_every_language_of_the_server_can_be_chosen(open_world: Open) -> None:
    from services.gateway.http.transcription.languages import LANGUAGES

    async with open_world() as world, world.page("#transcribe") as page:
        options = page.get_by_label("Language of the speech").locator("option")
        assert {await each.get_attribute("value") for each in await options.all()} == {"", *LANGUAGES}
