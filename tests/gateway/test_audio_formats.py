"""Spoken answers as mp3, opus, flac and aac: playable files, streamed and whole, with the talker's samples in them."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from services.gateway.audio import encoding
from services.gateway.audio.encoders import CodecEncoder, encoder_for
from services.gateway.audio.formats import CODECS, FORMATS
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, Stages, scripted_stages

RATE = 24_000
# Of one frame of the talker's codec.
FRAME_BYTES = 2 * 1920
FLAC_BYTES = CODECS["flac"].memory_bytes
# What a codec may add before and after the samples, seconds: its frames are whole, and it starts with silence.
DELAY_S = {"mp3": 0.08, "opus": 0.0, "flac": 0.0, "aac": 0.09}


def speech(seconds: float) -> bytes:
    """Return something like a voice: a tone with overtones that rises and pauses."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(140 + 60 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    tones = sum(np.sin(n * pitch) / n for n in range(1, 12))
    loudness = np.clip(np.sin(2 * np.pi * 1.3 * t), 0, None)
    return (6000 * tones * loudness).astype("<i2").tobytes()


def decoded(file: bytes) -> tuple[NDArray[np.float64], int]:
    """Return (samples from -1 to 1, sample rate) as a player finds them."""
    with av.open(io.BytesIO(file), "r") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        stream = container.streams.audio[0]
        assert stream.codec_context.layout.nb_channels == 1
        samples = np.concatenate(frames, axis=1)[0]
        return samples / (32768.0 if samples.dtype == np.int16 else 1.0), stream.codec_context.sample_rate


def same_sound(got: NDArray[np.float64], rate: int, pcm: bytes, delay_s: float) -> float:
    """Return the correlation with the samples at the best shift, which must be within the codec's delay."""
    wanted = np.frombuffer(pcm, "<i2") / 32768.0
    got = got[:: rate // RATE]
    assert 0 <= len(got) - len(wanted) <= delay_s * RATE
    size = 2 * len(got)
    match = np.fft.irfft(np.fft.rfft(got, size) * np.conj(np.fft.rfft(wanted, size)), size)
    shift = int(np.argmax(match))
    assert shift <= delay_s * RATE
    got = got[shift : shift + len(wanted)]
    return float(np.corrcoef(wanted[: len(got)], got)[0, 1])


@pytest.mark.parametrize("portions", [(FRAME_BYTES - 2, FRAME_BYTES), (2, 8, FRAME_BYTES * 7), (1 << 20,)])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("audio_format", CODECS)
def test_a_file_holds_the_samples(audio_format: str, streamed: bool, portions: tuple[int, ...]) -> None:
    pcm = speech(2.03)
    encoder, file, at = encoder_for(audio_format, RATE, streamed=streamed), b"", 0
    while at < len(pcm):
        portion = portions[0] if at == 0 else portions[-1]
        file += encoder.add(pcm[at : at + portion])
        at += portion
    file += encoder.finish()
    encoder.close()
    samples, rate = decoded(file)
    if audio_format == "flac":
        assert np.array_equal((samples * 32768).astype("<i2"), np.frombuffer(pcm, "<i2"))
    else:
        assert same_sound(samples, rate, pcm, DELAY_S[audio_format]) > 0.99


@pytest.mark.parametrize(("audio_format", "frames"), [("mp3", 1), ("opus", 1), ("flac", 1), ("aac", 2)])
def test_a_stream_begins_with_the_first_frames(audio_format: str, frames: int) -> None:
    """aac looks one of its own frames ahead."""
    encoder = encoder_for(audio_format, RATE, streamed=True)
    pcm = speech(0.16)
    assert encoder.add(pcm[: frames * FRAME_BYTES])
    encoder.close()


@pytest.mark.parametrize("audio_format", ["mp3", "flac"])
def test_a_whole_file_tells_its_length(audio_format: str) -> None:
    encoder = encoder_for(audio_format, RATE, streamed=False)
    encoder.add(speech(1.5))
    with av.open(io.BytesIO(encoder.finish()), "r") as container:
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_an_encoder_may_be_closed_at_any_time(audio_format: str, streamed: bool) -> None:
    encoder_for(audio_format, RATE, streamed=streamed).close()
    begun, ended = (encoder_for(audio_format, RATE, streamed=streamed) for _ in range(2))
    begun.add(speech(0.1))
    begun.close()
    ended.finish()
    ended.close()


# Over HTTP, where the scripted talker speaks


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url) as running:
        yield running
        await wait_until(running.clean)
    assert not CodecEncoder.open


def spoken(audio_format: str) -> dict[str, Any]:
    return {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": audio_format}}


async def whole(stages: Stages, audio_format: str, **fields: Any) -> dict[str, Any]:
    body = {"model": INSTRUCT.name, "messages": HELLO, **spoken(audio_format), **fields}
    response = await stages.gateway.client.post(CHAT, json=body)
    assert response.status_code == 200
    return response.json()


@pytest.mark.parametrize("audio_format", CODECS)
async def test_only_the_bytes_of_the_speech_depend_on_the_format(stages: Stages, audio_format: str) -> None:
    plain = await stages.ask(**spoken("pcm16"))
    streamed = await stages.ask(**spoken(audio_format))
    assert plain.pcm == stages.story.pcm
    for field in ("token_ids", "text", "codes", "codebooks", "finish_reason", "usage", "error"):
        assert getattr(streamed, field) == getattr(plain, field)
    complete = await whole(stages, audio_format, return_token_ids=True)
    audio = complete["choices"][0]["message"]["audio"]
    assert (complete["usage"], audio["codes"], audio["transcript"]) == (plain.usage, plain.codes, plain.text)
    for file in (streamed.pcm, base64.b64decode(audio["data"], validate=True)):
        samples, rate = decoded(file)
        assert 0 <= len(samples) / (rate // RATE) - len(plain.pcm) // 2 <= 0.1 * RATE
        if audio_format == "flac":
            assert (samples * 32768).astype("<i2").tobytes() == plain.pcm


async def test_the_base64_of_a_stream_can_be_joined(stages: Stages) -> None:
    joined = ""
    async for chunk in stages.chunks(**spoken("flac")):
        for choice in chunk["choices"]:
            joined += choice["delta"].get("audio", {}).get("data", "")
    samples, _ = decoded(base64.b64decode(joined, validate=True))
    assert (samples * 32768).astype("<i2").tobytes() == stages.story.pcm


@pytest.mark.parametrize("audio_format", ["opus", "flac"])
async def test_a_lost_talker_leaves_no_seam_in_the_file(stages: Stages, audio_format: str) -> None:
    calm = await stages.ask(**spoken(audio_format))
    stages.next_calls("talker", Act("die", 4))
    disturbed = await stages.ask(**spoken(audio_format))
    assert len(stages.calls("talker")) == 3
    assert (disturbed.codes, disturbed.usage, disturbed.error) == (calm.codes, calm.usage, None)
    assert np.array_equal(decoded(disturbed.pcm)[0], decoded(calm.pcm)[0])


@pytest.mark.parametrize(("audio_format", "stream"), [("opus", True), ("mp3", False)])
async def test_a_client_that_leaves_mid_speech_leaves_no_encoder(
    stages: Stages, audio_format: str, stream: bool
) -> None:
    stages.next_calls("talker", Act("hang", 4))
    body = {"model": INSTRUCT.name, "messages": HELLO, "stream": stream, **spoken(audio_format)}
    asking = asyncio.create_task(stages.gateway.client.post(CHAT, json=body))
    await wait_until(lambda: len(CodecEncoder.open) == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await wait_until(lambda: not CodecEncoder.open)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("full", ["requests", "encoders"])
async def test_encoders_take_memory_from_the_requests(
    stages: Stages, stream: bool, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_WAIT_S", 0.1)
    gateway = stages.gateway.gateway
    requests, share = gateway.memory.budget, gateway.encoding.share
    budget = requests if full == "requests" else share
    body = {"model": INSTRUCT.name, "messages": HELLO, "stream": stream, **spoken("flac")}
    async with budget.take(budget.total_bytes, what="all of it"):
        response = await stages.gateway.client.post(CHAT, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (429, "memory_full", "audio.format")
        assert all(str(n) in error["message"] for n in (FLAC_BYTES, requests.total_bytes, share.total_bytes))
        assert response.headers["retry-after"] == "5"
        assert (await stages.ask(**spoken("pcm16"))).pcm == stages.story.pcm
    monkeypatch.undo()
    assert not stages.calls("talker")[1:]
    stages.next_calls("talker", Act("hang", 4))
    asking = asyncio.create_task(stages.gateway.client.post(CHAT, json=body))
    await wait_until(lambda: len(CodecEncoder.open) == 1)
    assert requests.held_bytes == share.held_bytes == FLAC_BYTES
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await wait_until(lambda: requests.held_bytes == share.held_bytes == 0)


async def test_an_encoder_waits_for_memory(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_WAIT_S", HANGS_AFTER_S)
    requests = stages.gateway.gateway.memory.budget
    async with AsyncExitStack() as held:
        await held.enter_async_context(requests.take(requests.total_bytes, what="all of it"))
        asking = asyncio.create_task(whole(stages, "flac"))
        await wait_until(lambda: requests.waiting_bytes == FLAC_BYTES)
        await held.aclose()
        await asking


@pytest.mark.parametrize("audio_format", CODECS)
def test_an_encoder_takes_no_more_memory_than_is_said(audio_format: str) -> None:
    """FFmpeg takes it from the system: the process grows."""
    pcm, encoders = speech(0.4), [encoder_for(audio_format, RATE, streamed=True)]
    encoders[0].add(pcm)  # what all share
    before_bytes = resident_bytes()
    for _ in range(20):
        encoders.append(encoder_for(audio_format, RATE, streamed=True))
        encoders[-1].add(pcm)
    grown_bytes = resident_bytes() - before_bytes
    for encoder in encoders:
        encoder.close()
    assert grown_bytes / 20 < 1.5 * CODECS[audio_format].memory_bytes


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


async def test_an_unknown_format_is_refused_with_the_list(stages: Stages) -> None:
    body = {"model": INSTRUCT.name, "messages": HELLO, **spoken("ogg")}
    response = await stages.gateway.client.post(CHAT, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "audio.format", "invalid_value")
    assert all(repr(name) in error["message"] for name in FORMATS)
