"""POST /v1/chat/completions, and other forms of it: wire.py says what they differ in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Receive, Scope, Send

from services.common.errors import AntiphonError, BadInput
from services.common.http.respond import send_error, send_json
from services.gateway.audio.encoding import Encoding, encoder_bytes
from services.gateway.http.chat.completion import CompletionForm
from services.gateway.http.chat.named_files import with_named_files
from services.gateway.http.chat.past_answers import with_past_answers
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.spoken_answer import SpokenAnswer
from services.gateway.http.chat.structure.translate import AskedForm, asked_form
from services.gateway.http.chat.translate import sampling_from, speech_from, with_video_flags
from services.gateway.http.chat.whole_completion import WholeChoice, whole_completion
from services.gateway.http.chat.wire import ChatWire, ChoiceWriter
from services.gateway.http.choices import ChoiceEvents, are_billed
from services.gateway.http.presets.presets import with_preset
from services.gateway.http.presets.routes import PARAM, RoutePreset
from services.gateway.http.request import memory_of, timeout_of, trace_of
from services.gateway.http.respond import read_body, require_json, while_connected
from services.gateway.http.streams import StreamForm, name_field, stream_turns
from services.gateway.inline_media import RequestFiles
from services.gateway.kept.answers import KeptAnswers
from services.gateway.limits import RequestLimits, check_text_bytes
from services.gateway.memory import GatewayMemory, RequestMemory
from services.gateway.turn.admission import Admission
from services.gateway.turn.events import Speech, SpeechStarted, Text, TurnDone, TurnEvent
from services.gateway.turn.intent import Intent, Principal
from services.gateway.turn.turn import Turn


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and the form of its answer. The form lacks the model, which the admission finds."""

    intent: Intent
    form: CompletionForm
    stream: bool


class ChatCompletions:
    """The endpoint as an ASGI application."""

    def __init__(
        self,
        admission: Admission,
        limits: RequestLimits,
        memory: GatewayMemory,
        encoding: Encoding,
        answers: KeptAnswers,
        files: RequestFiles,
        wire: ChatWire,
        preset: RoutePreset,
    ) -> None:
        self._preset = preset
        self._files = files
        self._wire = wire
        self._admission = admission
        self._answers = answers
        self._encoding = encoding
        self._limits = limits
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        with trace_of(scope):
            async with memory_of(scope, self._memory) as memory:
                asked = await self._read(principal, scope, receive, memory)
                await while_connected(receive, self._answer(principal, asked, memory, send), f"chat {asked.form.id}")

    async def _read(self, principal: Principal, scope: Scope, receive: Receive, memory: RequestMemory) -> _Asked:
        """Return the request, decoded: the body and its base64 are freed."""
        arrived_s, limits = time.monotonic(), self._limits
        require_json(scope)
        timeout_s = timeout_of(scope)
        body = await read_body(scope, receive, limits, memory)
        wire = self._wire
        read = await wire.read(scope, body, limits)
        del body
        parsed, request_id = read.parsed, str(scope["state"]["request_id"])
        chat = parsed.chat
        asked = await self._asked_form(chat)
        messages = await with_past_answers(
            parsed.messages, chat, self._answers, principal.tenant, limits.max_text_bytes
        )
        if parsed.inline.named_files:
            messages = with_video_flags(
                await with_named_files(messages, parsed.inline, self._files, principal.tenant, limits.max_text_bytes),
                chat,
            )
        if chat.antiphon_preset is not None:
            messages = with_preset(messages, chat.antiphon_preset.asked, wire.field(PARAM))
        elif PARAM not in chat.model_fields_set:
            messages = await self._preset.added(messages, principal, chat.model)
        check_text_bytes(messages, limits.max_text_bytes, asked.tools)
        choices = chat.n or 1
        if choices > limits.max_choices:
            param = wire.field("n")
            raise BadInput(f"Invalid '{param}': this server gives at most {limits.max_choices} choices.", param=param)
        thinking, thinks = next(iter(chat.thinking.items()), ("", None))
        audio_format = chat.audio.file_format if chat.audio else "wav"
        inline = await memory.keep(
            messages,
            await self._files.files(principal.tenant, parsed.inline),
            asked.tools,
            later_bytes=encoder_bytes(audio_format) if chat.wants_speech else 0,
        )
        intent = Intent(
            names=replace(wire.names, thinking=wire.field(thinking)) if thinking else wire.names,
            arrived_s=arrived_s,
            messages=messages,
            inline=inline,
            model=chat.model,
            use_audio_in_video=chat.wants_audio_in_video,
            sampling=sampling_from(chat),
            speech=speech_from(chat),
            tools=asked.tools,
            structure=asked.structure,
            thinks=thinks,
            drops_oldest=chat.truncation == "auto",
            affinity=chat.prompt_cache_key or "",
            timeout_s=timeout_s,
            request_id=request_id,
        )
        form = CompletionForm(
            id=wire.answer_id(request_id),
            created_unix_s=int(time.time()),
            model="",
            speech=chat.wants_speech,
            audio_format=audio_format,
            token_ids=bool(chat.return_token_ids),
            usage_chunk=read.usage_chunk,
            logprobs=bool(chat.logprobs),
            tool_names=asked.tool_names,
            choices=choices,
            text_in_content=read.text_in_content,
            text_alone=read.text_alone,
            incremental=read.incremental,
        )
        return _Asked(intent, form, read.stream)

    async def _asked_form(self, chat: ChatRequest) -> AskedForm:
        """Return the form of the answer; off the event loop where there are schemas to check."""
        if chat.tools or chat.response_format or chat.structured_outputs:
            return await asyncio.to_thread(asked_form, chat, self._wire.form_names)
        return AskedForm()

    async def _answer(self, principal: Principal, asked: _Asked, memory: RequestMemory, send: Send) -> None:
        audio_format = asked.form.audio_format if asked.form.speech else ""
        self._admission.check_choices(principal, asked.form.choices)
        spoken = SpokenAnswer(self._answers, principal.tenant, asked.form.audio_id)
        try:
            async with AsyncExitStack() as stack:
                field = self._wire.field("audio.format")
                await stack.enter_async_context(self._encoding.room(audio_format, memory, param=field))
                turns = [
                    await stack.enter_async_context(self._admission.admit(principal, intent))
                    for intent in _intents(asked.intent, asked.form.choices)
                ]
                form = replace(asked.form, model=turns[0].model.name)
                if asked.stream:
                    chunks = _Chunks(self._wire, form, self._encoding, spoken)
                    await stream_turns(turns, chunks, send, self._limits.keep_alive_s)
                else:
                    await self._send_whole(turns, form, spoken, send)
        finally:
            await spoken.close()  # once the turns' slots are free

    async def _send_whole(self, turns: Sequence[Turn], form: CompletionForm, spoken: SpokenAnswer, send: Send) -> None:
        for turn in turns:
            turn.answers_whole = True
        events = ChoiceEvents(turns)
        choices = [WholeChoice(form, spoken.until, index=index) for index in range(len(turns))]
        try:
            while (taken := await events.take()) is not None:
                for index, of_choice in taken:
                    spoken.record(of_choice)
                    await self._add(choices[index], form, of_choice)
            if form.speech:
                await spoken.complete(choices[0].content)
            completion = await self._completion(choices, form, turns[0].model.sample_rate)
        except AntiphonError as error:
            name_field(error, turns[0])
            body = self._wire.error_body(error, form.id)
            await send_error(send, error, billed=are_billed(turns), headers=turns[0].account.headers, body=body)
            return
        finally:
            await events.close()
            for choice in choices:
                choice.close()
        await send_json(send, 200, self._wire.whole(form, completion), turns[0].account.headers)
        for turn in turns:
            turn.sent_all()

    async def _add(self, choice: WholeChoice, form: CompletionForm, events: Sequence[TurnEvent]) -> None:
        def add() -> None:
            for event in events:
                choice.add(event)

        if _take_time(form, events):
            await self._encoding.run(add)
        else:
            add()

    async def _completion(
        self, choices: Sequence[WholeChoice], form: CompletionForm, sample_rate: int
    ) -> dict[str, Any]:
        if form.is_encoded:
            return await self._encoding.run(lambda: whole_completion(form, choices, sample_rate))
        return whole_completion(form, choices, sample_rate)


class _Chunks(StreamForm):
    def __init__(self, wire: ChatWire, form: CompletionForm, encoding: Encoding, spoken: SpokenAnswer) -> None:
        self._wire = wire
        self._form = form
        self._encoding = encoding
        self._spoken = spoken
        self._is_encoded = form.is_encoded
        self._writer = wire.stream(form, spoken.until)
        self.end = self._writer.end

    def failed(self, error: AntiphonError) -> bytes:
        return self._writer.failed(error)

    def error_body(self, error: AntiphonError) -> bytes:
        return self._wire.error_body(error, self._form.id)

    async def encoded(self, events: Sequence[TurnEvent], choice: int) -> bytes:
        chunks = self._writer.choices[choice]
        if not self._form.speech:
            return _encode(events, chunks)
        self._spoken.record(events)
        is_done = bool(events) and isinstance(events[-1], TurnDone)
        before = events[:-1] if is_done else events
        body = await self._encoded(before, chunks) if self._is_encoded else _encode(before, chunks)
        if is_done:
            body += chunks.end_text()
            await self._spoken.complete(chunks.transcript)  # the last chunks tell until when
            return body + await self._encoded(events[-1:], chunks)
        for event in events:
            if isinstance(event, Text) and event.is_last:
                self._spoken.begin_to_keep(chunks.transcript)
                break
        return body

    async def _encoded(self, events: Sequence[TurnEvent], chunks: ChoiceWriter) -> bytes:
        if _take_time(self._form, events):
            return await self._encoding.run(lambda: _encode(events, chunks))
        return _encode(events, chunks)

    def close(self) -> None:
        for chunks in self._writer.choices:
            if chunks.has_begun:
                self._spoken.broke_off(chunks.transcript)
            chunks.close()


def _encode(events: Sequence[TurnEvent], chunks: ChoiceWriter) -> bytes:
    if len(events) == 1:
        return chunks.encoded(events[0])
    return b"".join(map(chunks.encoded, events))


def _intents(intent: Intent, choices: int) -> list[Intent]:
    """Return an intent for each choice. Each has a seed of its own: the request's, and those that follow it."""
    seed = intent.sampling.seed
    return [
        intent
        if index == 0
        else replace(
            intent,
            request_id=f"{intent.request_id}-{index}",
            sampling=replace(intent.sampling, seed=_following(seed, index) if seed is not None else None),
        )
        for index in range(choices)
    ]


def _following(seed: int, index: int) -> int:
    """Return the seed, as a signed number of 64 bits."""
    return (seed + index + 2**63) % 2**64 - 2**63


def _take_time(form: CompletionForm, events: Sequence[TurnEvent]) -> bool:
    """Return whether the events keep an encoder busy for longer than the event loop should stand still."""
    return form.is_encoded and any(isinstance(event, SpeechStarted | Speech | TurnDone) for event in events)
