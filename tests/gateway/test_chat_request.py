"""The body of POST /v1/chat/completions: what is accepted, and the error for anything else."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from services.common.errors import BadInput, Gone, TooLarge, WorkerLost
from services.common.http.errors import error_headers
from services.gateway.http.chat.parse import read_chat
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import messages_from, sampling_from, speech_from
from services.gateway.http.json_body import parse_json
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.conversation import (
    AudioPart,
    FileSource,
    ImagePart,
    InlineSource,
    TextPart,
    UrlSource,
    VideoPart,
)
from services.gateway.turn.intent import Sampling

USER = {"role": "user", "content": "hello"}
PNG = base64.b64encode(b"\x89PNG not really").decode()


def parse(**fields: Any) -> Any:
    return parse_json(json.dumps({"model": "m", "messages": [USER], **fields}).encode(), ChatRequest)


def refusal(body: bytes | dict[str, Any]) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parse_json(body if isinstance(body, bytes) else json.dumps(body).encode(), ChatRequest)
    return caught.value


def refused(**fields: Any) -> BadInput:
    return refusal({"model": "m", "messages": [USER], **fields})


def with_parts(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe\x00", b"null", b"[" * 100_000, b'{"user": "\\ud800"}']
)
def test_anything_but_a_json_object_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
        ({"cache_salt": "x"}, "cache_salt", "unsupported_parameter"),
        ({"media_io_kwargs": {"video": {}}}, "media_io_kwargs", "unsupported_parameter"),
        ({"mm_processor_kwargs": {"size": 1}}, "mm_processor_kwargs.size", "unknown_parameter"),
        ({"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking", "unknown_parameter"),
        ({"temperature": "0.5"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"logit_bias": {"abc": 1}}, "logit_bias.abc", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "invalid_value"),
        ({"modalities": ["text", "video"]}, "modalities[1]", "invalid_value"),
        ({"audio": {"voice": "ethan"}}, "audio", "invalid_value"),
        ({"talker": {"seed": 1}}, "talker", "invalid_value"),
        ({"modalities": ["text", "audio"], "audio": {"format": "ogg"}}, "audio.format", "invalid_value"),
        ({"modalities": ["text", "audio"], "talker": {"top_p": 2}}, "talker.top_p", "invalid_value"),
        ({"modalities": ["text", "audio"], "talker": {"temperature": 10.5}}, "talker.temperature", "invalid_value"),
        ({"modalities": ["text", "audio"], "audio": {"voice": 5}}, "audio.voice", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        (
            {"use_audio_in_video": True, "mm_processor_kwargs": {"use_audio_in_video": False}},
            "mm_processor_kwargs.use_audio_in_video",
            "invalid_value",
        ),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [USER] * 2049}, "messages", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 1024}] * 5},
            "messages",
            "invalid_value",
        ),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 1025}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "tool", "tool_call_id": 1, "content": "x"}]},
            "messages[0].tool_call_id",
            "invalid_type",
        ),
        ({"messages": [USER, {"role": "user", "x": 1}]}, "messages[1].content", "missing_required_parameter"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"reasoning_effort": "high", "enable_thinking": False}, "reasoning_effort", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param.rpartition(".")[2].partition("[")[0] in error.message or "value" in error.message


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"text": "hi"}, "messages[0].content[0].type", "missing_required_parameter"),
        ({"type": "files", "file": {}}, "messages[0].content[0].type", "invalid_value"),
        ({"type": "file"}, "messages[0].content[0].file", "missing_required_parameter"),
        ({"type": "file", "file": {"file_id": 5}}, "messages[0].content[0].file.file_id", "invalid_type"),
        ({"type": "text"}, "messages[0].content[0].text", "missing_required_parameter"),
        ({"type": "image_url"}, "messages[0].content[0].image_url", "missing_required_parameter"),
        ({"type": "image_url", "image_url": {}}, "messages[0].content[0].image_url.url", "missing_required_parameter"),
        ({"type": "image_url", "image_url": {"url": 5}}, "messages[0].content[0].image_url.url", "invalid_type"),
        (
            {"type": "image_url", "image_url": {"url": "x", "detail": "huge"}},
            "messages[0].content[0].image_url.detail",
            "invalid_value",
        ),
        ({"type": "video_url", "video_url": {"url": "x"}, "fps": 0}, "messages[0].content[0].fps", "invalid_value"),
        ({"type": "video", "video": []}, "messages[0].content[0].video", "invalid_value"),
        ({"type": "video", "video": ["x"] * 769}, "messages[0].content[0].video", "invalid_value"),
        ({"type": "image_embeds", "image_embeds": "x"}, "messages[0].content[0].type", "invalid_value"),
        ("hi", "messages[0].content[0]", "invalid_type"),
    ],
)
def test_a_wrong_part_is_named(part: Any, param: str, code: str) -> None:
    error = refusal(with_parts(part))
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": "hi"}, "Invalid type for 'messages': it should be a list."),
        ({"stop": 5}, "Invalid type for 'stop': it should be a string or a list."),
        ({"audio": {"voice": 5}}, "Invalid type for 'audio.voice': it should be a string or an object."),
        ({"audio": "wav"}, "Invalid type for 'audio': it should be an object."),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "Invalid type for 'messages[0].content': it should be a string or a list.",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "Invalid type for 'messages[0].content': it should be a string or a list.",
        ),
    ],
)
def test_a_wrong_type_names_the_right_ones(fields: dict[str, Any], message: str) -> None:
    assert refused(**fields).message == message


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
        "function_call": None,
        "audio": {"id": "audio_1", "data": "AAAA", "transcript": "I said so.", "expires_at": 5},
        "reasoning_content": "hm",
    }
    chat = parse(messages=[USER, answer, USER])
    messages = messages_from(chat, InlineMedia(1000))
    assert [m.role for m in messages] == ["user", "assistant", "user"]
    assert messages[1].parts == [TextPart("messages[1].content", "I said so.")]


def test_a_spoken_answer_without_transcript_and_id_is_refused() -> None:
    chat = parse(messages=[USER, {"role": "assistant", "audio": {"data": "AAAA"}}])
    with pytest.raises(BadInput) as caught:
        messages_from(chat, InlineMedia(1000))
    assert caught.value.param == "messages[1].audio"


def test_each_part_keeps_its_path() -> None:
    data_url = f"data:image/png;base64,{PNG}"
    chat = parse_json(
        json.dumps(
            with_parts(
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": data_url, "detail": "high"}, "max_pixels": 5000},
                {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
                {"type": "input_audio", "input_audio": {"data": "https://example.org/a.mp3", "format": "mp3"}},
                {"type": "audio_url", "audio_url": {"url": "file:///media/a%20b.wav"}},
                {"type": "video_url", "video_url": {"url": "HTTP://example.org/v.mp4"}, "fps": 1, "total_pixels": 9},
                {"type": "video", "video": [data_url, "https://example.org/2.png"], "fps": 4},
            )
        ).encode(),
        ChatRequest,
    )
    inline = InlineMedia(1000)
    (message,) = messages_from(chat, inline)
    path = "messages[0].content[{}]".format
    assert message.parts == [
        TextPart(path(0), "look"),
        ImagePart(path(1), InlineSource(0, "image/png"), max_pixels=5000),
        AudioPart(path(2), InlineSource(1, "wav")),
        AudioPart(path(3), UrlSource("https://example.org/a.mp3", "mp3")),
        AudioPart(path(4), FileSource("/media/a b.wav")),
        VideoPart(path(5), UrlSource("HTTP://example.org/v.mp4"), fps=1, total_pixels=9),
        VideoPart(path(6), [InlineSource(2, "image/png"), UrlSource("https://example.org/2.png")], fps=4),
    ]
    assert [e.param for e in inline.encoded][-1] == "messages[0].content[6].video[0]"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://example.org/a.png", "invalid_value"),
        ("not a url", "invalid_value"),
        ("data:image/png,abc", "invalid_value"),
        ("data:image/png;base64", "invalid_value"),
        ("data:image/png;base64,", "empty_media"),
        ("https://example.org/a b", "invalid_value"),
        ("https://example.org/" + "a" * 9000, "invalid_value"),
        ("file://elsewhere/a.png", "invalid_value"),
        ("file://[a", "invalid_value"),
        ("", "invalid_value"),
    ],
)
def test_an_invalid_url_is_refused_by_name(url: str, code: str) -> None:
    chat = parse_json(json.dumps(with_parts({"type": "image_url", "image_url": {"url": url}})).encode(), ChatRequest)
    with pytest.raises(BadInput) as caught:
        messages_from(chat, InlineMedia(1000))
    assert (caught.value.param, caught.value.code) == ("messages[0].content[0].image_url.url", code)


async def test_a_large_body_does_not_block_the_event_loop() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a" * 600}] * 2}] * 2000
    body = json.dumps({"messages": messages, "metadata": [[]] * 5_000}).encode()
    reading = asyncio.ensure_future(read_chat(body, 1000, 4 * 2**20))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await reading).messages) == 2000
    assert turns > 10


async def test_media_does_not_count_as_text() -> None:
    parts = [{"type": "input_audio", "input_audio": {"data": "\r\n".join(["A" * 76] * 2000)}}]
    body = json.dumps(with_parts(*parts, {"type": "text", "text": "a" * 900})).encode()
    assert (await read_chat(body, 2**20, 20_000)).messages[0].parts[1] == TextPart("messages[0].content[1]", "a" * 900)
    with pytest.raises(TooLarge) as caught:
        await read_chat(body, 2**20, 950)
    assert (caught.value.code, caught.value.param) == ("text_too_large", "messages")


def test_large_media_is_refused_before_decoding() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "A" * 4000, "format": "wav"}}
    with pytest.raises(TooLarge) as caught:
        messages_from(parse_json(json.dumps(with_parts(part)).encode(), ChatRequest), InlineMedia(1000))
    assert (caught.value.status, caught.value.param) == (413, "messages[0].content[0].input_audio.data")


def test_developer_means_system_and_absent_sampling_stays_absent() -> None:
    chat = parse(messages=[{"role": "developer", "content": "be brief"}, USER], top_k=-1, seed=7, stop="x")
    assert messages_from(chat, InlineMedia(10))[0].role == "system"
    sampling = sampling_from(chat)
    assert sampling == Sampling(top_k=0, seed=7, stop=["x"])


def test_the_seed_also_seeds_the_talker() -> None:
    spoken: dict[str, Any] = {"modalities": ["text", "audio"], "seed": 7}
    first, second = speech_from(parse(**spoken)), speech_from(parse(**spoken, talker={"seed": 9, "max_frames": 3}))
    assert first is not None
    assert second is not None
    assert (first.sampling.seed, first.max_frames) == (7, None)
    assert (second.sampling.seed, second.max_frames) == (9, 3)
    assert speech_from(parse(seed=7)) is None


@pytest.mark.parametrize("voice", ["Chelsie", {"id": "Chelsie"}])
def test_a_voice_is_a_name_or_an_id(voice: Any) -> None:
    speech = speech_from(parse(modalities=["text", "audio"], audio={"voice": voice, "format": "pcm16"}))
    assert speech is not None
    assert speech.voice == "Chelsie"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"use_audio_in_video": True}, True),
        ({"mm_processor_kwargs": {"use_audio_in_video": True}}, True),
        ({"use_audio_in_video": False, "mm_processor_kwargs": {"use_audio_in_video": False}}, False),
        ({"use_audio_in_video": [False, True]}, True),
        ({"mm_processor_kwargs": {"use_audio_in_video": [False, False]}}, False),
    ],
)
def test_use_audio_in_video_is_read_from_both_places(fields: dict[str, Any], expected: bool) -> None:
    assert parse(**fields).wants_audio_in_video is expected


@pytest.mark.parametrize("place", ["use_audio_in_video", "mm_processor_kwargs.use_audio_in_video"])
def test_use_audio_in_video_may_have_a_flag_for_each_video(place: str) -> None:
    def flags(*values: bool) -> dict[str, Any]:
        field = {"use_audio_in_video": list(values)}
        return {"mm_processor_kwargs": field} if place.startswith("mm") else field

    video = {"type": "video_url", "video_url": {"url": "https://a/b.mp4"}}
    frames = {"type": "video", "video": ["https://a/1.png", "https://a/2.png"]}
    talk = [{"role": "user", "content": [video, {"type": "text", "text": "and"}, frames]}, USER]
    talk.append({"role": "user", "content": [video]})
    parts = [
        part
        for message in messages_from(parse(messages=talk, **flags(True, False, False)), InlineMedia(1000))
        for part in message.parts
        if isinstance(part, VideoPart)
    ]
    assert [part.use_audio for part in parts] == [True, False, False]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    talk += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "wet"}]
    *_, called, told = messages_from(parse(messages=talk, **flags(True, False, False)), InlineMedia(1000))
    assert ([each.name for each in called.tool_calls], told.tool_call_id) == (["f"], "c")
    del talk[-1]["tool_call_id"]
    told = messages_from(parse(messages=talk, **flags(True, False, False)), InlineMedia(1000))[-1]
    assert (told.role, told.tool_call_id) == ("tool", "")
    with pytest.raises(BadInput) as caught:
        messages_from(parse(messages=talk, **flags(True)), InlineMedia(1000))
    assert caught.value.param == place
    assert "1 flags for 3 videos" in caught.value.message
    assert refused(use_audio_in_video=[True, "maybe"]).param == "use_audio_in_video[1]"
    assert refused(use_audio_in_video="maybe").param == "use_audio_in_video"


def test_headers_say_when_to_retry_or_not_to() -> None:
    lost = WorkerLost("gone", retry_after_s=2.5)
    assert error_headers(lost) == {"retry-after": "3", "retry-after-ms": "2500"}
    assert error_headers(lost, billed=True) == {"x-should-retry": "false"}
    assert error_headers(Gone("gone")) == {"x-should-retry": "false"}
    assert error_headers(BadInput("wrong")) == {}
