"""Fields that clients send and that ask for nothing here, at the top, in messages and in parts."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from openai.types.audio.speech_create_params import SpeechCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from openai.types.shared.reasoning_effort import ReasoningEffort

from services.gateway.http.chat.neutral import ENGINE_FIELDS, FIELDS, NEUTRAL
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import messages_from, sampling_from
from services.gateway.http.responses import neutral as responses
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.speech.schema import SpeechRequest
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.conversation import AudioPart, ImagePart, TextPart, UrlSource, VideoPart
from tests.gateway.test_chat_request import PNG, parse, refused

# As clients send them: openai-python, LangChain, LiteLLM; load tools of vLLM; DashScope's own samples.
NEUTRAL_BODIES: list[dict[str, Any]] = [
    {
        "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k", "n": 1, "logprobs": False, "top_logprobs": None, "tools": [],
        "tool_choice": "auto", "response_format": {"type": "text"}, "temperature": None, "audio": None,
        "function_call": "none", "functions": [], "verbosity": "medium", "web_search_options": None,
    },
    {"tools": None, "tool_choice": "none", "parallel_tool_calls": None, "service_tier": "default", "metadata": None},
    {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text"]},
    {"audio": {"voice": None, "format": None}, "modalities": ["text", "audio"]},
    {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"stream_options": {"include_usage": False}},
    {"stream_options": None},
    {
        "best_of": 1, "use_beam_search": False, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "length_penalty": 1.0, "stop_token_ids": [], "include_stop_str_in_output": False, "ignore_eos": False,
        "min_tokens": 0, "skip_special_tokens": True, "spaces_between_special_tokens": True, "echo": False,
        "truncate_prompt_tokens": None, "prompt_logprobs": None, "allowed_token_ids": None, "bad_words": [],
        "add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False,
        "documents": None, "chat_template": None, "chat_template_kwargs": {}, "mm_processor_kwargs": None,
        "structured_outputs": None, "priority": 0, "request_id": "cmpl-1", "return_tokens_as_token_ids": None,
        "cache_salt": None, "kv_transfer_params": None, "vllm_xargs": None, "include_reasoning": True,
    },
    {
        "ec_transfer_params": None, "logprob_token_ids": None, "mm_payload": "tensors", "repetition_detection": None,
        "return_mm_kwargs": None, "return_prompt_text": False, "return_token_offsets": False, "session_id": "s",
        "routed_experts_prompt_start": 0, "stream_interval": None, "truncation_side": None, "watermarking": None,
        "guided_json": None, "guided_regex": None, "guided_choice": None, "guided_grammar": None,
    },
    {"length_penalty": 1, "top_p": 0, "temperature": 0, "seed": None, "stop": None, "logit_bias": {}},
    {"enable_search": False, "vl_high_resolution_images": False, "thinking_budget": None, "result_format": "message"},
]  # fmt: skip


@pytest.mark.parametrize("fields", NEUTRAL_BODIES)
def test_known_fields_that_ask_for_nothing_are_accepted(fields: dict[str, Any]) -> None:
    parse(**fields)


@pytest.mark.parametrize("name", sorted(NEUTRAL.keys() | ENGINE_FIELDS.keys()))
def test_a_known_field_passes_at_its_neutral_values_alone(name: str) -> None:
    for value in (None, *{**NEUTRAL, **ENGINE_FIELDS}[name]):
        parse(**{name: value})
    error = refused(**{name: "something else"})
    assert (error.status, error.param, error.code) == (400, name, "unsupported_parameter")


def test_a_refusal_says_what_would_be_accepted() -> None:
    assert refused(best_of=2).message.endswith("Leave it out, or send 1.")
    assert refused(function_call="f").message.endswith('Leave it out, or send "none" or "auto".')


def test_a_field_with_a_new_name_is_refused_with_that_name() -> None:
    told = refused(guided_json={"type": "object"}).message
    assert told.endswith("Send 'structured_outputs.json' in its place.")


def test_each_field_of_openais_client_is_known() -> None:
    known = ChatRequest.model_fields.keys() | FIELDS
    assert CompletionCreateParamsBase.__annotations__.keys() <= known
    of_responses = ResponseRequest.model_fields.keys() | responses.NEUTRAL.keys() | responses.IGNORED
    assert ResponseCreateParamsBase.__annotations__.keys() <= of_responses
    assert SpeechCreateParams.__annotations__.keys() <= SpeechRequest.model_fields.keys()


@pytest.mark.parametrize("effort", get_args(get_args(ReasoningEffort)[0]))
def test_each_effort_of_openais_client_is_known(effort: str) -> None:
    assert parse(reasoning_effort=effort).thinking == {"reasoning_effort": effort != "none"}


def test_messages_and_parts_may_have_fields_of_their_clients() -> None:
    parts = [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}, "annotations": []},
        {"type": "image_url", "image_url": {"url": "https://e.org/1.png", "format": "png"}, "uuid": "u1"},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav", "id": None}, "uuid": None},
        {"type": "video_url", "video_url": {"url": "https://e.org/v.mp4", "fps": 3, "max_pixels": 9}, "id": "x"},
    ]
    chat = parse(
        messages=[{"role": "system", "content": "s", "id": 1}, {"role": "user", "content": parts, "name": "u"}]
    )
    message = messages_from(chat, InlineMedia(1000))[1]
    assert [type(part) for part in message.parts] == [TextPart, ImagePart, AudioPart, VideoPart]
    assert message.parts[3] == VideoPart(
        "messages[1].content[3]", UrlSource("https://e.org/v.mp4"), fps=3, max_pixels=9
    )


def test_the_nearest_fps_of_a_video_counts() -> None:
    beside = {"type": "video_url", "video_url": {"url": "https://e.org/v.mp4", "fps": 3}, "fps": 4}
    inside = {"type": "video_url", "video_url": {"url": "https://e.org/v.mp4", "fps": 3}}
    neither = {"type": "video", "video": ["https://e.org/1.png"]}
    user = {"role": "user", "content": [beside, inside, neither]}
    chat = parse(messages=[user], mm_processor_kwargs={"fps": 2.0})
    (message,) = messages_from(chat, InlineMedia(1000))
    assert [part.fps for part in message.parts if isinstance(part, VideoPart)] == [4, 3, 2]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"chat_template_kwargs": {}, "reasoning_effort": None, "enable_thinking": None}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs.enable_thinking": False}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": False}),
        ({"reasoning_effort": "low", "enable_thinking": True}, {"enable_thinking": True, "reasoning_effort": True}),
    ],
)
def test_thinking_is_read_from_each_field_that_asks_for_it(fields: dict[str, Any], expected: dict[str, bool]) -> None:
    assert parse(**fields).thinking == expected


def test_top_p_of_zero_leaves_the_most_probable_token() -> None:
    assert 0 < (sampling_from(parse(top_p=0)).top_p or 0) < 1e-5
