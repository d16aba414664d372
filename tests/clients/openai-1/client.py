"""openai-python before its version 2, whole and streamed, over all endpoints that it knows."""

from __future__ import annotations

import base64
import json

import openai
from conversations import KEY, MODEL, OSLO, REPORT, URL, WEATHER, hold, raised, sound
from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=URL, api_key=KEY, max_retries=2)
TOOL = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": WEATHER}}


class Report(BaseModel):
    city: str
    rain: bool


def asked(text: str) -> list:
    return [{"role": "user", "content": text}]


def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=asked("say Hello there."), n=1, seed=3)
    assert answer.choices[0].message.content == "Hello there."
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    history = [*asked("say Hello there."), answer.choices[0].message, *asked("read 1")]
    assert client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content == "Hello there."


def stream() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=asked("say Hello there."), stream_options={"include_usage": True}
    ) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "Hello there."
    assert final.usage.completion_tokens == 3
    # As the helper gives it, `parsed` included.
    history = [*asked("say Hello there."), final.choices[0].message, *asked("roles")]
    again = client.chat.completions.create(model=MODEL, messages=history)
    assert again.choices[0].message.content == "user assistant user"


def tools() -> None:
    messages = asked(OSLO)
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0]
    (call,) = answer.message.tool_calls
    assert (answer.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0]
    assert answer.message.content == "It rains in Oslo."


def structured() -> None:
    answer = client.beta.chat.completions.parse(model=MODEL, messages=asked(REPORT), response_format=Report)
    assert answer.choices[0].message.parsed == Report(city="Oslo", rain=True)
    history = [*asked(REPORT), answer.choices[0].message, *asked("read 1")]
    again = client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content
    assert Report.model_validate_json(again) == Report(city="Oslo", rain=True)


def spoken() -> None:
    heard = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound()).decode(), "format": "wav"}}
    asks = [{"role": "user", "content": [heard, {"type": "text", "text": "say I hear you."}]}]
    speech = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}}
    message = client.chat.completions.create(model=MODEL, messages=asks, **speech).choices[0].message
    assert message.audio.transcript == "I hear you."
    assert base64.b64decode(message.audio.data)[:4] == b"RIFF"
    # As OpenAI documents it: the answer by its id alone.
    history = [*asks, {"role": "assistant", "audio": {"id": message.audio.id}}, *asked("read 1")]
    assert client.chat.completions.create(model=MODEL, messages=history).choices[0].message.content == "I hear you."


def speech() -> None:
    for kind, begin in (("mp3", b"\xff"), ("wav", b"RIFF"), ("flac", b"fLaC")):
        with client.audio.speech.with_streaming_response.create(
            model=MODEL, voice="alloy", input="say Hello.", response_format=kind
        ) as response:
            assert b"".join(response.iter_bytes()).startswith(begin)


def transcription() -> None:
    answer = client.audio.transcriptions.create(model=MODEL, file=("a.wav", sound()), language="en")
    assert answer.text
    events = list(client.audio.transcriptions.create(model=MODEL, file=("a.wav", sound()), stream=True))
    assert (events[-1].type, events[-1].text) == ("transcript.text.done", answer.text)
    assert client.audio.translations.create(model=MODEL, file=("a.wav", sound())).text


def responses() -> None:
    first = client.responses.create(model=MODEL, input="say Hello there.", instructions="Be brief.")
    assert first.output_text == "Hello there."
    second = client.responses.create(model=MODEL, input="roles", previous_response_id=first.id)
    assert second.output_text == "user assistant user"
    with client.responses.stream(model=MODEL, input=REPORT, text_format=Report) as events:
        kinds = {event.type for event in events}
        parsed = events.get_final_response().output_parsed
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds
    assert parsed == Report(city="Oslo", rain=True)
    assert client.responses.retrieve(first.id).id == first.id
    client.responses.delete(first.id)


def models() -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def errors() -> None:
    for kind, wrong in (
        (openai.BadRequestError, {"messages": asked("hi"), "temperature": 9}),
        (openai.NotFoundError, {"messages": asked("hi"), "model": "none"}),
        (openai.BadRequestError, {"messages": []}),
    ):
        error = raised(kind, lambda wrong=wrong: client.chat.completions.create(**{"model": MODEL, **wrong}))
        assert error.body["message"]
        assert error.request_id
    error = raised(openai.AuthenticationError, OpenAI(base_url=URL, api_key="wrong").models.list)
    assert error.code == "invalid_api_key"


def retries() -> None:
    once = client.with_options(max_retries=0).chat.completions
    refused = raised(openai.RateLimitError, lambda: once.create(model=MODEL, messages=asked("busy one\nsay Hi.")))
    assert refused.code == "queue_full"
    answer = client.chat.completions.create(model=MODEL, messages=asked("busy two\nsay Here I am."))
    assert answer.choices[0].message.content == "Here I am."


hold(globals())
