"""/v1/responses with openai's own SDK, on scripted workers."""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

from services.common.errors import BadInput
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.responses.checked import checked_response
from tests.gateway.responses.conftest import CALL, RESPONSES, WEATHER, Api, running_api
from tests.gateway.scripted.script import Act

MODEL = INSTRUCT.name
TEXT = "".join(CALL)
ANSWER = '{"city": "Oslo", "rain": true}'


class Weather(BaseModel):
    city: str
    rain: bool


async def called(api: Api, **fields: Any) -> tuple[Response, ResponseFunctionToolCall]:
    """Return a response that ends with a call of the weather, and the call."""
    response = await api.client.responses.create(model=MODEL, input="How is Oslo?", tools=[WEATHER], **fields)
    call = response.output[-1]
    assert isinstance(call, ResponseFunctionToolCall)
    return response, call


def result_of(call: ResponseFunctionToolCall) -> Any:
    return {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}


async def test_a_text_is_answered_whole_and_streamed(api: Api) -> None:
    whole = await api.client.responses.create(model=MODEL, input="hello", instructions="Be brief.")
    assert (whole.output_text, whole.status, whole.model) == (TEXT, "completed", MODEL)
    assert whole.usage is not None
    assert whole.usage.output_tokens == len(api.story.token_ids)
    assert whole.usage.input_tokens_details.cached_tokens == 2
    assert api.story.prompts == [[("system", ["Be brief."]), ("user", ["hello"])]]
    events = await api.events(instructions="Be brief.")
    streamed = events[-1]["response"]
    differ = ("id", "created_at", "completed_at", "output")
    assert {key: streamed[key] for key in streamed if key not in differ} == {
        key: value for key, value in whole.model_dump(exclude_unset=True).items() if key not in differ
    }
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert (len(deltas) > 3, "".join(deltas)) == (True, TEXT)


async def test_the_sdk_joins_a_stream(api: Api) -> None:
    async with api.client.responses.stream(model=MODEL, input="How is Oslo?", tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert "response.function_call_arguments.delta" in kinds
    assert final.output_text == "Let me see."
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert (call.name, call.arguments, call.status) == ("weather", '{"city": "Oslo"}', "completed")


async def test_an_answer_is_parsed_as_the_sdk_asks_for_it(api: Api) -> None:
    _, call = await called(api)
    parsed = await api.client.responses.parse(
        model=MODEL,
        input=[{"role": "user", "content": "How is Oslo?"}, call.to_dict(), result_of(call)],
        text_format=Weather,
    )
    assert parsed.output_parsed == Weather(city="Oslo", rain=True)
    asked = [call.structure for call in api.stages.calls("thinker") if call.HasField("structure")]
    assert len(asked) == 1
    assert json.loads(asked[0].json_schema)["required"] == ["city", "rain"]


async def test_a_conversation_goes_on_from_a_response(api: Api) -> None:
    first, call = await called(api, instructions="Be brief.")
    second = await api.client.responses.create(
        model=MODEL, previous_response_id=first.id, input=[result_of(call)], tools=[WEATHER]
    )
    assert (second.output_text, second.previous_response_id) == (ANSWER, first.id)
    third = (await api.events(previous_response_id=second.id, input="And now?"))[-1]["response"]
    # The instructions are the first response's alone.
    assert api.story.prompts[1:] == [
        [("user", ["How is Oslo?"]), ("assistant", ["Let me see."]), ("tool", ["Rain."])],
        [
            *[("user", ["How is Oslo?"]), ("assistant", ["Let me see."]), ("tool", ["Rain."])],
            *[("assistant", [ANSWER]), ("user", ["And now?"])],
        ],
    ]
    (past,) = max((call.messages for call in api.stages.calls("preprocess")), key=len)[1].tool_calls
    assert (past.id, past.name, past.arguments_json) == (call.call_id, "weather", '{"city": "Oslo"}')
    # The last response is enough: it has the whole conversation.
    await api.client.responses.delete(first.id)
    await api.client.responses.delete(second.id)
    await api.client.responses.create(model=MODEL, previous_response_id=third["id"], input="Go on.")
    assert len(api.story.prompts[-1]) == 7


async def test_media_of_the_conversation_goes_with_it(api: Api) -> None:
    def picture(data: bytes) -> Any:
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return {"role": "user", "content": [{"type": "input_image", "image_url": url}]}

    first = await api.client.responses.create(model=MODEL, input=[picture(b"first")])
    await api.client.responses.create(model=MODEL, previous_response_id=first.id, input=[picture(b"second")])
    last: Any = max((call.messages for call in api.stages.calls("preprocess")), key=len)
    indices = [part.image.source.inline_index for message in last for part in message.parts if part.HasField("image")]
    (both,) = [media for worker in api.stages.preprocess for media in worker.media if len(media) == 2]
    assert [both[index] for index in indices] == [b"first", b"second"]


async def test_a_response_is_found_until_it_is_deleted(api: Api) -> None:
    response, call = await called(api)
    assert response.model_dump()["store"] is True
    found = await api.client.responses.retrieve(response.id)
    assert found.to_dict() == response.to_dict()
    checked_response(found.model_dump(exclude_unset=True))
    await api.client.responses.delete(response.id)
    for gone in (api.client.responses.retrieve, api.client.responses.delete, api.client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            await gone(response.id)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        await api.client.responses.create(model=MODEL, previous_response_id=response.id, input=[result_of(call)])
    assert caught.value.param == "previous_response_id"


async def test_input_items_are_listed_in_pages(api: Api) -> None:
    first, call = await called(api)
    items: Any = [
        result_of(call),
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://a.org/x.png"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "developer", "content": "Be brief."},
        {"type": "reasoning", "id": "rs_x", "summary": []},
        {"role": "user", "content": "More?"},
    ]
    response = await api.client.responses.create(model=MODEL, previous_response_id=first.id, input=items)
    listed = api.client.responses.input_items
    every = [item async for item in listed.list(response.id, order="asc", limit=2)]
    assert [item.type for item in every] == [
        *("message", "message", "function_call", "function_call_output", "message", "message", "message"),
        *("reasoning", "message"),
    ]
    assert len({item.id for item in every}) == len(every)
    assert every[2].to_dict() == call.to_dict()
    latest = (await listed.list(response.id)).data
    assert [item.id for item in latest] == [item.id for item in reversed(every)]
    page = await listed.list(response.id, order="asc", after=every[7].id or "")
    assert ([item.id for item in page.data], page.has_more) == ([every[8].id], False)
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_x"}):
        with pytest.raises(openai.BadRequestError) as caught:
            await listed.list(response.id, **wrong)
        assert caught.value.param == next(iter(wrong))


async def test_items_of_a_response_can_be_referred_to(api: Api) -> None:
    """As the AI SDK sends an answer back."""
    response, call = await called(api)
    references = [{"type": "item_reference", "id": item.id} for item in response.output]
    items: Any = [{"role": "user", "content": "How is Oslo?"}, *references, result_of(call)]
    answered = await api.client.responses.create(model=MODEL, input=items, tools=[WEATHER])
    assert answered.output_text == ANSWER
    assert api.story.prompts[-1] == [("user", ["How is Oslo?"]), ("assistant", ["Let me see."]), ("tool", ["Rain."])]
    kept = (await api.client.responses.input_items.list(answered.id, order="asc")).data
    assert [item.id for item in kept[1:3]] == [item.id for item in response.output]
    for unknown in ("msg_1", f"msg_{'0' * 36}", f"{response.output[0].id}"[:-1] + "9"):
        with pytest.raises(openai.NotFoundError) as caught:
            await api.client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": unknown}])
        assert (caught.value.code, caught.value.param) == ("item_not_found", "input[0].id")


async def test_another_tenants_response_is_like_an_unknown_one(api: Api) -> None:
    response, _ = await called(api)

    async def refusals(id: str) -> list[Any]:
        asks: list[Any] = [
            api.other.responses.retrieve(id),
            api.other.responses.delete(id),
            api.other.responses.cancel(id),
            api.other.responses.input_items.list(id),
            api.other.responses.create(model=MODEL, previous_response_id=id, input="x"),
        ]
        bodies: list[Any] = []
        for ask in asks:
            with pytest.raises(openai.NotFoundError) as caught:
                await ask
            bodies.append(json.dumps(caught.value.body).replace(id, "…"))
        return bodies

    assert await refusals(response.id) == await refusals(f"resp_{'0' * 32}")
    with pytest.raises(openai.NotFoundError):
        await api.other.responses.create(model=MODEL, input=[{"type": "item_reference", "id": response.output[0].id}])
    assert (await api.client.responses.retrieve(response.id)).id == response.id


async def test_without_store_nothing_is_kept(api: Api) -> None:
    response = await api.client.responses.create(model=MODEL, input="hello", store=False)
    assert response.model_dump()["store"] is False
    with pytest.raises(openai.NotFoundError):
        await api.client.responses.retrieve(response.id)


async def test_what_is_too_large_is_answered_and_not_kept(store: RedisServer) -> None:
    async with running_api(store.url, kept_response_bytes=4096) as api:
        kept = await api.client.responses.create(model=MODEL, input="x" * 1500)
        assert kept.model_dump()["store"] is True
        for large in ("x" * 5000, "x" * 3500):
            response = await api.client.responses.create(model=MODEL, input=large)
            assert (response.output_text, response.model_dump()["store"]) == (TEXT, False)
    async with running_api(store.url, kept_response_bytes=1024) as api:
        with pytest.raises(openai.APIStatusError) as caught:
            await api.client.responses.create(model=MODEL, input="x", previous_response_id=kept.id)
        error: Any = caught.value
        assert (error.status_code, error.param) == (413, "previous_response_id")


async def test_an_expired_response_is_like_an_unknown_one(store: RedisServer) -> None:
    async with running_api(store.url, kept_responses_s=0.5) as api:
        response = await api.client.responses.create(model=MODEL, input="hello")
        assert response.model_dump()["store"] is True

        async def is_gone() -> bool:
            found = await api.stages.gateway.client.get(f"{RESPONSES}/{response.id}")
            if found.status_code == 200:
                return False
            error = found.json()["error"]
            assert (found.status_code, error["code"]) == (404, "response_not_found")
            return True

        await wait_until(is_gone)


async def test_an_operator_may_keep_nothing(store: RedisServer) -> None:
    async with running_api(store.url, kept_responses_s=0) as api:
        response = await api.client.responses.create(model=MODEL, input="hello")
        assert response.model_dump()["store"] is False
        for ask in (api.client.responses.retrieve, api.client.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(response.id)


async def test_cancel_and_background_are_refused(api: Api) -> None:
    response, _ = await called(api)
    with pytest.raises(openai.BadRequestError, match="background"):
        await api.client.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError, match="'background' is not supported"):
        await api.client.responses.create(model=MODEL, input="hello", background=True)
    with pytest.raises(openai.BadRequestError, match="stream"):
        await api.client.responses.retrieve(response.id, stream=True)
    for path in ("compact", "input_tokens"):
        refused = await api.stages.gateway.client.post(f"{RESPONSES}/{path}", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "url_not_served")


async def test_a_chain_of_thought_alone_is_nothing_to_answer(api: Api) -> None:
    refused = await api.post(input=[{"type": "reasoning", "id": "rs_1", "summary": []}])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    assert "nothing to answer" in refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_early_error_has_a_status_and_the_field_of_the_input(api: Api, stream: bool) -> None:
    api.stages.next_calls("preprocess", Act("raise", 0, BadInput("no sound", param="input[0].content[1]")))
    refused = await api.post(stream=stream)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[0].content[1]")
    api.stages.next_calls("preprocess", Act("raise", 0, BadInput("no", param="messages")))
    refused = await api.post(stream=stream)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    for fields, param in (
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"input": [{"role": "user", "content": "a" * 98_304}]}, "input"),
    ):
        refused = await api.post(stream=stream, **fields)
        assert refused.json()["error"]["param"] == param
        assert refused.status_code in (400, 413)


async def test_a_late_error_ends_the_stream(api: Api) -> None:
    api.stages.next_calls("thinker", Act("raise", 3, BadInput("no", param="messages")))
    events = await api.events()
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "invalid_prompt", "message": "no"}
    assert events[-2]["param"] == "input"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(CALL[:3])
    with pytest.raises(openai.NotFoundError):
        await api.client.responses.retrieve(events[-1]["response"]["id"])


async def test_openais_client_raises_a_late_error(api: Api) -> None:
    api.stages.next_calls("thinker", Act("raise", 3, BadInput("This went wrong.")))
    with pytest.raises(openai.APIError, match="This went wrong"):
        async for _ in await api.client.responses.create(model=MODEL, input="hello", stream=True):
            pass


async def test_a_lost_worker_costs_a_pause(api: Api) -> None:
    api.stages.next_calls("thinker", Act("die", 4))
    response = (await api.events(tools=[WEATHER]))[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["message", "function_call"]


async def test_a_client_that_leaves_ends_its_turn(api: Api) -> None:
    api.stages.next_calls("thinker", Act("hang", 3))
    stream = await api.client.responses.create(model=MODEL, input="hello", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    await wait_until(api.stages.clean)


async def test_log_probabilities_are_asked_for(api: Api) -> None:
    await api.client.responses.create(
        model=MODEL, input="hello", include=["message.output_text.logprobs"], top_logprobs=2
    )
    (call,) = api.stages.calls("thinker")
    assert call.sampling.top_logprobs == 2
