"""A realtime turn through all processes."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np
import openai

from services.gateway.realtime.conversation import SAMPLE_RATE, wav_of
from tests.e2e.asking import TOLERANCE, client_of
from tests.e2e.idle import scrape
from tests.e2e.media import audio_part, tone_wav
from tests.fixtures.stack import Stack
from tests.fixtures.wait import wait_until

SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 11, "talker": {"seed": 5, "max_frames": 20}}


async def spoken_turn(client: openai.AsyncOpenAI, model: str, pcm: bytes) -> tuple[str, bytes, Any]:
    """Push to talk. Return the transcript, the samples and the response."""
    transcript, samples = "", b""
    async with client.realtime.connect(model=model) as connection:
        audio = {"input": {"turn_detection": None}, "output": {"voice": "ethan"}}
        session: Any = {"type": "realtime", "audio": audio, "max_output_tokens": 12, **SEEDED}
        await connection.session.update(session=session)
        for at in range(0, len(pcm), 4800):
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + 4800]).decode())
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        async for event in connection:
            assert event.type != "error", event
            if event.type == "response.output_audio.delta":
                samples += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.delta":
                transcript += event.delta
            elif event.type == "response.done":
                return transcript, samples, event.response
    raise AssertionError("the connection ended before the response")


async def test_a_spoken_turn_equals_that_of_chat_completions(stack: Stack) -> None:
    pcm = tone_wav(1.5, SAMPLE_RATE)[44:]
    mono = b"".join(pcm[at : at + 2] for at in range(0, len(pcm), 4))
    async with client_of(stack) as client:
        transcript, samples, response = await spoken_turn(client, stack.model, mono)
        chat = await client.chat.completions.create(
            model=stack.model,
            messages=[{"role": "user", "content": [audio_part(wav_of(mono))]}],  # type: ignore[list-item]
            modalities=["text", "audio"],
            audio={"voice": "ethan", "format": "pcm16"},
            max_tokens=12,
            extra_body=SEEDED,
        )
    said = chat.choices[0].message.audio
    assert said is not None
    heard, expected = (np.frombuffer(data, "<i2").astype(int) for data in (samples, base64.b64decode(said.data)))
    assert len(heard) == len(expected) > SAMPLE_RATE // 2
    assert np.abs(heard - expected).max() <= TOLERANCE  # other codes would sound otherwise
    assert transcript == said.transcript
    usage = chat.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert response.usage.input_token_details.audio_tokens == usage.prompt_tokens_details.audio_tokens
    assert (response.usage.input_tokens, response.usage.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)


WINDOW_TOKENS = 104
"""Of 8 s of sound."""
_READ_AHEAD = re.compile(r'^antiphon_gateway_realtime_prefills_total\{outcome="read"\} (\S+)', re.MULTILINE)


async def test_what_was_said_for_8_s_is_in_the_thinkers_cache_before_the_turn_ends(stack: Stack) -> None:
    """The sound is resampled and padded as a whole each time, and its finished window stays the same."""
    rng = np.random.default_rng(8)
    samples = rng.normal(0, 1500, int(9.5 * SAMPLE_RATE))
    samples[:SAMPLE_RATE] *= 4  # the loudest moment, whose floor holds for all
    pcm = samples.astype("<i2").tobytes()
    before = await reads_ahead(stack)
    async with client_of(stack) as client, client.realtime.connect(model=stack.model) as connection:
        session: Any = {
            "type": "realtime",
            "output_modalities": ["text"],
            "audio": {"input": {"turn_detection": None}},
            "max_output_tokens": 4,
        }
        await connection.session.update(session=session)
        for at in range(0, len(pcm), 48_000):
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + 48_000]).decode())

        async def is_read() -> bool:
            return await reads_ahead(stack) > before

        await wait_until(is_read)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        async for event in connection:
            assert event.type != "error", event
            if event.type == "response.done":
                usage: Any = event.response.usage
                break
        else:
            raise AssertionError("the connection ended before the response")
    cached = usage.input_token_details.cached_tokens
    assert WINDOW_TOKENS - 32 < cached < usage.input_token_details.audio_tokens


async def reads_ahead(stack: Stack) -> float:
    """Return how often the thinker has read something ahead."""
    found = _READ_AHEAD.search(await scrape(stack))
    return float(found[1]) if found else 0.0
