"""Asks one question through the gateway: over HTTP with OpenAI's client, or over Converse."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import grpc.aio
import openai

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, talker_pb2, thinker_pb2
from bench.chaos.answer import ReceivedAnswer
from bench.chaos.questions import Question
from services.common.channels import open_channel
from services.common.grpc_errors import TRAILER
from tests.parity.ask import requests_of
from tests.parity.cases import Case
from tests.parity.media import Film, Medium, Picture, Sound

# Longer than any restart: what a client loses is then the server's doing.
TIMEOUT_S = 600.0


class TurnedAway(Exception):
    """Refused before anything was generated, and told to come again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class BrokenOffError(Exception):
    """A Converse call that ended with an error after its first event."""


class Asker:
    """One client of the gateway, for many questions at a time. Close it."""

    def __init__(self, url: str, grpc_address: str, model: str) -> None:
        self._http = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S)
        self._channel = open_channel(grpc_address)
        self._gateway = gateway_pb2_grpc.GatewayStub(self._channel)
        self._model = model
        self._requests: dict[Case, list[gateway_pb2.ConverseRequest]] = {}

    async def close(self) -> None:
        await self._http.close()
        await self._channel.close()

    async def ask(self, question: Question, trace_id: str) -> ReceivedAnswer:
        """Return the answer. Its spans belong to the trace `trace_id` (32 hex digits).

        Raise TurnedAway, BrokenOffError, and the clients' own openai.OpenAIError and grpc.RpcError.
        """
        traceparent = f"00-{trace_id}-{trace_id[:16]}-01"
        try:
            if question.over == "grpc":
                return await self._converse(question.case, traceparent)
            return await self._complete(question, traceparent)
        except (openai.APIStatusError, grpc.aio.AioRpcError) as error:
            if retry_after_s := _retry_after_s(error):
                raise TurnedAway(retry_after_s) from None
            raise

    async def _complete(self, question: Question, traceparent: str) -> ReceivedAnswer:
        asked: dict[str, Any] = {
            **chat_request(self._model, question.case),
            "extra_headers": {"traceparent": traceparent},
        }
        asked["extra_body"] = {**asked["extra_body"], "ignore_eos": question.ignore_eos}
        if question.streamed:
            return await self._stream(asked)
        completion: Any = await self._http.chat.completions.create(**asked)
        return whole_answer(completion.model_dump())

    async def _stream(self, asked: dict[str, Any]) -> ReceivedAnswer:
        answer = ReceivedAnswer()
        stream: Any = await self._http.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            if chunk.usage:
                answer.usage = _usage(chunk.usage.model_dump())
            for choice in chunk.model_dump()["choices"]:
                delta = choice["delta"]
                audio = delta.get("audio") or {}
                answer.add_text(
                    choice.get("token_ids") or [], (delta.get("content") or "") + (audio.get("transcript") or "")
                )
                answer.add_speech(audio.get("codes") or [], base64.b64decode(audio.get("data") or ""))
                answer.finish_reason = choice["finish_reason"] or answer.finish_reason
        return answer

    async def _converse(self, case: Case, traceparent: str) -> ReceivedAnswer:
        if case not in self._requests:  # encoding its media takes long
            self._requests[case] = [request async for request in requests_of(self._model, case)]
        requests = iter(self._requests[case])
        call = self._gateway.Converse(requests, metadata=(("traceparent", traceparent),), timeout=TIMEOUT_S)
        answer, came = ReceivedAnswer(), False
        try:
            async for response in call:
                came = True
                _add(answer, response)
        except grpc.aio.AioRpcError as error:
            if came:
                raise BrokenOffError(error.details()) from None
            raise
        return answer


def _add(answer: ReceivedAnswer, response: gateway_pb2.ConverseResponse) -> None:
    match response.WhichOneof("event"):
        case "text":
            answer.add_text(list(response.text.token_ids), response.text.content_delta)
        case "speech":
            answer.add_speech(list(response.speech.codes), response.speech.pcm)
        case "done":
            done, used = response.done, response.done.usage
            ends = (thinker_pb2.FinishReason.Name(done.finish_reason), talker_pb2.SpeechEnd.Name(done.speech_end))
            answer.finish_reason = " ".join(ends)
            prompt = (used.prompt.text_tokens, used.prompt.image_tokens, used.prompt.audio_tokens)
            made = (used.completion_text_tokens, used.completion_audio_tokens)
            answer.usage = (*prompt, used.prompt.video_tokens, *made)
        case _:
            pass


def _retry_after_s(error: openai.APIStatusError | grpc.aio.AioRpcError) -> float:
    """Return 0 for an error that is no refusal: it came after tokens, or does not say when to come again."""
    if isinstance(error, openai.APIStatusError):
        return float(error.response.headers.get("retry-after", 0))
    for key, value in error.trailing_metadata() or ():
        if key == TRAILER and isinstance(value, bytes):
            return common_pb2.ErrorDetail.FromString(value).retry_after_ms / 1000
    return 0.0


def whole_answer(completion: dict[str, Any]) -> ReceivedAnswer:
    """Read a completion that came as one object."""
    (choice,) = completion["choices"]
    message = choice["message"]
    audio = message.get("audio") or {}
    return ReceivedAnswer(
        token_ids=choice.get("token_ids") or [],
        text=(message.get("content") or "") + (audio.get("transcript") or ""),
        codes=audio.get("codes") or [],
        pcm=base64.b64decode(audio.get("data") or ""),
        finish_reason=choice["finish_reason"] or "",
        usage=_usage(completion["usage"]),
    )


def _usage(usage: dict[str, Any]) -> tuple[int, int, int]:
    frames = (usage.get("completion_tokens_details") or {}).get("audio_tokens") or 0
    return usage["prompt_tokens"], usage["completion_tokens"], frames


@cache
def chat_request(model: str, case: Case) -> dict[str, Any]:
    """Return the arguments of OpenAI's client."""
    ours: dict[str, Any] = {"return_token_ids": True, "use_audio_in_video": case.use_audio_in_video}
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn.role, "content": [_part(part) for part in turn.parts]} for turn in case.turns],
        "max_tokens": case.max_tokens,
        "temperature": case.temperature,
        "top_p": case.top_p,
        "seed": case.seed,
    }
    if case.top_k:
        ours["top_k"] = case.top_k
    if case.voice:
        asked |= {"modalities": ["text", "audio"], "audio": {"voice": case.voice.lower(), "format": "pcm16"}}
        ours["talker"] = {
            "do_sample": case.talker_sampled,
            "seed": case.talker_seed,
            "max_frames": case.max_frames,
        }
    return asked | {"extra_body": ours}


def _part(part: str | Medium) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(part.file).decode()
    match part:
        case Sound():
            return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        case Picture():
            return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        case Film():
            url = f"data:video/x-matroska;base64,{data}"
            return {"type": "video_url", "video_url": {"url": url}, "fps": part.fps}
