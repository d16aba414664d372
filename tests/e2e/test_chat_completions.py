"""Chat completions through all processes, with OpenAI's client."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
import wave
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
import openai
import pytest
import pytest_asyncio
from openai.lib.streaming._deltas import accumulate_delta

from tests.e2e.idle import Idle, busy_slots, scrape
from tests.e2e.media import audio_part, frames_part, image_part, photograph_png, text_part, tone_wav, video_part
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "seed": 3}
SPEECH: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}}
FEW_FRAMES = {"talker": {"max_frames": 6}}
EXACTLY = {"return_token_ids": True}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0, timeout=HANGS_AFTER_S
    ) as made:
        yield made


def user(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


HELLO = user(text_part("Say something."))


async def joined(stream: Any) -> dict[str, Any]:
    """Join a stream as clients do: text, token ids, audio."""
    out: dict[str, Any] = {"content": "", "transcript": "", "data": "", "token_ids": [], "codes": [], "usage": None}
    async for chunk in stream:
        out["usage"] = chunk.usage or out["usage"]
        for choice in chunk.model_dump()["choices"]:
            delta, audio = choice["delta"], choice["delta"].get("audio") or {}
            out["content"] += delta.get("content") or ""
            out["transcript"] += audio.get("transcript") or ""
            out["data"] += audio.get("data") or ""
            out["codes"] += audio.get("codes") or []
            out["token_ids"] += choice.get("token_ids") or []
            out["finish_reason"] = choice["finish_reason"]
    return out


async def test_streamed_text_equals_the_whole_text(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, **GREEDY, "extra_body": EXACTLY}
    whole = await client.chat.completions.create(**ask)
    streamed = await joined(
        await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    choice = whole.model_dump()["choices"][0]
    assert streamed["token_ids"] == choice["token_ids"]
    assert len(choice["token_ids"]) == whole.usage.completion_tokens <= 12  # type: ignore[union-attr]
    assert streamed["content"] == choice["message"]["content"]
    assert streamed["finish_reason"] == choice["finish_reason"]
    assert streamed["usage"].prompt_tokens == whole.usage.prompt_tokens  # type: ignore[union-attr]


async def test_streamed_speech_equals_the_whole_speech(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, **GREEDY, **SPEECH}
    whole = await client.chat.completions.create(**ask, extra_body={**FEW_FRAMES, **EXACTLY})
    streamed = await joined(
        await client.chat.completions.create(**ask, stream=True, extra_body={**FEW_FRAMES, **EXACTLY})
    )
    message = whole.model_dump()["choices"][0]["message"]
    assert message["content"] is None
    assert streamed["transcript"] == message["audio"]["transcript"]
    assert streamed["codes"] == message["audio"]["codes"]
    frames = len(message["audio"]["codes"]) // message["audio"]["codebooks"]
    assert whole.usage.completion_tokens_details.audio_tokens == frames > 0  # type: ignore[union-attr]
    with wave.open(io.BytesIO(base64.b64decode(message["audio"]["data"]))) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (24_000, 1, 2)
        assert wav.getnframes() == 1920 * frames - 555
        samples = wav.readframes(wav.getnframes())
    assert base64.b64decode(streamed["data"], validate=True) == samples


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "flac", "aac"])
async def test_each_format_of_speech_is_a_file_that_plays(
    stack: Stack, client: openai.AsyncOpenAI, audio_format: Any
) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, **GREEDY, "modalities": ["text", "audio"]}
    extra: dict[str, Any] = {"extra_body": {**FEW_FRAMES, **EXACTLY}}
    plain = await joined(
        await client.chat.completions.create(**ask, audio={"voice": "ethan", "format": "pcm16"}, stream=True, **extra)
    )
    ask["audio"] = {"voice": "ethan", "format": audio_format}
    streamed = await joined(await client.chat.completions.create(**ask, stream=True, **extra))
    whole = (await client.chat.completions.create(**ask, **extra)).choices[0].message.audio
    assert whole is not None
    assert streamed["codes"] == plain["codes"]
    pcm = base64.b64decode(plain["data"])
    for data in (streamed["data"], whole.data):
        with av.open(io.BytesIO(base64.b64decode(data, validate=True)), "r") as file:
            sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)[0]
            seconds = len(sound) / file.streams.audio[0].codec_context.sample_rate
        assert 0 <= seconds - len(pcm) / 48_000 <= 0.1
        if audio_format == "flac":
            assert sound.tobytes() == pcm


async def test_the_seed_repeats_an_answer_and_its_speech(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, "max_tokens": 6, "temperature": 1, **SPEECH}
    answers = [
        (await client.chat.completions.create(**ask, seed=seed, extra_body={**FEW_FRAMES, **EXACTLY})).model_dump()
        for seed in (5, 5, 6)
    ]
    made = [(a["choices"][0]["token_ids"], a["choices"][0]["message"]["audio"]["codes"]) for a in answers]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("parts", "extra", "kinds"),
    [
        ([image_part()], {}, {"image_tokens"}),
        ([audio_part()], {}, {"audio_tokens"}),
        ([video_part()], {}, {"video_tokens"}),
        ([video_part()], {"use_audio_in_video": True}, {"video_tokens", "audio_tokens"}),
        ([video_part()], {"mm_processor_kwargs": {"use_audio_in_video": True}}, {"video_tokens", "audio_tokens"}),
        ([video_part(), frames_part()], {"use_audio_in_video": True}, {"video_tokens", "audio_tokens"}),
        ([frames_part(), video_part()], {"use_audio_in_video": [True, False]}, {"video_tokens"}),
        ([image_part(), audio_part(), text_part("What?")], {}, {"image_tokens", "audio_tokens"}),
    ],
)
async def test_each_kind_of_media_is_counted(
    stack: Stack, client: openai.AsyncOpenAI, parts: list[dict[str, Any]], extra: dict[str, Any], kinds: set[str]
) -> None:
    answer = await client.chat.completions.create(
        model=stack.model, messages=user(*parts), **GREEDY, **SPEECH, extra_body={**FEW_FRAMES, **extra}
    )
    details = answer.usage.prompt_tokens_details.model_dump()  # type: ignore[union-attr]
    assert {k for k in ("image_tokens", "audio_tokens", "video_tokens") if details[k]} == kinds
    assert answer.choices[0].message.audio is not None
    assert base64.b64decode(answer.choices[0].message.audio.data)[:4] == b"RIFF"


async def test_an_answer_of_one_token_has_no_sound(stack: Stack, client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=stack.model, messages=HELLO, **{**GREEDY, "max_tokens": 1}, **SPEECH
    )
    assert answer.usage.completion_tokens_details.audio_tokens == 0  # type: ignore[union-attr]
    with wave.open(io.BytesIO(base64.b64decode(answer.choices[0].message.audio.data))) as wav:  # type: ignore[union-attr]
        assert wav.getnframes() == 0


async def test_a_spoken_answer_sent_back_is_history(stack: Stack, client: openai.AsyncOpenAI) -> None:
    """The answer sent back whole, and as openai's library joins its chunks, gives the same prompt tokens."""
    ask: dict[str, Any] = {"model": stack.model, **GREEDY, **SPEECH, "extra_body": FEW_FRAMES}
    first = await client.chat.completions.create(messages=HELLO, **ask)
    joined_answer: Any = {}
    async for chunk in await client.chat.completions.create(messages=HELLO, stream=True, **ask):
        joined_answer = accumulate_delta(joined_answer, chunk.model_dump(exclude_unset=True)["choices"][0]["delta"])
    assert joined_answer["content"] == ""
    prompts: list[int] = []
    for message in (first.choices[0].message.model_dump(), joined_answer):
        history: list[Any] = [*HELLO, message, {"role": "user", "content": "And then?"}]
        second = await client.chat.completions.create(messages=history, **ask)
        prompts.append(second.usage.prompt_tokens)  # type: ignore[union-attr]
    empty: list[Any] = [*HELLO, {"role": "assistant", "content": ""}, {"role": "user", "content": "And then?"}]
    without = await client.chat.completions.create(messages=empty, **ask)
    assert prompts[0] == prompts[1] > without.usage.prompt_tokens  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([image_part(b"no picture")], "messages[0].content[0]"),
        ([text_part("x"), image_part(photograph_png()[:200])], "messages[0].content[1]"),
        ([audio_part(b"no sound at all")], "messages[0].content[0]"),
        ([audio_part(photograph_png())], "messages[0].content[0]"),
        ([image_part(tone_wav(0.5))], "messages[0].content[0]"),
        ([video_part(b"\x00" * 100)], "messages[0].content[0]"),
        ([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:80/a.png"}}], "messages[0].content[0]"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "messages[0].content[0]"),
        ([text_part("word " * 40_000)], "messages"),
    ],
)
async def test_bad_media_and_long_prompts_are_400_and_leave_nothing(
    stack: Stack, client: openai.AsyncOpenAI, parts: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=stack.model, messages=user(*parts), **GREEDY)
    assert (caught.value.param or "").startswith(param)
    assert "Error" not in caught.value.message.removeprefix("Error code: 400")
    await wait_until(Idle(stack))


async def test_a_client_that_leaves_frees_every_slot_within_a_second(stack: Stack, client: openai.AsyncOpenAI) -> None:
    async def leaves_slots_busy_for_s() -> float:
        stream: Any = await client.chat.completions.create(
            model=stack.model, messages=HELLO, stream=True, max_tokens=2000, **SPEECH, extra_body={"ignore_eos": True}
        )
        async for chunk in stream:
            if (chunk.choices[0].delta.model_dump().get("audio") or {}).get("data"):
                break
        assert await busy_slots(stack.metrics_url) >= 1
        await stream.close()
        left_s = time.monotonic()
        await wait_until(Idle(stack))
        return time.monotonic() - left_s

    # In one of a dozen tries, to exclude other work of the machine.
    took_s: list[float] = []
    while min(took_s, default=1.0) >= 1 and len(took_s) < 12:
        took_s.append(await leaves_slots_busy_for_s())
    assert min(took_s) < 1, took_s


async def test_text_alone_never_touches_the_talker(stack: Stack, client: openai.AsyncOpenAI) -> None:
    async def grants() -> float:
        page = await scrape(stack)
        return sum(
            float(v) for v in re.findall(r'antiphon_gateway_queue_wait_seconds_count\{stage="talker"\} (\S+)', page)
        )

    before = await grants()
    await client.chat.completions.create(model=stack.model, messages=HELLO, **GREEDY)
    assert await grants() == before


async def test_many_at_once_answer_as_each_alone(stack: Stack, client: openai.AsyncOpenAI) -> None:
    async def ask(n: int) -> tuple[Any, Any]:
        answer = await client.chat.completions.create(
            model=stack.model,
            messages=user(text_part(f"Number {n}"), *([audio_part()] if n % 2 else [])),
            **GREEDY,
            **SPEECH,
            extra_body={**FEW_FRAMES, **EXACTLY},
        )
        choice = answer.model_dump()["choices"][0]
        return choice["token_ids"], choice["message"]["audio"]["codes"]

    alone = [await ask(n) for n in range(4)]
    assert list(await asyncio.gather(*(ask(n) for n in range(4)))) == alone


async def test_the_published_latencies_are_measured(stack: Stack) -> None:
    page = await scrape(stack)
    for row in (
        "antiphon_gateway_preprocess_seconds",
        "antiphon_gateway_thinker_first_token_seconds",
        "antiphon_gateway_talker_first_frame_seconds",
        "antiphon_gateway_predictor_frame_seconds",
        "antiphon_gateway_codec_frame_seconds",
        "antiphon_gateway_first_audio_seconds",
        "antiphon_gateway_real_time_factor_ratio",
    ):
        (count,) = re.findall(rf"^{row}_count (\S+)", page, re.MULTILINE)
        assert float(count) > 0
