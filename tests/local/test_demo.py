"""What the demo asks with, how it holds a conversation, and what it says of the answers."""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
from PIL import Image

from services.local.checkpoint import Kind
from services.local.demo import media
from services.local.demo.drawings import RATE, film_mp4, picture_png, siren, to_wav
from services.local.demo.media import Medium, said_by_a_person
from services.local.demo.questions import Conversation, Question, small_world
from services.local.demo.show import hearing_remark, hold
from tests.deploy.files import ROOT
from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import API_KEY, store
from tests.gateway.scripted.stages import scripted_stages

__all__ = ["store"]


def samples_of(wav: bytes) -> tuple[np.ndarray[Any, np.dtype[np.int16]], int]:
    with wave.open(io.BytesIO(wav)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def test_the_picture_shows_what_it_says() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(picture_png()))).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 2] < 100)
    blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 100)
    assert red[80, 80]
    assert red[190, 230]
    assert red.sum() == pytest.approx(np.pi * (44**2 + 40**2), rel=0.05)
    assert blue[70, 240]
    assert not blue[110, 240]  # between the star's lower points


def test_the_circle_of_the_film_moves_right_while_a_siren_sounds() -> None:
    with av.open(io.BytesIO(film_mp4()), "r") as film:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    middles = [np.nonzero((frame[..., 0] > 150) & (frame[..., 1] < 100))[1].mean() for frame in frames]
    assert len(frames) == 24
    assert all(later > earlier for earlier, later in pairwise(middles))
    with av.open(io.BytesIO(film_mp4()), "r") as film:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])
    loudest_hz = np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound)
    assert 500 < loudest_hz < 1300
    assert len(sound) / RATE == pytest.approx(3, abs=0.2)


def test_without_apt_a_voice_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    medium = said_by_a_person(("digits/7",), "seven", tmp_path / "cache", "sum.wav")
    assert medium.description == "“seven”, in a synthetic voice (hibari-tts)"
    assert not (tmp_path / "cache").exists()
    sound, rate = samples_of(medium.data)
    assert hearing_remark("Seven.", sound) == "(Whisper hears the same words.)"
    assert hearing_remark("Eleven.", sound) == "(Whisper hears: seven)"
    assert rate == 24_000


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A person's words, which are in the cache of `tmp_path`."""
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/seventy.wav").write_bytes(kept := to_wav(siren(0.1)))
    monkeypatch.setattr(media, "_from_debian", pytest.fail)
    return kept


def media_of(conversations: Sequence[Conversation]) -> list[Medium]:
    return [each for conversation in conversations for question in conversation for each in question.media]


def test_a_persons_words_are_fetched_once(tmp_path: Path, fetched: bytes) -> None:
    assert fetched in [each.data for each in media_of(small_world(Kind.INSTRUCT, tmp_path))]


@pytest.mark.usefixtures("fetched")
def test_the_readme_goes_on_with_what_the_demo_has_left(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    made = {"answer.wav", *re.findall(r"-o out/([\w.]+)", text)}
    left = {each.file for each in media_of(small_world(Kind.INSTRUCT, tmp_path))}
    assert set(re.findall(r"out/([\w.]+)", text)) - made <= left


async def test_a_conversation_goes_on_from_its_answers(store: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    heard = Medium("audio", to_wav(siren(0.1)), "a siren", "siren.wav")
    seen = Medium("image", picture_png(), "shapes", "picture.png")
    async with scripted_stages(store.url) as stages:
        told = stages.story.text.strip()
        conversation = [Question((seen, heard), truth=told), Question(text="What did I say before?", truth="Hello.")]
        base_url = f"http://127.0.0.1:{stages.gateway.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=API_KEY, max_retries=0) as client:
            answers = await hold(client, stages.card.name, conversation, speaks=True)
        first, second = (call.messages for call in stages.calls("preprocess"))
    assert [answer.text.strip() for answer in answers] == [told, told]
    assert all(bytes(answer.pcm) == stages.story.pcm for answer in answers)
    assert [part.WhichOneof("content") for part in first[0].parts] == ["image", "audio"]
    assert second[1].parts[0].text.strip() == told
    assert second[2].parts[0].text == "What did I say before?"
    said = capsys.readouterr().out
    assert said.startswith("It sees   shapes\nIt hears  a siren\nIt says   w0 w1")
    assert said.count("(That is right.)") == 1
    assert said.count("(That is wrong. It should say: Hello.)") == 1
    assert said.count("(Whisper hears: nothing)") == 2
