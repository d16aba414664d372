"""A turn's events as completion chunks and as one completion."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.lib.streaming._deltas import accumulate_delta

from services.gateway.audio.encoders import WavEncoder
from services.gateway.http.chat.base64_chunks import PCM_GROUP_BYTES, Base64Chunker
from services.gateway.http.chat.completion import CompletionChunks, CompletionForm
from services.gateway.http.chat.usage import usage_object
from services.gateway.http.chat.whole_completion import WholeChoice, whole_completion
from services.gateway.kept.until import KeptUntil
from services.gateway.turn.events import (
    FinishReason,
    Logprob,
    Speech,
    SpeechEnd,
    SpeechStarted,
    Text,
    TokenLogprobs,
    TurnDone,
    TurnEvent,
    TurnStarted,
    Usage,
)
from services.gateway.turn.prompt import PromptUsage

PCM = bytes(range(250)) * 7  # 1750 bytes: not a multiple of six


def wav_file(pcm: bytes, sample_rate: int) -> bytes:
    encoder = WavEncoder(sample_rate)
    assert encoder.add(pcm) == b""
    return encoder.finish()


def form(**changes: Any) -> CompletionForm:
    fields: dict[str, Any] = {
        "id": "chatcmpl-1",
        "created_unix_s": 1000,
        "model": "m",
        "speech": True,
        "audio_format": "wav",
        "token_ids": False,
        "usage_chunk": False,
    }
    return CompletionForm(**{**fields, **changes})


def story(*, speech: bool = True, cut: bool = False, speech_cut: bool = False) -> list[TurnEvent]:
    events: list[TurnEvent] = [
        TurnStarted(request_id="req_1", prompt_token_ids=[1, 2, 3]),
        Text([10], content_delta="He"),
        Text([11]),
        Text([12, 13], content_delta="llo", is_last=True),
    ]
    if speech:
        events[2:2] = [SpeechStarted(sample_rate=24000, samples_per_frame=1920, codebooks=2, seed=1)]
        events += [
            Speech(0, [1, 2], 0, PCM[:1000]),
            Speech(1, [3, 4, 5, 6], 500, PCM[1000:]),
        ]
    usage = Usage(prompt=PromptUsage(text_tokens=3), completion_text_tokens=4, completion_audio_tokens=3)
    speech_end = SpeechEnd.LENGTH if speech_cut else SpeechEnd.STOP
    events.append(TurnDone(FinishReason.LENGTH if cut else FinishReason.STOP, usage, speech_end if speech else None))
    return events


def chunks(the_form: CompletionForm, events: Sequence[TurnEvent]) -> list[dict[str, Any]]:
    stream = CompletionChunks(the_form, lambda: KeptUntil(2000.5))
    encoded = b"".join(map(stream.encoded, events)).decode()
    return [json.loads(line.removeprefix("data: ")) for line in encoded.splitlines() if line]


def joined(all_chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Join chunks as openai-python does."""
    message: dict[str, Any] = {}
    for chunk in all_chunks:
        for choice in chunk["choices"]:
            message = accumulate_delta(message, json.loads(json.dumps(choice["delta"])))  # type: ignore[assignment]
    return message


@given(st.binary(max_size=400), st.lists(st.integers(0, 60), max_size=12))
def test_base64_chunks_decode_apart_and_joined(pcm: bytes, cuts: list[int]) -> None:
    chunker, chunks, at = Base64Chunker(PCM_GROUP_BYTES), [], 0
    for length in cuts:
        chunks.append(chunker.add(pcm[at : at + length]))
        at += length
    chunks.append(chunker.add(pcm[at:]))
    assert all(len(base64.b64decode(chunk)) % 6 == 0 and b"=" not in chunk for chunk in chunks)
    last = chunker.finish()
    assert base64.b64decode(b"".join([*chunks, last]), validate=True) == pcm
    assert b"".join(base64.b64decode(chunk) for chunk in [*chunks, last]) == pcm


def reference(the_form: CompletionForm, events: Sequence[Text | Speech]) -> bytes:
    """Encode text and speech as json.dumps does."""
    chunker, encoded = Base64Chunker(PCM_GROUP_BYTES), b""
    for event in events:
        audio: dict[str, Any] = {}
        delta: dict[str, Any] = {}
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        if isinstance(event, Text):
            if event.reasoning_delta:
                delta["reasoning_content"] = event.reasoning_delta
            if event.content_delta and the_form.speech:
                delta["audio"] = {"transcript": event.content_delta}
            elif event.content_delta:
                delta["content"] = event.content_delta
            if the_form.token_ids:
                choice["token_ids"] = list(event.token_ids)
            elif not delta:
                continue
        else:
            if data := chunker.add(event.pcm):
                audio["data"] = data.decode()
            if the_form.token_ids and event.codes:
                audio["codes"] = list(event.codes)
            if not audio:
                continue
            delta["audio"] = audio
        chunk: dict[str, Any] = {
            "id": the_form.id,
            "object": "chat.completion.chunk",
            "created": the_form.created_unix_s,
            "model": the_form.model,
            "choices": [choice],
        }
        if the_form.usage_chunk:
            chunk["usage"] = None
        encoded += b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    return encoded


NUMBERS = st.lists(st.integers(0, 2**32 - 1), max_size=4)
TEXTS = st.text(max_size=8)  # without lone surrogates, as protobuf
FORMS = st.builds(form, model=TEXTS, speech=st.booleans(), token_ids=st.booleans(), usage_chunk=st.booleans(), id=TEXTS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    FORMS,
    st.lists(
        st.builds(Text, NUMBERS, TEXTS, TEXTS)
        | st.builds(Speech, st.just(0), NUMBERS, st.just(0), st.binary(max_size=20))
    ),
)
def test_chunks_are_what_a_json_encoder_writes(the_form: CompletionForm, events: list[Text | Speech]) -> None:
    stream = CompletionChunks(the_form, lambda: KeptUntil(2000.5))
    stream.encoded(SpeechStarted(sample_rate=24000, samples_per_frame=1920, codebooks=2, seed=1))
    assert b"".join(map(stream.encoded, events)) == reference(the_form, events)


def test_a_wav_file_holds_its_samples() -> None:
    with wave.open(io.BytesIO(wav_file(PCM, 24000))) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 24000)
        assert wav.readframes(wav.getnframes()) == PCM


def test_streamed_text_joins_to_the_answer() -> None:
    all_chunks = chunks(form(speech=False), story(speech=False))
    assert all_chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert joined(all_chunks) == {"role": "assistant", "content": "Hello"}
    assert [c["choices"][0]["finish_reason"] for c in all_chunks][-1] == "stop"
    assert all_chunks[-1]["choices"][0]["delta"] == {}
    assert {c["object"] for c in all_chunks} == {"chat.completion.chunk"}
    assert all("usage" not in c for c in all_chunks)


@pytest.mark.parametrize("audio_format", ["wav", "pcm16"])
def test_streamed_speech_joins_to_headerless_samples(audio_format: str) -> None:
    all_chunks = chunks(form(audio_format=audio_format), story())
    message = joined(all_chunks)
    assert message["content"] == ""
    audio = message["audio"]
    assert (audio["id"], audio["transcript"], audio["expires_at"]) == ("audio_1", "Hello", 2000)
    assert base64.b64decode(audio["data"], validate=True) == PCM
    assert set(audio) == {"id", "transcript", "expires_at", "data"}


def test_fields_that_clients_concatenate_come_once() -> None:
    deltas = [c["choices"][0]["delta"] for c in chunks(form(token_ids=True), story()) if c["choices"]]
    assert sum("role" in d for d in deltas) == 1
    for key in ("id", "expires_at", "codebooks"):
        assert sum(key in d.get("audio", {}) for d in deltas) == 1


def test_usage_comes_last_and_is_null_before() -> None:
    all_chunks = chunks(form(usage_chunk=True), story())
    assert all(c["usage"] is None for c in all_chunks[:-1])
    assert all_chunks[-1]["choices"] == []
    assert all_chunks[-1]["usage"]["total_tokens"] == 10


def test_reasoning_streams_apart_from_content() -> None:
    events: list[TurnEvent] = [
        TurnStarted("req_1", ()),
        Text([1], reasoning_delta="Hm."),
        Text([2], content_delta="Yes.", is_last=True),
        TurnDone(FinishReason.STOP),
    ]
    assert joined(chunks(form(speech=False), events)) == {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_content": "Hm.",
    }
    whole_form = form(speech=False)
    whole = WholeChoice(whole_form, lambda: KeptUntil(0))
    for event in events:
        whole.add(event)
    message = whole_completion(whole_form, [whole], 24000)["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Hm.")


def test_streamed_token_ids_and_codes_equal_the_whole_answers() -> None:
    all_chunks = chunks(form(token_ids=True), story())
    whole_form = form(token_ids=True)
    whole = WholeChoice(whole_form, lambda: KeptUntil(0))
    for event in story():
        whole.add(event)
    completion = whole_completion(whole_form, [whole], 24000)
    assert all_chunks[0]["prompt_token_ids"] == completion["prompt_token_ids"] == [1, 2, 3]
    streamed = [i for c in all_chunks for choice in c["choices"] for i in choice.get("token_ids", [])]
    assert streamed == completion["choices"][0]["token_ids"] == [10, 11, 12, 13]
    audio, streamed_audio = completion["choices"][0]["message"]["audio"], joined(all_chunks)["audio"]
    assert audio["codes"] == streamed_audio["codes"] == [1, 2, 3, 4, 5, 6]
    assert audio["codebooks"] == streamed_audio["codebooks"] == 2


@pytest.mark.parametrize("audio_format", ["wav", "pcm16"])
def test_a_whole_spoken_answer_has_openais_four_fields(audio_format: str) -> None:
    whole_form = form(audio_format=audio_format)
    whole = WholeChoice(whole_form, lambda: KeptUntil(2000.5))
    for event in story():
        whole.add(event)
    completion = whole_completion(whole_form, [whole], 24000)
    message = completion["choices"][0]["message"]
    assert message["content"] is None
    audio = message["audio"]
    assert set(audio) == {"id", "data", "transcript", "expires_at"}
    assert base64.b64decode(audio["data"]) == (wav_file(PCM, 24000) if audio_format == "wav" else PCM)
    assert completion["object"] == "chat.completion"


def test_an_answer_with_nothing_to_speak_still_has_its_audio() -> None:
    whole_form = form()
    whole = WholeChoice(whole_form, lambda: KeptUntil(0))
    events = [e for e in story() if not isinstance(e, SpeechStarted | Speech)]
    for event in events:
        whole.add(event)
    audio = whole_completion(whole_form, [whole], 24000)["choices"][0]["message"]["audio"]
    with wave.open(io.BytesIO(base64.b64decode(audio["data"]))) as wav:
        assert (wav.getnframes(), wav.getframerate()) == (0, 24000)
    assert "data" not in joined(chunks(form(), events))["audio"]


@pytest.mark.parametrize(
    ("cut", "speech_cut", "expected"),
    [(False, False, "stop"), (True, False, "length"), (False, True, "length")],
)
def test_an_answer_cut_by_a_limit_finishes_with_length(cut: bool, speech_cut: bool, expected: str) -> None:
    reasons = [c["choices"][0]["finish_reason"] for c in chunks(form(), story(cut=cut, speech_cut=speech_cut))]
    assert reasons[-1] == expected
    assert not any(reasons[:-1])


def test_usage_adds_up() -> None:
    usage = usage_object(
        Usage(
            prompt=PromptUsage(text_tokens=1, image_tokens=2, audio_tokens=3, video_tokens=4),
            cached_tokens=5,
            completion_text_tokens=6,
            completion_audio_tokens=7,
            reasoning_tokens=2,
        )
    )
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 13, 23)
    assert usage["prompt_tokens_details"] == {
        "text_tokens": 1,
        "image_tokens": 2,
        "audio_tokens": 3,
        "video_tokens": 4,
        "cached_tokens": 5,
    }
    assert usage["completion_tokens_details"] == {"text_tokens": 6, "audio_tokens": 7, "reasoning_tokens": 2}


def test_log_probabilities_are_beside_each_token() -> None:
    likely, other = Logprob(10, -0.5, b"He"), Logprob(11, -1.5, b"\xc3")
    events: list[TurnEvent] = [
        Text([10], "He", logprobs=[TokenLogprobs(likely, [likely, other])]),
        Text([11], "", logprobs=[TokenLogprobs(other)], is_last=True),
        TurnDone(FinishReason.STOP, stopped_by="x"),
    ]
    the_form = form(speech=False, logprobs=True)
    he = {"token": "He", "logprob": -0.5, "bytes": [72, 101]}
    half = {"token": "\ufffd", "logprob": -1.5, "bytes": [195]}
    expected = [{**he, "top_logprobs": [he, half]}, {**half, "top_logprobs": []}]
    streamed = [choice["logprobs"] for chunk in chunks(the_form, events) for choice in chunk["choices"]]
    assert [one for logprobs in streamed if logprobs for one in logprobs["content"]] == expected
    whole = WholeChoice(the_form, lambda: KeptUntil(0))
    for event in events:
        whole.add(event)
    (choice,) = whole_completion(the_form, [whole], 24000)["choices"]
    assert (choice["logprobs"]["content"], choice["stop_reason"]) == (expected, "x")
