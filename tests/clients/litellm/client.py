"""LiteLLM, which takes the gateway for an `openai/` server: chat, streams, tools, speech, transcription, responses."""

from __future__ import annotations

import base64
import json
import os

# Else it asks the internet for prices first.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from conversations import KEY, MODEL, OSLO, REPORT, URL, WEATHER, hold, raised, sound
from pydantic import BaseModel

litellm.suppress_debug_info = True
TO = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


class Report(BaseModel):
    city: str
    rain: bool


def _asked(text: str) -> list:
    return [{"role": "user", "content": text}]


def chat() -> None:
    answer = litellm.completion(**TO, messages=_asked("say Hello there."))
    assert answer.choices[0].message.content == "Hello there."
    assert answer.usage.completion_tokens == 3
    # With all that LiteLLM adds to a message.
    history = [*_asked("say Hello there."), answer.choices[0].message.model_dump(), *_asked("roles")]
    assert litellm.completion(**TO, messages=history).choices[0].message.content == "user assistant user"


def stream() -> None:
    chunks = list(litellm.completion(**TO, messages=_asked("say Hello there."), stream=True))
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.content == "Hello there."


def tools() -> None:
    messages = _asked(OSLO)
    message = litellm.completion(**TO, messages=messages, tools=[TOOL], tool_choice="auto").choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages += [message, {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "Rain."}]
    answer = litellm.completion(**TO, messages=messages, tools=[TOOL])
    assert answer.choices[0].message.content == "It rains in Oslo."


def structured() -> None:
    answer = litellm.completion(**TO, messages=_asked(REPORT), response_format=Report)
    assert Report.model_validate_json(answer.choices[0].message.content) == Report(city="Oslo", rain=True)


def spoken() -> None:
    heard = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound()).decode(), "format": "wav"}}
    asks = [{"role": "user", "content": [heard, {"type": "text", "text": "say I hear you."}]}]
    answer = litellm.completion(
        **TO, messages=asks, modalities=["text", "audio"], audio={"voice": "ethan", "format": "wav"}
    )
    message = answer.choices[0].message
    assert message.audio.transcript == "I hear you."
    history = [*asks, {"role": "assistant", "audio": {"id": message.audio.id}}, *_asked("read 1")]
    assert litellm.completion(**TO, messages=history).choices[0].message.content == "I hear you."


def audio() -> None:
    speech = litellm.speech(**TO, voice="alloy", input="say Hello.", response_format="wav")
    assert speech.content[:4] == b"RIFF"
    written = litellm.transcription(**TO, file=("a.wav", sound()))
    assert written.text


def responses() -> None:
    first = litellm.responses(**TO, input="say Hello there.")
    assert first.output[-1].content[0].text == "Hello there."


def errors() -> None:
    for kind, wrong in ((litellm.BadRequestError, {"temperature": 9}), (litellm.NotFoundError, {"model": "openai/no"})):
        raised(kind, lambda wrong=wrong: litellm.completion(**{**TO, "messages": _asked("hi"), **wrong}))


hold(globals())
