"""Speech, transcriptions and translations through all processes, with OpenAI's client."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
import openai
import pytest
import pytest_asyncio
import soundfile

from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import audio_pieces
from tests.e2e.idle import Idle, scrape
from tests.e2e.media import clip_mp4, photograph_png, tone_wav
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
# The tiny checkpoint's texts and speech seldom have an end of their own.
FEW_TOKENS: dict[str, Any] = {"extra_body": {"max_tokens": 12}}
FEW_FRAMES: dict[str, Any] = {"extra_body": {"seed": 3, "talker": {"max_frames": 6}}}
SAMPLES = 6 * 1920 - 555
TEXT = "One, two, three."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0, timeout=HANGS_AFTER_S
    ) as made:
        yield made


async def test_a_transcription_streamed_and_whole(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"file": ("tone.wav", tone_wav()), "model": stack.model, **FEW_TOKENS}
    whole = await client.audio.transcriptions.create(**ask)
    events = [event async for event in await client.audio.transcriptions.create(**ask, stream=True)]
    assert "".join(e.delta for e in events if e.type == "transcript.text.delta") == whole.text
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == whole.text
    assert await client.audio.transcriptions.create(**ask, response_format="text") == whole.text
    usage: Any = whole.usage
    assert usage.input_token_details.audio_tokens == 20  # 13 a second and a rest
    assert usage.output_tokens == 12


async def test_the_text_is_that_of_the_same_chat(stack: Stack, client: openai.AsyncOpenAI) -> None:
    sound = {"data": base64.b64encode(tone_wav()).decode(), "format": "wav"}
    chat = await client.chat.completions.create(
        model=stack.model,
        temperature=0,
        max_tokens=12,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": sound},  # type: ignore[list-item]
                    {"type": "text", "text": "Transcribe the audio into text."},
                ],
            }
        ],
    )
    answer = await client.audio.transcriptions.create(file=("a.wav", tone_wav()), model=stack.model, **FEW_TOKENS)
    assert answer.text == chat.choices[0].message.content


async def test_a_long_recording_is_the_text_of_its_pieces(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The pieces are asked for alone, each as a file of the same samples."""
    data = tone_wav(150.0, 8_000)
    ask: dict[str, Any] = {"model": stack.model, **FEW_TOKENS}
    answer = await client.audio.transcriptions.create(
        file=("a.wav", data), chunking_strategy="auto", timeout=HANGS_AFTER_S, **ask
    )
    texts: list[str] = []
    tokens = 0
    for piece in audio_pieces(data, MediaLimits(), 120.0):
        file = io.BytesIO()
        soundfile.write(file, piece, 16_000, format="WAV", subtype="FLOAT")
        alone = await client.audio.transcriptions.create(file=("p.wav", file.getvalue()), timeout=HANGS_AFTER_S, **ask)
        texts.append(alone.text)
        usage: Any = alone.usage
        tokens += usage.total_tokens
    assert len(texts) == 2
    first, second = texts
    assert answer.text.startswith(first)
    assert answer.text.endswith(second.lstrip())
    assert len(answer.text) - len(first) - len(second.lstrip()) in (0, 1)
    whole: Any = answer.usage
    assert whole.total_tokens == tokens


async def test_a_translation_of_a_films_sound(stack: Stack, client: openai.AsyncOpenAI) -> None:
    with pytest.deprecated_call():  # by this version of the client
        answer = await client.audio.translations.create(  # pyright: ignore[reportDeprecated]
            file=("a.mp4", clip_mp4()), model=stack.model, **FEW_TOKENS
        )
    assert answer.text


@pytest.mark.parametrize("file", [b"no sound at all", photograph_png(), tone_wav()[:30]])
async def test_a_file_that_is_no_audio_is_refused_by_name(
    stack: Stack, client: openai.AsyncOpenAI, file: bytes
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(file=("a.wav", file), model=stack.model)
    assert caught.value.param == "file"
    await wait_until(Idle(stack))


@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_speech_in_each_format_streamed_and_in_events(
    stack: Stack, client: openai.AsyncOpenAI, response_format: Any
) -> None:
    ask: dict[str, Any] = {"model": stack.model, "input": TEXT, "voice": "nova", **FEW_FRAMES}
    pcm = (await client.audio.speech.create(**ask, response_format="pcm")).content
    assert len(pcm) == 2 * SAMPLES
    whole = (await client.audio.speech.create(**ask, response_format=response_format)).content
    async with client.audio.speech.with_streaming_response.create(
        **ask, response_format=response_format, stream_format="sse"
    ) as response:
        events = [json.loads(line[6:]) async for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1]["usage"]["output_tokens"] == 6
    assert events[-1]["finish_reason"] == "length"
    assert len(events) > 2
    streamed = b"".join(base64.b64decode(event["audio"], validate=True) for event in events[:-1])
    for file in (whole, streamed):
        if response_format == "pcm":
            assert file == pcm
            continue
        with av.open(io.BytesIO(file), "r") as container:
            sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]
            seconds = len(sound) / container.streams.audio[0].codec_context.sample_rate
        assert 0 <= seconds - len(pcm) / 48_000 <= 0.1
        if response_format in ("wav", "flac"):
            assert sound.tobytes() == pcm
        if response_format == "wav":
            assert soundfile.read(io.BytesIO(file), dtype="int16")[0].tobytes() == pcm


async def test_a_seed_repeats_speech_and_other_texts_and_voices_are_other_speech(
    stack: Stack, client: openai.AsyncOpenAI
) -> None:
    # The first few frames may be the same: the seed decides more of them than a random checkpoint's weights do.
    many_frames = {"seed": 3, "talker": {"max_frames": 60}}
    ask: dict[str, Any] = {"model": stack.model, "response_format": "pcm", "extra_body": many_frames}
    first: dict[str, Any] = {"input": f"{TEXT} " * 8, "voice": "ethan"}
    others: list[dict[str, Any]] = [{"input": "A text with other words. " * 8}, {"voice": "chelsie"}]
    spoken = [(await client.audio.speech.create(**ask, **{**first, **other})).content for other in ({}, {}, *others)]
    assert spoken[0] == spoken[1]
    assert len(set(spoken)) == 3


async def test_speech_takes_no_slot_of_a_thinker_and_leaves_nothing(stack: Stack, client: openai.AsyncOpenAI) -> None:
    async def grants() -> dict[str, float]:
        found = re.findall(r'antiphon_gateway_queue_wait_seconds_count\{stage="(\w+)"\} (\S+)', await scrape(stack))
        return {stage: float(count) for stage, count in found}

    before = await grants()
    await client.audio.speech.create(model=stack.model, input=TEXT, voice="ethan", **FEW_FRAMES)
    after = await grants()
    assert {stage for stage in after if after[stage] > before.get(stage, 0)} == {"preprocess", "talker"}
    await wait_until(Idle(stack))
