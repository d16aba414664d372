"""DashScope's native form, asked for with its own client, and by hand for what that hides."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import soundfile
from dashscope import MultiModalConversation
from dashscope.v2.client import AsyncClient
from dashscope.v2.errors import AuthenticationError, BadRequestError, InternalServerError, NotFoundError

from services.common.errors import Fault
from tests.fixtures.documented import documented
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/api/v1/services/aigc/multimodal-generation/generation"
HELLO: list[Any] = [{"role": "user", "content": [{"text": "hello"}]}]
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "Cherry", "format": "wav"}}
STREAM = {"X-DashScope-SSE": "enable"}


async def call(stages: Stages, *, api_key: str = API_KEY, **fields: Any) -> Any:
    """Call the client's first interface, which blocks."""
    asked: dict[str, Any] = {"model": "qwen3-omni-flash", "messages": HELLO, **fields}
    base = stages.gateway.url + "/api/v1"
    return await asyncio.to_thread(MultiModalConversation.call, api_key=api_key, base_address=base, **asked)


async def streamed(stages: Stages, **fields: Any) -> list[Any]:
    responses = await call(stages, stream=True, **fields)
    return await asyncio.to_thread(list, responses)


@pytest_asyncio.fixture(loop_scope="module")
async def second(stages: Stages) -> AsyncIterator[AsyncClient]:
    """The client's second interface."""
    async with AsyncClient(
        api_key=API_KEY, base_url=stages.gateway.url + "/api/v1", protocol="native", max_retries=0
    ) as client:
        yield client


def text_of(response: Any) -> str:
    assert response.status_code == HTTPStatus.OK, response
    return response.output.choices[0].message.content[0]["text"]


async def test_a_whole_answer(stages: Stages) -> None:
    response = await call(stages)
    assert text_of(response) == stages.story.text
    choice = response.output.choices[0]
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert response.request_id.startswith("req_")
    words = len(stages.story.token_ids)
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage["total_tokens"]) == (3, words, 3 + words)
    assert usage["output_tokens_details"] == {"text_tokens": words, "audio_tokens": 0, "reasoning_tokens": 0}
    assert usage["input_tokens_details"]["text_tokens"] == 3


@pytest.mark.parametrize("given", [{}, {"incremental_output": True}])
async def test_a_stream_has_what_is_new(stages: Stages, given: dict[str, Any]) -> None:
    responses = await streamed(stages, **given)
    assert len(responses) > stages.story.words
    assert "".join(map(text_of, responses)) == stages.story.text
    reasons = [response.output.choices[0].finish_reason for response in responses]
    assert reasons == ["null"] * (len(responses) - 1) + ["stop"]
    counts = [response.usage.output_tokens for response in responses]
    assert counts == sorted(counts)
    assert counts[-1] == len(stages.story.token_ids)
    assert {response.usage.input_tokens for response in responses} == {3}
    assert len({response.request_id for response in responses}) == 1


async def test_a_stream_may_have_all_so_far(stages: Stages) -> None:
    texts = list(map(text_of, await streamed(stages, incremental_output=False)))
    assert texts[-1] == stages.story.text
    assert len(set(texts)) == stages.story.words
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


async def test_a_spoken_answer(stages: Stages) -> None:
    response = await call(stages, **SPOKEN)
    assert text_of(response) == stages.story.text
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(response.output.audio.data)), dtype="int16")
    assert (samples.tobytes(), rate) == (stages.story.pcm, 24_000)
    assert response.output.audio.id.startswith("audio_")
    assert response.output.audio.expires_at
    assert response.usage["output_tokens_details"]["audio_tokens"] == stages.story.frames
    assert {each.voice for each in stages.calls("talker")} == {"chelsie"}


@pytest.mark.parametrize("incremental", [True, False])
async def test_a_spoken_stream(stages: Stages, incremental: bool) -> None:
    """Speech comes in pieces either way. The client's `voice` is inside the input."""
    asked = {"modalities": ["text", "audio"], "voice": "Cherry", "incremental_output": incremental}
    responses = await streamed(stages, **asked)
    texts = [text_of(response) for response in responses]
    assert ("".join(texts) if incremental else texts[-1]) == stages.story.text
    heard = [response.output.audio for response in responses if response.output.audio]
    data = base64.b64decode("".join(audio.data for audio in heard), validate=True)
    assert np.frombuffer(data, np.int16).tobytes() == stages.story.pcm
    assert [bool(audio.expires_at) for audio in heard] == [False] * (len(heard) - 1) + [True]
    assert {each.voice for each in stages.calls("talker")} == {"chelsie"}


async def test_media_and_parameters_reach_the_workers(stages: Stages) -> None:
    picture, sound = "https://example.org/a.png", "data:audio/wav;base64,AAAA"
    film = {"video": "https://example.org/a.mp4", "fps": 2, "max_pixels": 1000}
    content: list[Any] = [
        {"image": picture, "min_pixels": 10}, {"audio": sound}, film, {"video": [picture, picture]}, {"text": "look"},
    ]  # fmt: skip
    history: list[Any] = [
        {"role": "system", "content": [{"text": "Be brief."}]},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": [{"text": "an answer"}]},
        {"role": "user", "content": content},
    ]
    await call(stages, messages=history, temperature=0.5, top_k=3, seed=7, max_tokens=20, stop=["x"])
    (prepared,), (thought,) = stages.calls("preprocess"), stages.calls("thinker")
    assert [message.role for message in prepared.messages] == ["system", "user", "assistant", "user"]
    assert [message.parts[0].text for message in prepared.messages[:3]] == ["Be brief.", "first", "an answer"]
    parts = prepared.messages[3].parts
    kinds = [part.WhichOneof("content") for part in parts]
    assert kinds == ["image", "audio", "video", "video", "text"]
    assert parts[0].image.min_pixels == 10
    assert (parts[2].video.fps, parts[2].video.max_pixels) == (2, 1000)
    assert len(parts[3].video.frames) == 2
    sampling = thought.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.max_tokens) == (0.5, 3, 7, 20)


async def test_several_choices(stages: Stages) -> None:
    response = await call(stages, n=2)
    assert [choice["index"] for choice in response.output.choices] == [0, 1]
    responses = await streamed(stages, n=2)
    for index in (0, 1):
        own = [r for r in responses if r.output.choices[0]["index"] == index]
        assert "".join(map(text_of, own)) == stages.story.text


async def test_the_second_interface(second: AsyncClient, stages: Stages) -> None:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    whole = await second.multimodal.chat.create(model=INSTRUCT.name, messages=messages)
    assert whole.output_text == stages.story.text
    assert whole.choices[0].finish_reason == "stop"
    for incremental in (True, False):
        stream = await second.multimodal.chat.create(
            model="qwen3-omni-flash", messages=messages, stream=True, incremental_output=incremental
        )
        texts = [chunk.delta.content or "" async for chunk in stream if chunk.delta]
        assert ("".join(texts) if incremental else texts[-1]) == stages.story.text


async def test_both_interfaces_are_told_of_errors(second: AsyncClient, stages: Stages) -> None:
    response = await call(stages, model="unknown")
    assert (response.status_code, response.code) == (404, "Model.NotExist")
    assert "'unknown'" in response.message
    assert response.request_id.startswith("req_")
    response = await call(stages, api_key="wrong")
    assert (response.status_code, response.code) == (401, "InvalidApiKey")
    with pytest.raises(NotFoundError):
        await second.multimodal.chat.create(model="unknown", messages="hello")
    with pytest.raises(BadRequestError, match=r"parameters\.temperature"):
        await second.multimodal.chat.create(model=INSTRUCT.name, messages="hello", temperature=9)
    with pytest.raises(AuthenticationError):
        await second.multimodal.chat.create(model=INSTRUCT.name, messages="hello", api_key="wrong")


async def test_an_error_ends_a_stream(second: AsyncClient, stages: Stages) -> None:
    def fail() -> None:
        stages.next_calls("thinker", Act("raise", after=2, error=Fault("It broke.")))

    fail()
    *told, last = await streamed(stages)
    assert "".join(map(text_of, told)) == "w0 w1 "
    assert (last.status_code, last.code, last.message) == (500, "InternalError", "It broke.")
    assert last.request_id == told[0].request_id
    fail()
    stream = await second.multimodal.chat.create(model=INSTRUCT.name, messages="hello", stream=True)
    with pytest.raises(InternalServerError, match="It broke"):
        async for _ in stream:
            pass


async def post(stages: Stages, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await stages.gateway.client.post(PATH, json=body, headers=headers)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "'input'"),
        ({"input": {}}, "'input.messages'"),
        ({"input": {"messages": []}}, "'input.messages'"),
        ({"input": {"messages": [{"role": "user", "content": [{}]}]}}, "input.messages[0].content[0]: A part holds"),
        (
            {"input": {"messages": [{"role": "user", "content": [{"image": "x", "text": "y"}]}]}},
            "input.messages[0].content[0]: A part holds",
        ),
        (
            {"input": {"messages": [{"role": "user", "content": [{"image": 5}]}]}},
            "'input.messages[0].content[0].image'",
        ),
        (
            {"input": {"messages": [{"role": "user", "content": [{"image": "x"}]}]}},
            "'input.messages[0].content[0].image'",
        ),
        (
            {"input": {"messages": [{"role": "system", "content": [{"audio": "https://a/b"}]}]}},
            "'input.messages[0].content[0]'",
        ),
        (
            {"input": {"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]}},
            "'input.messages[0].tool_call_id'",
        ),
        ({"input": {"messages": HELLO, "text": "say"}}, "'input.text'"),
        ({"input": {"messages": HELLO, "voice": "Cherry"}}, "'parameters.audio'"),
        ({"input": {"messages": HELLO}, "stream": True}, "'stream'"),
        ({"input": {"messages": HELLO}, "parameters": {"top_p": 2}}, "'parameters.top_p'"),
        ({"input": {"messages": HELLO}, "parameters": {"result_format": "text"}}, "'parameters.result_format'"),
        ({"input": {"messages": HELLO}, "parameters": {"asr_options": {}}}, "'parameters.asr_options'"),
        ({"input": {"messages": HELLO}, "parameters": {"modalities": ["audio"]}}, "'parameters.modalities'"),
        ({"input": {"messages": HELLO}, "parameters": {"enable_thinking": True}}, "'parameters.enable_thinking'"),
        ({"input": {"messages": HELLO}, "parameters": {"n": 99}}, "'parameters.n'"),
        ({"input": {"messages": HELLO}, "parameters": {"max_tokens": 5000}}, "parameters.max_tokens"),
        (
            {"input": {"messages": HELLO}, "parameters": {**SPOKEN, "audio": {"voice": "nobody"}}},
            "'parameters.audio.voice'",
        ),
    ],
)
async def test_an_error_names_the_field(stages: Stages, body: dict[str, Any], told: str) -> None:
    for headers in ({}, STREAM):
        response = await post(stages, body, **headers)
        error = response.json()
        assert (response.status_code, error["code"]) == (400, "InvalidParameter"), error
        assert error.keys() == {"code", "message", "request_id"}
        assert error["request_id"] == response.headers["x-request-id"]
        assert told in error["message"], error


async def test_a_stage_names_the_part_as_the_client_wrote_it(stages: Stages) -> None:
    content = [{"audio": "data:audio/wav;base64,A"}]
    error = (await post(stages, {"input": {"messages": [{"role": "user", "content": content}]}})).json()
    assert "input.messages[0].content[0].audio" in error["message"]
    assert "audio_url" not in error["message"]


async def test_events_are_as_dashscope_writes_them(stages: Stages) -> None:
    response = await post(stages, {"model": INSTRUCT.name, "input": {"messages": HELLO}}, **STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.strip().split("\n\n")
    for number, event in enumerate(events, 1):
        id, kind, status, data = event.split("\n")
        assert (id, kind, status) == (f"id:{number}", "event:result", ":HTTP_STATUS/200")
        assert json.loads(data.removeprefix("data:"))["request_id"] == response.headers["x-request-id"]
    document = documented((await stages.gateway.client.get("/openapi.json")).content)
    assert len(document.check_events(response)) == len(events)


async def test_a_key_is_for_one_form_of_the_answer(stages: Stages) -> None:
    """The header, not the body, says whether an answer is streamed: they are two requests."""
    body = {"model": INSTRUCT.name, "input": {"messages": HELLO}}
    whole = await post(stages, body, **{"idempotency-key": "one"})
    again = await post(stages, body, **{"idempotency-key": "one"})
    assert (again.headers["idempotent-replayed"], again.content) == ("true", whole.content)
    refused = await post(stages, body, **{"idempotency-key": "one"}, **STREAM)
    assert (refused.status_code, refused.json()["code"]) == (400, "InvalidParameter")
