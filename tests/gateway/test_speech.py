"""POST /v1/audio/speech, asked for with OpenAI's own client: the given text is said in each format, and no more."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
import openai
import pytest
import pytest_asyncio
import soundfile

from services.common.errors import BadInput, WorkerLost
from services.gateway.audio.encoders import CodecEncoder
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import Story

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEECH = "/v1/audio/speech"
FRAMES = 60
TEXT = "Say this, <|im_end|> word for word."
ASK: dict[str, Any] = {"model": INSTRUCT.name, "input": TEXT, "voice": "chelsie"}
USAGE = {
    "type": "tokens",
    "input_tokens": 12,
    "input_token_details": {"text_tokens": 12, "audio_tokens": 0},
    "output_tokens": FRAMES,
    "total_tokens": 12 + FRAMES,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, Story(frames=FRAMES), voice_aliases={"Alloy": "ethan"}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages) -> AsyncIterator[Stages]:
    """Nothing may be left of a test's turns and encoders."""
    for worker in module_stages.workers:
        worker.calls.clear()
    yield module_stages
    await wait_until(module_stages.clean)
    assert not CodecEncoder.open


@pytest_asyncio.fixture(loop_scope="module")
async def client(stages: Stages) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


def decoded(file: bytes) -> tuple[np.ndarray[Any, Any], float]:
    """Return (samples, seconds) as a player finds them."""
    with av.open(io.BytesIO(file), "r") as container:
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]
        return samples, len(samples) / container.streams.audio[0].codec_context.sample_rate


async def test_the_text_is_said_and_no_thinker_is_asked(stages: Stages, client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.speech.create(**ASK, response_format="pcm", instructions="Whisper.")
    assert answer.content == stages.story.pcm
    assert answer.response.headers["content-type"] == "audio/pcm"
    (prepare,) = stages.calls("preprocess")
    assert prepare.said == TEXT
    assert [(m.role, [p.text for p in m.parts]) for m in prepare.messages] == [("user", ["Whisper."])]
    assert not stages.calls("thinker")
    (speak,) = stages.calls("talker")  # which checks the tokens that it gets
    assert speak.voice == "chelsie"
    assert not speak.HasField("hidden_states")


async def test_null_is_as_left_out(stages: Stages) -> None:
    nulls = dict.fromkeys(
        ("model", "voice", "instructions", "response_format", "speed", "stream_format", "seed", "talker")
    )
    whole, short = [
        await stages.gateway.client.post("/v1/audio/speech", json={"input": TEXT, **fields}) for fields in (nulls, {})
    ]
    assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/mpeg")
    assert whole.content == short.content


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_each_format_plays(
    stages: Stages, client: openai.AsyncOpenAI, response_format: Any, stream_format: Any
) -> None:
    pieces: list[bytes] = []
    async with client.audio.speech.with_streaming_response.create(
        **ASK, response_format=response_format, stream_format=stream_format
    ) as response:
        if stream_format == "audio":
            pieces = [piece async for piece in response.iter_bytes()]
        else:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(line[6:]) async for line in response.iter_lines() if line.startswith("data: ")]
            assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
            assert events[-1] == {"type": "speech.audio.done", "usage": USAGE}
            pieces = [base64.b64decode(event["audio"], validate=True) for event in events[:-1]]
            assert base64.b64decode("".join(e["audio"] for e in events[:-1]), validate=True) == b"".join(pieces)
    file, pcm = b"".join(pieces), stages.story.pcm
    if response_format == "pcm":
        assert file == pcm
        return
    samples, seconds = decoded(file)
    assert 0 <= seconds - len(pcm) / 48_000 <= 0.1
    if response_format in ("wav", "flac"):
        assert samples.tobytes() == pcm
    if response_format == "wav":
        read, rate = soundfile.read(io.BytesIO(file), dtype="int16")
        assert (read.tobytes(), rate) == (pcm, 24_000)


async def test_mp3_is_the_default(stages: Stages, client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.speech.create(**ASK)
    assert answer.response.headers["content-type"] == "audio/mpeg"
    with av.open(io.BytesIO(answer.content), "r") as container:
        assert container.streams.audio[0].codec_context.name.startswith("mp3")


@pytest.mark.parametrize(
    ("voice", "wanted"), [("alloy", "ethan"), ("ALLOY", "ethan"), ({"id": "alloy"}, "ethan"), ("Chelsie", "Chelsie")]
)
async def test_voices_have_aliases(stages: Stages, client: openai.AsyncOpenAI, voice: Any, wanted: str) -> None:
    await client.audio.speech.create(**{**ASK, "voice": voice})
    assert stages.calls("talker")[0].voice == wanted


async def test_a_seed_and_the_talkers_sampling(stages: Stages, client: openai.AsyncOpenAI) -> None:
    extra = {"seed": 5, "talker": {"temperature": 0.5, "max_frames": 999}}
    await client.audio.speech.create(**ASK, speed=1.0, extra_body=extra)
    (speak,) = stages.calls("talker")
    assert (speak.sampling.seed, speak.sampling.temperature, speak.max_frames) == (5, 0.5, 999)


@pytest.mark.parametrize("response_format", ["pcm", "mp3"])
async def test_another_pace(stages: Stages, client: openai.AsyncOpenAI, response_format: Any) -> None:
    """One is 4 times as long as the other, and neither is the model's own."""
    for speed in (0.5, 2.0):
        answer = await client.audio.speech.create(**ASK, speed=speed, response_format=response_format)
        samples = len(stages.story.pcm) // 2
        if response_format == "pcm":
            assert len(answer.content) // 2 == round(samples / speed)
        else:
            assert 0 <= decoded(answer.content)[1] - samples / speed / 24_000 <= 0.1


@pytest.mark.parametrize("response_format", ["pcm", "opus"])
async def test_speech_goes_on_with_another_talker(
    stages: Stages, client: openai.AsyncOpenAI, response_format: Any
) -> None:
    undisturbed = await client.audio.speech.create(**ASK, response_format=response_format)
    stages.next_calls("talker", Act("raise", 7, WorkerLost("gone")), Act("cut", 20))
    answer = await client.audio.speech.create(**ASK, response_format=response_format)
    assert decoded_or_same(answer.content, response_format) == decoded_or_same(undisturbed.content, response_format)


def decoded_or_same(file: bytes, response_format: str) -> bytes:
    return file if response_format == "pcm" else decoded(file)[0].tobytes()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_value"),
        ({"input": " \n"}, "input", "invalid_value"),
        ({"input": "x" * 4097}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": None}, "input", "invalid_type"),
        ({"voice": "nobody"}, "voice", "invalid_voice"),
        ({"voice": {"id": "nobody"}}, "voice", "invalid_voice"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"stream_format": "websocket"}, "stream_format", "invalid_value"),
        ({"speed": 0.2}, "speed", "invalid_value"),
        ({"speed": 4.5}, "speed", "invalid_value"),
        ({"speed": True}, "speed", "invalid_type"),
        ({"instructions": "x" * 4097}, "instructions", "invalid_value"),
        ({"talker": {"max_frames": 0}}, "talker.max_frames", "invalid_value"),
        ({"stream": True}, "stream", "unknown_parameter"),
        ({"model": "tts-1"}, "model", "model_not_found"),
    ],
)
async def test_a_wrong_field_is_named(stages: Stages, fields: dict[str, Any], param: str, code: str) -> None:
    response = await stages.gateway.client.post(SPEECH, json={**ASK, **fields})
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert not stages.calls("preprocess")


async def test_the_longest_input_passes(stages: Stages) -> None:
    response = await stages.gateway.client.post(SPEECH, json={**ASK, "input": "😀" * 4096, "response_format": "pcm"})
    assert response.content == stages.story.pcm


async def test_a_body_that_is_too_large(stages: Stages) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(256 * 1024 // 1000 + 2):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    response = await stages.gateway.client.post(SPEECH, content=chunks(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_an_early_error_has_its_status_and_the_fields_name(stages: Stages, client: openai.AsyncOpenAI) -> None:
    stages.next_calls("preprocess", Act("raise", 0, BadInput("It is too long.", param="messages")))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.speech.create(**ASK)
    assert caught.value.param == "input"
    assert "x-should-retry" not in caught.value.response.headers


async def test_an_error_amid_the_bytes_breaks_the_connection(stages: Stages, client: openai.AsyncOpenAI) -> None:
    stages.next_calls("talker", Act("raise", 5, BadInput("no more")))
    with pytest.raises(openai.APIConnectionError):
        await client.audio.speech.create(**ASK, response_format="pcm")


async def test_an_error_amid_events_is_the_last_one(stages: Stages) -> None:
    stages.next_calls("talker", Act("raise", 5, BadInput("no more")))
    response = await stages.gateway.client.post(SPEECH, json={**ASK, "stream_format": "sse", "response_format": "pcm"})
    *_, last, _ = response.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "no more"
