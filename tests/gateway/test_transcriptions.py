"""Transcriptions and translations, asked for with OpenAI's own client: forms, prompts, answers and errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from services.common.errors import BadInput, ContextTooLong
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, MAX_MEDIA_BYTES
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
SOUND = bytes(range(256)) * 40 + b"\r\n--\r\n"
FILE = ("speech.wav", SOUND, "audio/wav")
USAGE = {
    "type": "tokens",
    "input_tokens": 6,
    "input_token_details": {"text_tokens": 3, "audio_tokens": 3},
    "output_tokens": 9,
    "total_tokens": 15,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, workers=1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages) -> AsyncIterator[Stages]:
    """Nothing may be left of a test's turns and forms."""
    for worker in module_stages.workers:
        worker.calls.clear()
    module_stages.preprocess[0].media.clear()
    yield module_stages
    await wait_until(module_stages.clean)
    assert module_stages.gateway.gateway.memory.budget.holds == 0


@pytest_asyncio.fixture(loop_scope="module")
async def client(stages: Stages) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


def prompt_of(stages: Stages) -> tuple[Any, str]:
    """Return the only call's messages as (parts that are no text, text)."""
    (call,) = stages.calls("preprocess")
    (message,) = call.messages
    assert message.role == "user"
    *media, text = message.parts
    return media, text.text


async def test_a_whole_transcription(stages: Stages, client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name)
    assert answer.text == stages.story.text
    assert answer.usage is not None
    assert answer.usage.model_dump() == USAGE
    (audio,), text = prompt_of(stages)
    assert audio.WhichOneof("content") == "audio"
    assert text == "Transcribe the audio into text."
    assert stages.preprocess[0].media == [[SOUND]]
    (generate,) = stages.calls("thinker")
    assert generate.sampling.temperature == 0
    assert not stages.calls("talker")


async def test_a_transcription_as_plain_text(stages: Stages, client: openai.AsyncOpenAI) -> None:
    assert await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, response_format="text") == (
        stages.story.text
    )


@pytest.mark.parametrize("response_format", ["json", "text"])
async def test_a_streamed_transcription(stages: Stages, client: openai.AsyncOpenAI, response_format: Any) -> None:
    stream = await client.audio.transcriptions.create(
        file=FILE, model=INSTRUCT.name, stream=True, response_format=response_format
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 8 + ["transcript.text.done"]
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == stages.story.text
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert done.text == stages.story.text
    assert done.usage is not None
    assert done.usage.model_dump() == USAGE


async def test_all_fields_reach_the_model(stages: Stages, client: openai.AsyncOpenAI) -> None:
    await client.audio.transcriptions.create(
        file=FILE,
        model=INSTRUCT.name,
        language="zh",
        prompt="Antiphon, vLLM",
        temperature=0.5,
        extra_body={"seed": 3, "top_p": 0.5, "max_tokens": 99},
    )
    _, text = prompt_of(stages)
    assert text.startswith("请将这段中文语音转换为纯文本。")
    assert text.endswith("Antiphon, vLLM")
    (generate,) = stages.calls("thinker")
    sampling = generate.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.5, 0.5, 3, 99)


@pytest.mark.parametrize(
    ("extra", "task"),
    [
        ({}, "Listen to the provided speech and produce a translation in English text."),
        (
            {"language": "de", "to_language": "ja"},
            "Listen to the provided German speech and produce a translation in Japanese text.",
        ),
    ],
)
async def test_a_translation(stages: Stages, client: openai.AsyncOpenAI, extra: Any, task: str) -> None:
    with pytest.deprecated_call():  # by this version of the client
        answer = await client.audio.translations.create(  # pyright: ignore[reportDeprecated]
            file=FILE, model=INSTRUCT.name, extra_body=extra
        )
    assert answer.text == stages.story.text
    assert prompt_of(stages)[1] == task


async def test_a_file_that_comes_in_small_pieces(stages: Stages) -> None:
    boundary = "x" * 70
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
    body = head + SOUND + f"\r\n--{boundary}--\r\n".encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 997):
            yield body[at : at + 997]

    response = await stages.gateway.client.post(
        TRANSCRIPTIONS, content=pieces(), headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )
    assert response.json()["text"] == stages.story.text
    assert stages.preprocess[0].media == [[SOUND]]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": "srt"}, "response_format", "unsupported_parameter"),
        ({"response_format": "vtt"}, "response_format", "unsupported_parameter"),
        ({"response_format": "yaml"}, "response_format", "invalid_value"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "unsupported_parameter"),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities", "unsupported_parameter"),
        (
            {"response_format": "json", "chunking_strategy": "auto", "timestamp_granularities[]": "segment"},
            "timestamp_granularities",
            "unsupported_parameter",
        ),
        ({"response_format": "srt", "chunking_strategy": "auto", "stream": "true"}, "stream", "unsupported_parameter"),
        ({"antiphon_piece_s": "10"}, "antiphon_piece_s", "unsupported_parameter"),
        ({"antiphon_piece_s": "1", "chunking_strategy": "auto"}, "antiphon_piece_s", "invalid_value"),
        ({"include[]": "logprobs"}, "include", "unsupported_parameter"),
        ({"known_speaker_names[]": "a"}, "known_speaker_names", "unsupported_parameter"),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy", "invalid_value"),
        ({"temperature": "2"}, "temperature", "invalid_value"),
        ({"temperature": "warm"}, "temperature", "invalid_value"),
        ({"stream": "maybe"}, "stream", "invalid_value"),
        ({"language": "tlh"}, "language", "invalid_value"),
        ({"languge": "en"}, "languge", "unknown_parameter"),
        ({"to_language": "en"}, "to_language", "unknown_parameter"),
        ({"model": "whisper-1"}, "model", "model_not_found"),
        ({"prompt": "x" * 70_000}, "prompt", "text_too_large"),
        ({"prompt": ["a", "b"]}, "prompt", "invalid_value"),
    ],
)
async def test_a_wrong_field_is_named(stages: Stages, fields: dict[str, Any], param: str, code: str) -> None:
    response = await stages.gateway.client.post(TRANSCRIPTIONS, data=fields, files={"file": FILE})
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert response.status_code in (400, 404, 413)
    assert not stages.calls("preprocess")


async def test_formats_without_times_say_what_to_do(stages: Stages, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Send chunking_strategy=auto"):
        await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, response_format="srt")


async def test_the_verbose_form_tells_the_length_and_the_language(stages: Stages, client: openai.AsyncOpenAI) -> None:
    verbose: Any = {"file": FILE, "model": INSTRUCT.name, "response_format": "verbose_json"}
    answer = await client.audio.transcriptions.create(**verbose, language="DE")
    # Three tokens of sound, of which 13 are a second.
    assert (answer.text, answer.duration, answer.language) == (stages.story.text, 0.231, "german")
    assert answer.usage is not None
    assert answer.usage.model_dump() == {"type": "duration", "seconds": 0.231}
    assert (answer.segments, answer.words) == (None, None)
    form = {"response_format": "verbose_json"}
    translated = (await stages.gateway.client.post(TRANSLATIONS, data=form, files={"file": FILE})).json()
    assert (translated["language"], translated["task"]) == ("unknown", "translate")


async def test_an_unknown_field_of_many_is_named(stages: Stages) -> None:
    fields = {f"field{n}": "1" for n in range(100)}
    response = await stages.gateway.client.post(TRANSCRIPTIONS, data=fields, files={"file": FILE})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "too_many_values")


@pytest.mark.parametrize(
    ("size", "status", "code"), [(0, 400, "empty_media"), (MAX_MEDIA_BYTES + 1, 413, "media_too_large")]
)
async def test_an_empty_or_too_large_file(stages: Stages, size: int, status: int, code: str) -> None:
    response = await stages.gateway.client.post(TRANSLATIONS, files={"file": ("a.wav", bytes(size))})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, "file", code)


@pytest.mark.parametrize(("memory_mib", "status"), [(10, 200), (6, 413)])
async def test_a_file_takes_its_size_of_memory_once(redis_server: RedisServer, memory_mib: int, status: int) -> None:
    """A server whose requests have less memory (here half of it) than the file and a little more refuses it at once;
    twice its size is not needed.

    Its workers have a store of their own: those of the module would take its tickets.
    """
    mib = 1024**2
    async with scripted_stages(
        redis_server.url, workers=1, max_body_bytes=8 * mib, max_media_bytes=8 * mib, memory_bytes=memory_mib * mib
    ) as stages:
        file = SOUND * (3 * mib // len(SOUND))
        response = await stages.gateway.client.post(TRANSCRIPTIONS, files={"file": ("a.wav", file)})
        assert response.status_code == status
        if status == 200:
            assert stages.preprocess[0].media == [[file]]
        else:
            assert response.json()["error"]["param"] == "file"
        await wait_until(lambda: stages.gateway.gateway.memory.budget.holds == 0)


async def test_a_form_without_a_file(stages: Stages) -> None:
    files = {"sound": FILE}
    response = await stages.gateway.client.post(TRANSCRIPTIONS, files=files)
    error = response.json()["error"]
    # It is a field like others, so its bytes are no text.
    assert (response.status_code, error["param"]) == (400, "sound")
    response = await stages.gateway.client.post(TRANSCRIPTIONS, files={"model": (None, INSTRUCT.name)})
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("file", "missing_required_parameter")


async def test_two_files(stages: Stages) -> None:
    response = await stages.gateway.client.post(TRANSCRIPTIONS, files=[("file", FILE), ("file", FILE)])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "file")


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("application/json", b"{}", "invalid_content_type"),
        ("multipart/form-data", b"--x--", "invalid_content_type"),
        ("multipart/form-data; boundary=" + "x" * 300, b"--x--", "invalid_form"),
        ("multipart/form-data; boundary=x", b"", "invalid_form"),
        ("multipart/form-data; boundary=x", b"sound", "invalid_form"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", "invalid_form"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nthis file has no end',
            "invalid_form",
        ),
    ],
)
async def test_a_body_that_is_no_form(stages: Stages, content_type: str, body: bytes, code: str) -> None:
    response = await stages.gateway.client.post(TRANSCRIPTIONS, content=body, headers={"content-type": content_type})
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    "error",
    [
        BadInput("This is no audio.", param="file", code="invalid_media"),
        BadInput("It is too long.", param="file.input_audio.data"),
        ContextTooLong("The prompt has 9 tokens.", param="messages"),
    ],
    ids=lambda error: error.param,
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_wrong_with_the_audio_names_the_file(
    stages: Stages, client: openai.AsyncOpenAI, error: BadInput, streamed: bool
) -> None:
    stages.next_calls("preprocess", Act("raise", 0, error))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, stream=streamed)
    assert (caught.value.param, caught.value.code) == ("file", error.code)


async def test_an_error_in_a_stream_is_its_last_event(stages: Stages, client: openai.AsyncOpenAI) -> None:
    stages.next_calls("thinker", Act("raise", 4, BadInput("no more")))
    stream = await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, stream=True)
    with pytest.raises(openai.APIError, match="no more"):
        async for _ in stream:
            pass


async def test_bytes_of_events_are_one_json_each(stages: Stages) -> None:
    response = await stages.gateway.client.post(TRANSCRIPTIONS, data={"stream": "true"}, files={"file": FILE})
    assert response.headers["content-type"].startswith("text/event-stream")
    *_, last, _ = response.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["type"] == "transcript.text.done"
