"""DashScope's text-generation, asked for with its own client, and by hand for what that hides."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from dashscope import Generation
from dashscope.v2.client import AsyncClient
from dashscope.v2.errors import BadRequestError

from services.common.errors import Fault
from tests.fixtures.documented import documented
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.dashscope.test_native import STREAM
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/api/v1/services/aigc/text-generation/generation"
HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


async def call(stages: Stages, *, api_key: str = API_KEY, **fields: Any) -> Any:
    """Call the client's first interface, which blocks."""
    base = stages.gateway.url + "/api/v1"
    asked: dict[str, Any] = {"model": "qwen3-omni-flash", "api_key": api_key, "base_address": base, **fields}
    return await asyncio.to_thread(Generation.call, **asked)


async def streamed(stages: Stages, **fields: Any) -> list[Any]:
    return await asyncio.to_thread(list, await call(stages, stream=True, **fields))


def read(stages: Stages) -> list[tuple[str, str]]:
    """Return the role and the text of each message that the model read last."""
    calls = [call for call in [*stages.calls("preprocess"), *stages.calls("thinker")] if call.messages]
    return [(message.role, message.parts[0].text) for message in calls[-1].messages]


@pytest_asyncio.fixture(loop_scope="module")
async def second(stages: Stages) -> AsyncIterator[AsyncClient]:
    """The client's second interface."""
    async with AsyncClient(
        api_key=API_KEY, base_url=stages.gateway.url + "/api/v1", protocol="native", max_retries=0
    ) as client:
        yield client


async def test_messages_are_answered_by_a_message(stages: Stages) -> None:
    response = await call(stages, messages=HELLO, result_format="message", temperature=0.5)
    (choice,) = response.output.choices
    assert (choice.message.role, choice.message.content) == ("assistant", stages.story.text)
    assert (choice.finish_reason, response.output.text) == ("stop", None)
    assert response.request_id.startswith("req_")
    assert response.usage.output_tokens == len(stages.story.token_ids)
    assert read(stages) == [("system", "Be brief."), ("user", "hello")]
    assert stages.calls("thinker")[-1].sampling.temperature == 0.5
    # A message is what comes where nothing is said.
    again = await call(stages, messages=HELLO, prompt="And now?")
    assert again.output.choices[0].message.content == stages.story.text
    assert read(stages) == [("system", "Be brief."), ("user", "hello"), ("user", "And now?")]


async def test_a_prompt_is_answered_by_a_text(stages: Stages) -> None:
    response = await call(stages, prompt="hello", result_format="text", max_tokens=99)
    assert (response.output.text, response.output.finish_reason) == (stages.story.text, "stop")
    assert response.output.choices is None
    assert read(stages) == [("user", "hello")]
    assert stages.calls("thinker")[-1].sampling.max_tokens == 99


@pytest.mark.parametrize("shape", ["message", "text"])
async def test_a_stream_has_what_is_new_or_all_so_far(stages: Stages, shape: str) -> None:
    def text_of(output: Any) -> str:
        return output.text if shape == "text" else output.choices[0].message.content

    def reason_of(output: Any) -> str:
        return output.finish_reason if shape == "text" else output.choices[0].finish_reason

    outputs = [r.output for r in await streamed(stages, messages=HELLO, result_format=shape, incremental_output=True)]
    assert len(outputs) > stages.story.words
    assert "".join(map(text_of, outputs)) == stages.story.text
    assert list(map(reason_of, outputs)) == ["null"] * (len(outputs) - 1) + ["stop"]
    texts = [
        text_of(r.output) for r in await streamed(stages, prompt="hello", result_format=shape, incremental_output=False)
    ]
    assert texts[-1] == stages.story.text
    assert len(set(texts)) == stages.story.words
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


async def test_the_second_interface(second: AsyncClient, stages: Stages) -> None:
    whole = await second.chat.completions.create(model=INSTRUCT.name, messages=HELLO)
    assert whole.output_text == stages.story.text
    stream = await second.chat.completions.create(model=INSTRUCT.name, messages=HELLO, stream=True)
    assert "".join([chunk.delta.content or "" async for chunk in stream if chunk.delta]) == stages.story.text
    with pytest.raises(BadRequestError, match=r"parameters\.temperature"):
        await second.chat.completions.create(model=INSTRUCT.name, messages=HELLO, temperature=9)


async def test_errors_are_told(stages: Stages) -> None:
    for fields, status, code in (
        ({"model": "unknown"}, 404, "Model.NotExist"),
        ({"api_key": "x"}, 401, "InvalidApiKey"),
    ):
        response = await call(stages, prompt="hello", **fields)
        assert (response.status_code, response.code) == (status, code)
    stages.next_calls("thinker", Act("raise", after=2, error=Fault("It broke.")))
    *told, last = await streamed(stages, prompt="hello", result_format="text", incremental_output=True)
    assert "".join(response.output.text for response in told) == "w0 w1 "
    assert (last.status_code, last.code, last.message) == (500, "InternalError", "It broke.")


@pytest.mark.parametrize(
    ("input", "parameters", "told"),
    [
        ({}, {}, "The input holds one of prompt and messages"),
        ({"prompt": "x", "messages": HELLO}, {}, "The input holds one of prompt and messages"),
        ({"prompt": ""}, {}, "'input.prompt'"),
        ({"prompt": "x", "history": []}, {}, "'input.history'"),
        ({"prompt": "x", "voice": "Cherry"}, {}, "'input.voice'"),
        ({"messages": [{"role": "user", "content": [{"image": 5}]}]}, {}, "'input.messages[0].content[0].image'"),
        ({"prompt": "x"}, {"result_format": "html"}, "parameters.result_format"),
        ({"prompt": "x"}, {"result_format": "text", "n": 2}, "'parameters.n'"),
        ({"prompt": "x"}, {"result_format": "text", "logprobs": True}, "'parameters.logprobs'"),
        (
            {"prompt": "x"},
            {"result_format": "text", "tools": [{"type": "function", "function": {"name": "f"}}]},
            "'parameters.tools'",
        ),
        ({"prompt": "x"}, {"enable_search": True}, "'parameters.enable_search'"),
        ({"prompt": "x"}, {"max_tokens": 5000}, "parameters.max_tokens"),
    ],
)
async def test_an_error_names_the_field(
    stages: Stages, input: dict[str, Any], parameters: dict[str, Any], told: str
) -> None:
    for headers in ({}, STREAM):
        body = {"input": input, "parameters": parameters}
        response = await stages.gateway.client.post(PATH, json=body, headers=headers)
        error = response.json()
        assert (response.status_code, error["code"]) == (400, "InvalidParameter"), error
        assert told in error["message"], error


@pytest.mark.parametrize("shape", ["message", "text"])
async def test_answers_and_events_are_as_documented(stages: Stages, shape: str) -> None:
    document = documented((await stages.gateway.client.get("/openapi.json")).content)
    body = {"input": {"prompt": "hello"}, "parameters": {"result_format": shape}}
    await document.check(await stages.gateway.client.post(PATH, json=body))
    events = document.check_events(await stages.gateway.client.post(PATH, json=body, headers=STREAM))
    assert len(events) > stages.story.words
