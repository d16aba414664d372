"""Clients of the gateways: each asks for one turn and counts what it receives."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import grpc.aio
import httpx

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2, talker_pb2, thinker_pb2
from bench.metering.plan import STORY, Plan
from bench.metering.processes import ServiceProcess
from bench.metering.realtime import ask_in_session
from bench.metering.received import Received
from services.common.channels import open_channel
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.stages import CHAT, HEARD, HELLO, SPEECH
from tests.gateway.scripted.story import CODEBOOKS, SAMPLES_PER_FRAME

_TIMEOUT_S = 120.0
_REFUSED = (429, 503)
_REFUSED_RPC = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class NotAskedError(Exception):
    """The gateway did not take the connection."""


async def ask(plan: Plan, gateway: ServiceProcess, key: str) -> Received:
    """Ask for the turn, and end as the plan says. Raise NotAskedError where no gateway was there."""
    received = Received(plan, gateway.name, gateway.deaths, began_s=time.monotonic())
    try:
        if plan.way == "converse":
            await _converse(plan, gateway, key, received)
        elif plan.way == "realtime":
            await ask_in_session(plan, gateway.ports["http"], key, received)
        else:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{gateway.ports['http']}",
                headers={"authorization": f"Bearer {key}"},
                timeout=_TIMEOUT_S,
            ) as client:
                await {"stream": _stream, "whole": _whole, "speech": _speech}[plan.way](plan, client, received)
    except (httpx.ConnectError, OSError) as error:
        raise NotAskedError from error
    except httpx.TransportError as error:
        received.error = type(error).__name__
    received.turn_id = received.turn_id or plan.turn_id
    received.ended_s = time.monotonic()
    received.met_death = gateway.deaths > received.deaths
    return received


def _body(plan: Plan) -> dict[str, Any]:
    body: dict[str, Any] = {"model": INSTRUCT.name, "messages": HEARD if plan.hears else HELLO, "seed": plan.number}
    if plan.speaks:
        body |= SPEECH | {"talker": {"seed": plan.number}}
    return body


def _has_all(received: Received) -> bool:
    """Whether all came that the stages send before the client is to cancel."""
    plan = received.plan
    text_tokens, frames = (len(STORY.token_ids), plan.after) if plan.speaks else (plan.after, 0)
    return plan.end == "cancel" and (received.text_tokens, received.frames) == (text_tokens, frames)


async def _stream(plan: Plan, client: httpx.AsyncClient, received: Received) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    async with client.stream("POST", CHAT, json=_body(plan) | options) as response:
        received.turn_id = response.headers.get("x-request-id", "")
        if response.status_code != 200:
            return _note_error(received, response.status_code, await response.aread())
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                received.ended = "ok"
            elif line.startswith("data: "):
                _note_chunk(received, json.loads(line.removeprefix("data: ")))
            if _has_all(received):
                received.ended = "cancelled"
                return


def _note_chunk(received: Received, chunk: dict[str, Any]) -> None:
    if error := chunk.get("error"):
        received.ended, received.error = "failed", error["code"]
    received.limit = chunk.get("antiphon_limit", received.limit)
    if usage := chunk.get("usage"):
        received.prompt_tokens = usage["prompt_tokens"]
    for choice in chunk.get("choices", ()):
        received.text_tokens += len(choice.get("token_ids", ()))
        received.frames += len(choice["delta"].get("audio", {}).get("codes", ())) // CODEBOOKS


def _note_error(received: Received, status: int, body: bytes) -> None:
    received.ended = "refused" if status in _REFUSED else "failed"
    received.error = json.loads(body)["error"]["code"]


async def _whole(plan: Plan, client: httpx.AsyncClient, received: Received) -> None:
    asking = asyncio.create_task(client.post(CHAT, json=_body(plan)))
    if plan.end == "cancel":
        acted = asyncio.create_task(plan.has_acted.wait())
        await asyncio.wait((asking, acted), return_when=asyncio.FIRST_COMPLETED)
        acted.cancel()
        if not asking.done():
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            received.ended = "cancelled"
            return
    response = await asking
    received.turn_id = response.headers["x-request-id"]
    if response.status_code != 200:
        return _note_error(received, response.status_code, response.content)
    answer = response.json()
    usage = answer["usage"]
    received.ended, received.limit = "ok", answer.get("antiphon_limit", "")
    received.prompt_tokens = usage["prompt_tokens"]
    received.frames = usage["completion_tokens_details"]["audio_tokens"]
    received.text_tokens = usage["completion_tokens"] - received.frames


async def _speech(plan: Plan, client: httpx.AsyncClient, received: Received) -> None:
    body = {"model": INSTRUCT.name, "input": "Say this.", "voice": "ethan", "response_format": "pcm"}
    samples = 0
    async with client.stream("POST", "/v1/audio/speech", json=body) as response:
        received.turn_id = response.headers.get("x-request-id", "")
        if response.status_code != 200:
            return _note_error(received, response.status_code, await response.aread())
        try:
            async for data in response.aiter_bytes():
                samples += len(data) // 2
            received.ended = "ok"
        finally:  # the first frame gives a sample less
            received.frames = (samples + 1) // SAMPLES_PER_FRAME


async def _converse(plan: Plan, gateway: ServiceProcess, key: str, received: Received) -> None:
    sound = preprocess_pb2.Part(audio=preprocess_pb2.AudioPart(source=preprocess_pb2.MediaSource(inline_index=0)))
    part = sound if plan.hears else preprocess_pb2.Part(text="hello")
    modalities = [common_pb2.MODALITY_TEXT, *([common_pb2.MODALITY_AUDIO] if plan.speaks else [])]
    start = gateway_pb2.ConverseStart(
        model=INSTRUCT.name,
        messages=[preprocess_pb2.Message(role="user", parts=[part])],
        inline_count=int(plan.hears),
        output_modalities=modalities,
        sampling=thinker_pb2.ThinkerSampling(seed=plan.number),
        talker=talker_pb2.TalkerSampling(seed=plan.number) if plan.speaks else None,
    )
    requests = [gateway_pb2.ConverseRequest(start=start)]
    if plan.hears:
        requests.append(gateway_pb2.ConverseRequest(chunk=preprocess_pb2.InlineChunk(inline_index=0, data=b"sound")))
    async with open_channel(f"127.0.0.1:{gateway.ports['grpc']}") as channel:
        metadata = (("authorization", f"Bearer {key}"),)
        call = gateway_pb2_grpc.GatewayStub(channel).Converse(iter(requests), metadata=metadata, timeout=_TIMEOUT_S)
        try:
            async for event in call:
                received.turn_id = event.started.request_id or received.turn_id
                received.text_tokens += len(event.text.token_ids)
                received.frames += len(event.speech.codes) // CODEBOOKS
                if event.HasField("done"):
                    received.ended, received.limit = "ok", event.done.limit
                if _has_all(received):
                    call.cancel()
                    received.ended = "cancelled"
                    return
        except grpc.aio.AioRpcError as error:
            has_begun = bool(received.text_tokens or received.frames)
            if gateway.deaths > received.deaths or gateway.has_ended:
                received.ended = "broken"
            elif error.code() in _REFUSED_RPC and not has_begun:
                received.ended = "refused"
            else:
                received.ended = "failed"
            received.error = f"{error.code().name}: {error.details()}"
